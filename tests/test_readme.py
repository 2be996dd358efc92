"""What the README and the pages say is so."""

import importlib.util
import json
import re
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


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "mount"), ("examples/adapters.md", "smallest/server"), ("examples/conformance-kit.md", "smallest/test_kit")],
)
def test_the_example_on_the_page_is_the_file_that_is_tested(page: str, name: str) -> None:
    assert f"```python\n{(EXAMPLES / f'{name}.py').read_text()}```\n" in (ROOT / page).read_text()


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
