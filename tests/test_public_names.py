"""The names that hosts import stay what they are."""

import subprocess
import sys

import fhir_bulk_middleware


def test_every_public_name_can_be_imported_and_no_other() -> None:
    assert {name for name in fhir_bulk_middleware.__all__ if getattr(fhir_bulk_middleware, name) is None} == set()
    assert not hasattr(fhir_bulk_middleware, "nothing")


def test_importing_the_package_needs_no_extra_and_little_else() -> None:
    script = (
        "import sys; extras = 'isal msgspec uvicorn rich httpx2 fhirpathpy uvloop pytest';"
        "sys.modules |= dict.fromkeys(extras.split());"
        "import fhir_bulk_middleware as f; [getattr(f, name) for name in f.__all__]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
