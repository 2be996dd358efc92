"""The names that hosts import stay what they are."""

import ast
import inspect
import pydoc
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import fhir_bulk_middleware
from fhir_bulk_middleware import cli
from fhir_bulk_middleware.contract import (
    access,
    deletes,
    job_record,
    job_store,
    observer,
    output_store,
    query,
    removal,
    running,
    storage,
)

CONTRACT = (access, deletes, job_record, job_store, observer, output_store, query, removal, running, storage)


def test_every_public_name_can_be_imported_and_no_other() -> None:
    assert {name for name in dir(fhir_bulk_middleware) if getattr(fhir_bulk_middleware, name) is None} == set()
    assert dir(fhir_bulk_middleware) == vars(fhir_bulk_middleware)["__all__"] == sorted(dir(fhir_bulk_middleware))
    with pytest.raises(AttributeError, match=r"'nothing'; the public names are in dir"):
        _ = fhir_bulk_middleware.nothing


def test_type_checkers_see_the_names_that_can_be_imported() -> None:
    tree = ast.parse(Path(fhir_bulk_middleware.__file__).read_text())
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fhir_bulk")
    ]
    seen = {(node.module, name.name) for node in imports for name in node.names if name.name == name.asname}
    table = {
        (f"fhir_bulk_middleware.{module}", name)
        for module, names in fhir_bulk_middleware._MODULES.items()
        for name in names.split()
    }
    assert seen == table


def test_an_author_of_an_adapter_needs_no_other_module() -> None:
    needed = {name for room in CONTRACT for name in room.__all__ if name[0].isupper()}
    assert needed <= set(dir(fhir_bulk_middleware))


def test_help_shows_dialects_and_policies_by_name() -> None:
    signature = pydoc.plain(pydoc.render_doc(fhir_bulk_middleware.BulkData)).partition("FHIR Bulk Data export, and")[0]
    assert "<Dialect standard>" in signature
    assert len(signature) < 2_500


def test_help_names_what_we_ship_for_each_argument() -> None:
    text = inspect.getdoc(fhir_bulk_middleware.BulkData) or ""
    assert "bulk.install(app" in text
    tables = fhir_bulk_middleware.Dialect, fhir_bulk_middleware.DeletePolicy
    shipped = {name for name in dir(fhir_bulk_middleware) if isinstance(getattr(fhir_bulk_middleware, name), tables)}
    shipped |= {name for name in dir(fhir_bulk_middleware) if name.startswith(("Memory", "SQLite", "File", "Jose", "Audit"))}
    assert {name for name in shipped - {"Audit"} if f"`{name}`" not in text} == set()


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert fhir_bulk_middleware.__version__ == metadata.version("fhir-bulk-middleware")
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fhir-bulk {fhir_bulk_middleware.__version__}\n"


def test_importing_the_package_needs_no_extra_and_little_else() -> None:
    script = (
        "import sys; extras = 'isal msgspec uvicorn rich httpx2 uvloop pytest';"
        "sys.modules |= dict.fromkeys(extras.split());"
        "import fhir_bulk_middleware as f; [getattr(f, name) for name in f.__all__]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
