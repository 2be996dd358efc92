"""What the README and the pages say is so."""

import ast
import importlib.util
import json
import re
import sqlite3
import tomllib
from pathlib import Path
from types import ModuleType

import httpx2
import pages
import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.demo.client import BulkClient
from fhir_bulk_middleware.demo.manifest_reading import Manifest
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "examples"
PAGES = [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *EXAMPLES.glob("**/*.md"), *ROOT.glob(".github/**/*.md")]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
CI = (ROOT / ".ci" / "run").read_text().splitlines()
_RELATIVE = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- What is derived, and what must exist ---


@pytest.mark.parametrize("page", pages.TABLES)
def test_derived_tables_are_those_of_the_code(page: str) -> None:
    assert (ROOT / page).read_text() == pages.renewed(page), "run `python tests/support/pages.py`"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    found = [(ROOT / page).parent / link for link in _RELATIVE.findall((ROOT / page).read_text())]
    assert [link for link in found if not link.exists()] == []


def test_the_readme_lists_every_page() -> None:
    listed = set(_RELATIVE.findall(README.partition("## Documentation")[2]))
    assert {str(page) for page in PAGES if page.parts[0] == "examples"} <= listed


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_modules_that_the_guide_for_contributors_names_exist() -> None:
    named = re.findall(r"`((?!tests/)[a-z_]+/[a-z_/]*(?:\.py)?)`", CONTRIBUTING)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "fhir_bulk_middleware" / name).exists()] == []


def test_every_extra_exists() -> None:
    named = set(re.findall(r"'\.\[(\w+)\]'", README)) | set(re.findall(r"^\| `(\w+)` \| (?!/)", README, re.MULTILINE))
    assert {"demo", "dev", "fast", "testing"} <= named <= set(PROJECT["optional-dependencies"])


def test_every_command_is_described_and_none_beside(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    page = (EXAMPLES / "command-line.md").read_text()
    assert re.findall(r"^\| `fhir-bulk (\w+)[^`]*`", page, re.MULTILINE) == commands


# --- The examples ---


@pytest.mark.parametrize(("page", "name"), [("README.md", "mount"), ("examples/adapters.md", "minimal_host")])
def test_the_example_on_the_page_is_the_file_that_is_tested(page: str, name: str) -> None:
    assert f"```python\n{(EXAMPLES / f'{name}.py').read_text()}```\n" in (ROOT / page).read_text()


def test_python_on_the_pages_can_be_parsed() -> None:
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)]
    assert len(blocks) > 5
    for block in blocks:
        ast.parse(block.replace(", ...)", ", **_)").replace("(..., ", "(**_, "))


@pytest.mark.anyio
async def test_the_mount_exports_what_is_in_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    (tmp_path / "keys.json").write_text(json.dumps(mint.jwks))
    monkeypatch.chdir(tmp_path)
    lines = list(population(patients=2))
    store = SQLiteResourceStore(Path("state", "store.db"))
    store.load(lines)
    store.close()

    types = {json.loads(line)["resourceType"] for line in lines}
    assert await exported(example("mount").app, mint, tmp_path / "home") == len(types)


@pytest.mark.anyio
async def test_the_minimal_host_exports_its_table_and_keeps_its_own_route(tmp_path: Path) -> None:
    resource = json.dumps({"resourceType": "Patient", "id": "a"}, separators=(",", ":"))
    with sqlite3.connect(tmp_path / "warehouse.db") as database:
        database.execute("CREATE TABLE patient (id TEXT PRIMARY KEY, updated INTEGER, json TEXT)")
        database.execute("INSERT INTO patient VALUES ('a', ?, ?)", (system_clock() - 60_000_000, resource))
    database.close()
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    app = example("minimal_host").host(tmp_path, verifier)

    assert await exported(app, mint, tmp_path / "home") == 1
    (file,) = (tmp_path / "home").iterdir()
    assert file.read_text() == f"{resource}\n"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr") as http:
        assert (await http.get("/fhir/metadata")).status_code == 200


async def exported(app: object, mint: TokenMint, home: Path) -> int:
    """How many files a client gets that exports everything; each is as the manifest says."""
    async with (
        app.router.lifespan_context(app),  # type: ignore[attr-defined]  # Starlette's
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr") as http,  # type: ignore[arg-type]  # ASGI
    ):
        client = BulkClient(http, lambda: mint.token("me", "system/*.rs"))
        *_, manifest = [answer async for answer in client.wait(await client.kick_off("/fhir/$export"))]
        assert isinstance(manifest, Manifest)
        files = await client.fetch(manifest, home)
    assert [file.problems for file in files if file.problems] == []
    return len(files)


# --- What is packaged and what is checked ---


def test_links_of_the_packaged_readme_lead_to_the_repository() -> None:
    packaged = ProjectMetadata(str(ROOT), PluginManager()).core.readme
    repository = PROJECT["urls"]["Repository"]

    assert _RELATIVE.findall(packaged) == []
    assert packaged.count(f"]({repository}/blob/main/") == len(_RELATIVE.findall(README)) - 1
    assert packaged.count("](https://raw.githubusercontent.com/") == 1, "the picture"


def test_the_command_of_the_readme_is_what_all_checks_run() -> None:
    (command,) = re.findall(r"^    (python3 -m venv .*pytest.*)$", README, re.MULTILINE)
    assert command in CI


def test_pre_commit_hooks_run_commands_of_all_checks() -> None:
    hooks = re.findall(r"^ *entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert len(hooks) == 3
    assert [hook for hook in hooks if hook not in CI] == []
