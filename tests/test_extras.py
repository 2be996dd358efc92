"""Without an extra, whatever needs it says which one to install; everything else works."""

import json
import subprocess
import sys

import pytest

EXTRAS = {
    "metrics": ["prometheus_client"],
    "objectstore": ["obstore"],
    "postgres": ["psycopg"],
    "procrastinate": ["procrastinate"],
    "sqlalchemy": ["sqlalchemy"],
    "testing": ["pytest", "_pytest"],
    "tracing": ["opentelemetry"],
    "demo": ["httpx2", "uvicorn"],
    "cli": ["rich"],
    "fast": ["isal", "msgspec", "uvloop"],
}
NEEDS = {
    "metrics": {"observers.metrics", "observers.figure_files"},
    "objectstore": {"stores.objects"},
    "postgres": {"dispatch", "stores.postgres"},
    "procrastinate": {"dispatch"},
    "sqlalchemy": {"tables"},
    "demo": {"demo.client", "demo.journey"},
    "cli": {"cli.jobs_bars", "demo.rich_screen"},
    "fast": set[str](),
    "tracing": set[str](),
}

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.modules |= dict.fromkeys(sys.argv[1:])
import fhir_bulk_middleware
failed = {}
for module in pkgutil.walk_packages(fhir_bulk_middleware.__path__, "fhir_bulk_middleware."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name.removeprefix("fhir_bulk_middleware.")] = str(error)
print(json.dumps(failed))
"""


@pytest.mark.long
@pytest.mark.parametrize("extra", EXTRAS)
def test_without_an_extra_only_what_needs_it_is_missing_and_names_it(extra: str) -> None:
    run = subprocess.run([sys.executable, "-c", _IMPORT_ALL, *EXTRAS[extra]], capture_output=True, text=True, check=True)
    failed: dict[str, str] = json.loads(run.stdout)
    assert {name: said for name, said in failed.items() if f"fhir-bulk-middleware[{extra}]" not in said} == {}
    if extra in NEEDS:
        assert set(failed) == NEEDS[extra]
    else:  # the kit: all of its suites, and not the tokens
        assert "testing.resource_store" in failed
        assert "testing.tokens" not in failed
        assert all(name.startswith("testing.") or name == "checks.items" for name in failed)
