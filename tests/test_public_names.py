"""The names that hosts import stay what they are."""

import pydoc
import subprocess
import sys
from importlib import metadata

import pytest

import fhir_bulk_middleware
from fhir_bulk_middleware import cli
from fhir_bulk_middleware.contract import access, deletes, job_record, job_store, observer, output_store, query, running, storage

CONTRACT = (access, deletes, job_record, job_store, observer, output_store, query, running, storage)


def test_every_public_name_can_be_imported_and_no_other() -> None:
    assert {name for name in fhir_bulk_middleware.__all__ if getattr(fhir_bulk_middleware, name) is None} == set()
    assert dir(fhir_bulk_middleware) == sorted(fhir_bulk_middleware.__all__)
    with pytest.raises(AttributeError, match=r"'nothing'; the public names are in dir"):
        _ = fhir_bulk_middleware.nothing


def test_an_author_of_an_adapter_needs_no_other_module() -> None:
    needed = {name for room in CONTRACT for name in room.__all__ if name[0].isupper()}
    assert needed <= set(fhir_bulk_middleware.__all__)


def test_help_shows_dialects_and_policies_by_name() -> None:
    signature = pydoc.plain(pydoc.render_doc(fhir_bulk_middleware.BulkData)).partition("FHIR Bulk Data export for")[0]
    assert "<Dialect standard>" in signature
    assert len(signature) < 2_500


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert fhir_bulk_middleware.__version__ == metadata.version("fhir-bulk-middleware")
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fhir-bulk {fhir_bulk_middleware.__version__}\n"


def test_importing_the_package_needs_no_extra_and_little_else() -> None:
    script = (
        "import sys; extras = 'isal msgspec uvicorn rich httpx2 fhirpathpy uvloop pytest';"
        "sys.modules |= dict.fromkeys(extras.split());"
        "import fhir_bulk_middleware as f; [getattr(f, name) for name in f.__all__]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
