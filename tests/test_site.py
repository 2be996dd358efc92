"""The documentation site is assembled from the pages of the repository, completely, and each of its links leads somewhere."""

import posixpath
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_program import ASSEMBLE
from waiting import PATIENCE

import fhir_bulk_middleware

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_NAMED = re.compile(r"`\]\[([\w.]+)\]")
UNKNOWN = f"KO-{99}"
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Zensical would read."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, ROOT / ".site" / "assemble.py", target], check=True, timeout=PATIENCE)
    return target


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[str, str]:
    """The texts of its pages without code, by path."""
    texts = {path.relative_to(built / "pages").as_posix(): path.read_text() for path in (built / "pages").rglob("*.md")}
    return {path: "".join(piece for code, piece in ASSEMBLE.blocks(text) if not code) for path, text in texts.items()}


def anchors(text: str) -> set[str]:
    """What a link to a page can name: its headings, as Markdown makes identifiers, and what the page marks."""
    headings = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading)).strip().lower() for heading in _HEADING.findall(text))
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def links(pages: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each link of the site to itself: its page and its target."""
    for path, text in pages.items():
        for target in _LINK.findall(text):
            if not re.match(r"https?:|mailto:", target):
                yield path, target


def test_links_of_the_site_lead_to_its_pages_and_headings(built: Path, pages: dict[str, str]) -> None:
    found = list(links(pages))
    assert len(found) > 80
    dead = []
    for path, link in found:
        target, _, anchor = link.partition("#")
        to = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
        if not (built / "pages" / to).is_file() or (anchor and anchor not in anchors(pages[to])):
            dead.append((path, link))
    assert dead == []


def test_links_to_the_repository_lead_to_files_that_exist(pages: dict[str, str]) -> None:
    repository = tomllib.loads((ROOT / ".site" / "zensical.toml").read_text())["project"]["repo_url"]
    found = [
        link for text in pages.values() for link in re.findall(rf"\]\({re.escape(repository)}/(?:blob|tree)/main/([^)#]+)", text)
    ]
    assert len(found) > 30
    assert [link for link in found if not (ROOT / link).exists()] == []


def test_each_page_that_the_readme_lists_stands_in_one_section() -> None:
    contents = ASSEMBLE.Contents()
    placed = [page for _, listed in contents.sections for page in listed]
    assert sorted(placed) == sorted({*placed}), "a page stands in one section"
    assert sorted({*contents.descriptions} - {*placed}) == [], "add these pages to a section of .site/contents.toml"


def test_the_reference_shows_each_public_name_once(built: Path) -> None:
    shown = [
        name
        for page in (built / "pages" / "reference").glob("*.md")
        for name in re.findall(r"^::: fhir_bulk_middleware\.([\w.]+)$", page.read_text(), re.MULTILINE)
    ]
    public = {f"{module}.{name}" for module, names in fhir_bulk_middleware._MODULES.items() for name in names.split()}
    assert sorted(public - {*shown}) == [], "add the modules of these names to a page of .site/contents.toml"
    assert len(shown) == len({*shown})


def test_names_on_pages_lead_to_the_reference(built: Path, pages: dict[str, str]) -> None:
    shown = "".join(page.read_text() for page in (built / "pages" / "reference").glob("*.md"))
    named = {name for text in pages.values() for name in _NAMED.findall(text)}
    assert len(named) > 40
    assert [name for name in named if f"::: {name}\n" not in shown] == []


def test_llms_txt_has_the_form_that_llmstxt_org_describes(built: Path) -> None:
    """One heading, a quotation that says what this is, then sections that are lists of links with a line about each."""
    heading, _, quotation, *rest = (built / "pages" / "llms.txt").read_text().splitlines()
    address = tomllib.loads((ROOT / ".site" / "zensical.toml").read_text())["project"]["site_url"]
    assert heading == "# fhir_bulk_middleware"
    assert re.fullmatch(r"> Adds FHIR Bulk Data export, .+\.", quotation)
    assert [line for line in rest if line and not re.fullmatch(rf"## .+|- \[.+\]\({re.escape(address)}\S+\): \S.+", line)] == []
    targets = [line.partition("](")[2].partition(")")[0].removeprefix(address) for line in rest if line.startswith("- ")]
    there = {path.relative_to(built / "pages").as_posix() for path in (built / "pages").rglob("*.md")}
    assert {target if target.endswith(".md") else f"{target.rstrip('/')}.md" for target in targets} == there


def test_the_configuration_names_the_pages_and_no_others(built: Path) -> None:
    project: dict[str, Any] = tomllib.loads((built / "zensical.toml").read_text())["project"]
    named = [path for section in project["nav"] for pages in section.values() for page in pages for path in page.values()]
    assert sorted(named) == sorted(path.relative_to(built / "pages").as_posix() for path in (built / "pages").rglob("*.md"))


def test_a_page_with_a_link_that_leads_to_nothing_is_refused(tmp_path: Path) -> None:
    for page, text in {"README.md": "# A\n\n[b](examples/b.md)\n", "fhir_bulk_middleware/__init__.py": "_MODULES = {}\n"}.items():
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(text)
    with pytest.raises(SystemExit, match=r"README\.md: the link examples/b\.md leads to nothing"):
        ASSEMBLE.assembled("README.md", ASSEMBLE.Contents(tmp_path), "https://example.org", None)


def test_what_is_built_is_searched_for_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/#here">a</a> <a href="a/#there">b</a> <a href="c/">c</a> <img src="d.svg">')
    (tmp_path / "a" / "index.html").write_text('<p id="here"><a href="..">home</a> <a href="https://example.org/x">out</a></p>')
    assert ASSEMBLE.broken(tmp_path, "https://site.example/") == ["index.html: a/#there", "index.html: c/", "index.html: d.svg"]


def test_citations_of_laws_and_requirements_become_links_to_their_rows(tmp_path: Path) -> None:
    for page, ids in {"laws": ["3", "6", "18"], "requirements": ["KO-73"]}.items():
        (tmp_path / page).mkdir()
        (tmp_path / page / "index.html").write_text("".join(f'<td><a id="{id_}"></a></td>' for id_ in ids))
    (tmp_path / "page").mkdir()
    text = f"<article><p>As laws 3 and 18 say (KO-73, {UNKNOWN}); <code>law 6</code> and 6.</p></article> law 3"
    (tmp_path / "page" / "index.html").write_text(text)
    ASSEMBLE.cite(tmp_path)
    link = '<a href="../{0}/#{1}">{1}</a>'.format
    cited = f"As laws {link('laws', 3)} and {link('laws', 18)} say ({link('requirements', 'KO-73')}, {UNKNOWN});"
    assert (tmp_path / "page" / "index.html").read_text() == text.replace(f"As laws 3 and 18 say (KO-73, {UNKNOWN});", cited)
