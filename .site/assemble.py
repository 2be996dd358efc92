"""Assembles the pages of the site from the pages of the repository, without changing those.

    python .site/assemble.py FOLDER            writes FOLDER/pages, FOLDER/zensical.toml and FOLDER/pages/llms.txt
    python .site/assemble.py --finish FOLDER   completes the site that Zensical built in FOLDER/site: citations of laws and
                                               requirements become links, the pages stand beside it as Markdown; prints
                                               links that lead nowhere

`contents.toml` lists the pages and the modules of the reference. A page keeps its text. Its links are rewritten: to other pages
of the site, to pictures, which are copied, and to the repository for everything else. The first time that a page names something
public, the name becomes a link to the reference. The program needs the standard library only; `.ci/site` runs it and Zensical.
"""

import ast
import html.parser
import os
import posixpath
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = "fhir_bulk_middleware"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|mailto:)([^)\s]+)\)")
_FENCE = re.compile(r" {0,3}```")
_INLINE = re.compile(r"(`[^`\n]+`|!?\[[^\]\n]*\]\([^)\n]*\))")
_MARKUP = re.compile(r"(<(?:a|code|pre|h[1-6])\b.*?</(?:a|code|pre|h[1-6])>|<[^>]*>)", re.DOTALL)
_PICTURES = (".svg", ".png")
CITED = ("tests/requirements/laws.md", "tests/requirements/requirements.md")
"""The pages whose rows docstrings and pages cite by number or id."""
_ROW = re.compile(r"^\| ([A-Z]{2}-\d+|\d+) \|", re.MULTILINE)
_CITATION = re.compile(r"\blaws? \d+(?:(?:, | and )\d+)*|\b[A-Z]{2}-\d+\b")
_ID = re.compile(r"[A-Z]{2}-\d+|\d+")


@dataclass(frozen=True)
class Contents:
    """What the site contains: `contents.toml`."""

    root: Path = ROOT

    @cached_property
    def listed(self) -> dict[str, list[dict[str, object]]]:
        """The tables of `contents.toml`."""
        return tomllib.loads((HERE / "contents.toml").read_text("utf-8"))

    @cached_property
    def sections(self) -> list[tuple[str, list[str]]]:
        """Titles of sections, each with its pages as paths in the repository."""
        return [(str(each["title"]), list(map(str, each["pages"]))) for each in self.listed["section"]]  # type: ignore[call-overload]  # TOML

    @cached_property
    def places(self) -> dict[str, str]:
        """By the path of a page in the repository, its path on the site."""
        return {page: place(page) for _, pages in self.sections for page in pages}

    @cached_property
    def public(self) -> dict[str, str]:
        """By public name of the package, the module that defines it."""
        tree = ast.parse((self.root / PACKAGE / "__init__.py").read_text("utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULES":
                return {name: module for module, names in ast.literal_eval(node.value).items() for name in names.split()}
        raise LookupError(f"{PACKAGE}/__init__.py has no table _MODULES")

    def names(self, module: str) -> list[str]:
        """The names of a module that the reference shows: those that the package exports, or else its own `__all__`."""
        exported = [name for name, defined in self.public.items() if defined == module]
        if not exported:
            return _all(self.source(module))
        order = _defined(self.source(module))
        return sorted(exported, key=lambda name: (order.index(name) if name in order else len(order), name))

    def source(self, module: str) -> ast.Module:
        """The syntax tree of a module of the package."""
        path = self.root.joinpath(PACKAGE, *module.split("."))
        return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))

    def title(self, page: str) -> str:
        """The heading of a page."""
        return _title((self.root / page).read_text("utf-8"))

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """By page, what the README's table of pages says that it contains."""
        rows = re.findall(r"^\| \[[^\]]+\]\(([^)]+)\) \| (.+) \|$", (self.root / "README.md").read_text("utf-8"), re.MULTILINE)
        return {page: text.replace("`", "") for page, text in rows}

    def about(self, page: str) -> str:
        """One line about a page: what the README says of it, or else its first sentence."""
        return self.descriptions.get(page) or _first_sentence((self.root / page).read_text("utf-8"))


def place(page: str) -> str:
    """Where a page of the repository lies on the site."""
    path = page.removeprefix("examples/").removeprefix(".github/").removeprefix("tests/requirements/")
    if path == "README.md":
        return "index.md"
    folder, _, name = path.rpartition("/")
    return posixpath.join(folder, "index.md") if name == "README.md" else path.lower()


def _all(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _defined(tree: ast.Module) -> list[str]:
    """The names that a module defines or imports, in order."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found.append(ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
    return found


def _title(text: str) -> str:
    return text.splitlines()[0].removeprefix("# ")


def _first_sentence(text: str) -> str:
    paragraph = next(block for block in text.split("\n\n")[1:] if not block.startswith(("#", "|", "```", "    ")))
    return re.split(r"(?<=[.:])\s", " ".join(paragraph.split()))[0].replace("`", "").rstrip(":")


# --- Pages ---


def blocks(text: str) -> Iterator[tuple[bool, str]]:
    """The text in order, divided into prose and code: whether a piece is code, and its lines. Indented code gets a fence."""
    prose: list[str] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fenced = _FENCE.match(lines[at]) is not None
        indented = lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip())
        if not fenced and not indented:
            prose.append(lines[at])
            at += 1
            continue
        yield False, "".join(f"{line}\n" for line in prose)
        prose = []
        end = at + 1
        if fenced:
            while not _FENCE.match(lines[end]):
                end += 1
            yield True, "".join(f"{line}\n" for line in lines[at : end + 1])
            at = end + 1
        else:
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            yield True, "".join(["```sh\n", *(f"{line.removeprefix('    ')}\n" for line in lines[at:end]), "```\n"])
            at = end
    yield False, "".join(f"{line}\n" for line in prose)


def assembled(page: str, contents: Contents, repository: str, pictures: Callable[[Path, str], None]) -> str:
    """The text of a page as the site has it; `pictures` is called with each picture and its path on the site."""
    here = contents.places[page]

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path:
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(path)))
        if not (contents.root / there).exists():
            raise SystemExit(f"{page}: the link {target} leads to nothing")
        if there in contents.places:
            path = posixpath.relpath(contents.places[there], posixpath.dirname(here) or ".")
        elif picture or there.endswith(_PICTURES):
            pictures(contents.root / there, f"pictures/{posixpath.basename(there)}")
            path = posixpath.relpath(f"pictures/{posixpath.basename(there)}", posixpath.dirname(here) or ".")
        else:
            path = f"{repository}/{'tree' if (contents.root / there).is_dir() else 'blob'}/main/{there}"
        return f"{picture}[{label}]({path}{mark}{anchor})"

    linked: set[str] = set()

    def named(match: re.Match[str]) -> str:
        name = match[0].strip("`")
        if name in linked or name not in contents.public or name not in contents.names(contents.public[name]):
            return match[0]
        linked.add(name)
        return f"[{match[0]}][{PACKAGE}.{contents.public[name]}.{name}]"

    pieces = []
    for code, text in blocks((contents.root / page).read_text("utf-8")):
        if not code:
            text = _LINK.sub(link, text)  # noqa: PLW2901 - the same text, with links
            lines = [line if line.startswith("#") else _INLINE.sub(named, line) for line in text.splitlines(keepends=True)]
            text = "".join(lines)  # noqa: PLW2901 - and names
        pieces.append(text)
    return "".join(pieces)


def reference(entry: dict[str, object], contents: Contents) -> str:
    """A page of the reference: for each module what it is about and its names, which mkdocstrings fills in.

    A name that two modules of the page have stands under the later one, which defines it.
    """
    text = [f"# {entry['title']}\n", f"{entry['about']}\n"]
    modules = list(map(str, entry["modules"]))  # type: ignore[call-overload]  # TOML
    for at, module in enumerate(modules):
        later = {name for other in modules[at + 1 :] for name in contents.names(other)}
        names = [name for name in contents.names(module) if name not in later]
        if not names:
            raise SystemExit(f"the module {module} has no public names")
        options = f"      heading_level: {2 if len(names) == 1 else 3}\n" + (
            "" if entry.get("members", True) else "      members: false\n"
        )
        if len(names) > 1:
            text.append(f"## {_about_module(contents.source(module))}\n")
        origin = PACKAGE if contents.public.get(names[0]) == module else f"{PACKAGE}.{module}"
        text.append(f"Import from `{origin}`{':' if len(names) == 1 else '.'}\n")
        text += [f"::: {PACKAGE}.{module}.{name}\n    options:\n{options}" for name in names]
    return "\n".join(text)


def _about_module(tree: ast.Module) -> str:
    return re.split(r"(?<=[.:])\s|, ", " ".join((ast.get_docstring(tree) or "").split()))[0].rstrip(".:")


def navigation(contents: Contents) -> list[dict[str, list[dict[str, str]]]]:
    """The navigation, as Zensical reads it."""
    pages = [
        {title: [{"Overview" if page == "README.md" else contents.title(page): contents.places[page]} for page in listed]}
        for title, listed in contents.sections
    ]
    names = [{str(each["title"]): f"reference/{each['page']}.md"} for each in contents.listed["reference"]]
    return [*pages, {"Reference": names}]


def llms(contents: Contents, address: str) -> str:
    """`llms.txt`: the name, one paragraph, and for each section its pages with a line about each (llmstxt.org)."""
    readme = (contents.root / "README.md").read_text("utf-8")
    lines = [f"# {_title(readme)}", "", f"> {' '.join(readme.split(chr(10) * 2)[1].split())}"]
    for title, pages in contents.sections:
        lines += ["", f"## {title}", ""]
        lines += [f"- [{contents.title(page)}]({address}{contents.places[page]}): {contents.about(page)}" for page in pages]
    lines += ["", "## Reference", ""]
    lines += [
        f"- [{each['title']}]({address}reference/{each['page']}/): {str(each['about']).replace('`', '')}"
        for each in contents.listed["reference"]
    ]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """A value of strings, lists and tables as inline TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def assemble(target: Path, contents: Contents | None = None) -> None:
    """Write the pages, the configuration and `llms.txt` below `target`, which is emptied of older ones."""
    contents = contents or Contents()
    configuration = (HERE / "zensical.toml").read_text("utf-8")
    project = tomllib.loads(configuration)["project"]
    pages = target / "pages"
    shutil.rmtree(pages, ignore_errors=True)

    def write(path: str, text: str) -> None:
        (pages / path).parent.mkdir(parents=True, exist_ok=True)
        (pages / path).write_text(text, "utf-8")

    def picture(source: Path, path: str) -> None:
        (pages / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, pages / path)

    for page, path in contents.places.items():
        text = assembled(page, contents, project["repo_url"], picture)
        write(path, _ROW.sub(r'| <a id="\1"></a>\1 |', text) if page in CITED else text)
    shutil.copyfile(HERE / "site.css", pages / "site.css")
    for each in contents.listed["reference"]:
        write(f"reference/{each['page']}.md", reference(each, contents))
    write("llms.txt", llms(contents, project["site_url"]))
    filled = configuration.replace("\nnav = []\n", f"\nnav = {_toml(navigation(contents))}\n")
    filled = filled.replace('paths = ["."]', f"paths = [{_toml(str(contents.root))}]")
    (target / "zensical.toml").write_text(filled, "utf-8")


# --- The built site ---


def cite(site: Path) -> None:
    """Make each citation of a law or a requirement in the built site a link to its row."""
    rows = {place(page).removesuffix(".md"): _ids((site / place(page)).with_suffix("") / "index.html") for page in CITED}

    def linked(document: Path) -> Callable[[re.Match[str]], str]:
        up = os.path.relpath(site, document.parent)

        def link(match: re.Match[str]) -> str:
            page = next((page for page, ids in rows.items() if match[0] in ids), None)
            return match[0] if page is None else f'<a href="{up}/{page}/#{match[0]}">{match[0]}</a>'

        return lambda citation: _ID.sub(link, citation[0])

    for document in site.rglob("*.html"):
        if document.parent.name in {"laws", "requirements", "proofs", "changelog"}:
            continue  # they are made of ids
        text = document.read_text("utf-8")
        begin, end = text.find("<article"), text.find("</article>")
        if begin < 0:
            continue
        pieces = _MARKUP.split(text[begin:end])
        cited = "".join(piece if at % 2 else _CITATION.sub(linked(document), piece) for at, piece in enumerate(pieces))
        document.write_text(text[:begin] + cited + text[end:], "utf-8")


def _ids(document: Path) -> set[str]:
    return _Document(document.read_text("utf-8")).anchors


class _Document(html.parser.HTMLParser):
    """The links of a document, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links and anchors."""
        for name, value in attrs:
            if value and name == "id":
                self.anchors.add(value)
            elif value and ((tag, name) == ("a", "href") or name == "src" or (tag, name) == ("link", "href")):
                self.links.append(value)


def broken(site: Path, address: str) -> list[str]:
    """The links of a built site that lead to no file, or to no anchor of a document."""
    documents = {path: _Document(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, document in documents.items():
        if path.name == "404.html":
            continue  # its links are absolute, for any depth
        for link in document.links:
            local = link.removeprefix(address) if link.startswith(address) else link
            if re.match(r"[a-z]+:|//", local):
                continue
            target, _, anchor = local.partition("#")
            to = path if not target else Path(os.path.normpath((site if local != link else path.parent) / unquote(target)))
            to = to / "index.html" if to.is_dir() else to
            if not to.exists() or (anchor and to in documents and unquote(anchor) not in documents[to].anchors):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def finish(target: Path) -> list[str]:
    """Complete the built site below `target`, as the module says; the links that lead nowhere."""
    cite(target / "site")
    for page in (target / "pages").rglob("*.md"):
        path = page.relative_to(target / "pages")
        if path.parts[0] != "reference":  # those have text only when they are built
            shutil.copyfile(page, target / "site" / path)
    address = tomllib.loads((HERE / "zensical.toml").read_text("utf-8"))["project"]["site_url"]
    return broken(target / "site", address)


def main(arguments: list[str]) -> int:
    """Assemble, or finish what was built."""
    *options, target = arguments
    if options == ["--finish"]:
        found = finish(Path(target))
        sys.stdout.write("".join(f"{each}\n" for each in found))
        return 1 if found else 0
    assemble(Path(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
