"""What the README says is so."""

import ast
import importlib.util
import json
import re
import sqlite3
import textwrap
from pathlib import Path
from types import ModuleType

import httpx2
import pytest

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.demo.client import BulkClient
from fhir_bulk_middleware.demo.manifest_reading import Manifest
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "examples" / "minimal_host.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_host", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_table() -> str:
    """The settings as a table, from their definition."""
    source = ROOT / "fhir_bulk_middleware" / "settings.py"
    (model,) = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    rows = ["| Name | Default | Meaning |", "| --- | --- | --- |"]
    for field, after in zip(model.body, model.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            name = field.target.id
            default = Settings.model_fields[name].default
            text = " ".join(textwrap.dedent(ast.literal_eval(after.value)).split())
            text = re.sub(r" \((?:law|[A-Z]{2}-)[^)]*\)", "", text)  # ids of requirements are for who reads the code
            shown = "none" if default is None else str(default) if isinstance(default, bool | str) else f"{default:,}"
            rows.append(f"| `{name}` | {shown} | {text} |")
    assert len(rows) == len(Settings.model_fields) + 2
    return "\n".join(rows) + "\n"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert settings_table() in README


@pytest.mark.parametrize(
    "page", ["README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md", ".github/caps.md"]
)
def test_links_lead_to_files_that_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text())
    relative = [link for link in links if "://" not in link]
    assert [link for link in relative if not ((ROOT / page).parent / link).exists()] == []


def test_modules_that_the_guide_for_contributors_names_exist() -> None:
    named = re.findall(r"`((?!tests/)[a-z_]+/[a-z_/]*(?:\.py)?)`", (ROOT / ".github" / "CONTRIBUTING.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "fhir_bulk_middleware" / name).exists()] == []


def test_the_example_is_the_file_that_is_tested() -> None:
    assert f"```python\n{EXAMPLE.read_text()}```\n" in README


@pytest.mark.anyio
async def test_the_example_exports_its_table_and_keeps_its_own_route(tmp_path: Path) -> None:
    resource = json.dumps({"resourceType": "Patient", "id": "a"}, separators=(",", ":"))
    with sqlite3.connect(tmp_path / "warehouse.db") as database:
        database.execute("CREATE TABLE patient (id TEXT PRIMARY KEY, updated INTEGER, json TEXT)")
        database.execute("INSERT INTO patient VALUES ('a', ?, ?)", (system_clock() - 60_000_000, resource))
    database.close()
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    app = example().host(tmp_path, verifier)

    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr") as http,
    ):
        assert (await http.get("/fhir/metadata")).status_code == 200
        client = BulkClient(http, lambda: mint.token("me", "system/*.rs"))
        *_, manifest = [answer async for answer in client.wait(await client.kick_off("/fhir/$export"))]
        assert isinstance(manifest, Manifest)
        (file,) = await client.fetch(manifest, tmp_path / "home")

    assert file.problems == ()
    assert file.path.read_text() == f"{resource}\n"


def test_every_command_is_described_and_none_beside(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert re.findall(r"^\| `fhir-bulk (\w+)[^`]*`", README, re.MULTILINE) == commands


def test_every_extra_exists() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()

    for extra in re.findall(r"'\.\[(\w+)\]'", README):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
