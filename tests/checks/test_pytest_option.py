"""`pytest --fhir-bulk-adapter` runs each check as a test beside the project's own."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from broken_adapters import fill
from waiting import PATIENCE

from fhir_bulk_middleware.checks.report import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ("-p", "fhir_bulk_middleware.checks.plugin")
FACTORIES = """
from functools import partial
from broken_clinics import ForgetsThePerformer
from clinic import Clinic
sound = partial(Clinic, {path!r})
broken = partial(ForgetsThePerformer, {path!r})
def none():
    raise OSError("no such database")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a test of its own."""
    fill(tmp_path / "clinic.db")
    (tmp_path / "factories.py").write_text(FACTORIES.format(path=str(tmp_path / "clinic.db")))
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def run_pytest(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/stores", project)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins take seconds
    command = [sys.executable, "-m", "pytest", "-rfs", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_each_check_is_a_test_beside_the_projects_own(project: Path) -> None:
    ran = run_pytest(project, *PLUGIN, "--fhir-bulk-adapter", "factories:sound")

    assert ran.returncode == 0, ran.stdout
    counted = re.search(r"(\d+) passed, (\d+) skipped", ran.stdout)
    assert counted is not None, ran.stdout
    assert int(counted[1]) + int(counted[2]) == len(CHECKS) + 1
    assert "The adapter does not implement SupportsSlices" in ran.stdout, "a skipped test says why"


def test_a_fault_fails_its_test_with_its_sentence(project: Path) -> None:
    ran = run_pytest(project, *PLUGIN, "--fhir-bulk-adapter", "factories:broken", "-k", "compartments or test_own")

    assert ran.returncode == 1
    assert "1 failed, 1 passed" in ran.stdout
    assert "Observation.performer alone does not put a resource into the compartment" in ran.stdout
    assert "Traceback" not in ran.stdout


def test_a_factory_that_makes_no_adapter_fails(project: Path) -> None:
    ran = run_pytest(project, *PLUGIN, "--fhir-bulk-adapter", "factories:none", "-k", "methods")

    assert ran.returncode == 1
    assert "--fhir-bulk-adapter: factories:none: OSError: no such database" in ran.stdout


def test_nothing_is_imported_unless_it_is_asked_for(project: Path) -> None:
    (project / "test_own.py").write_text(
        "import sys\n"
        "def test_own():\n"
        "    ours = {name for name in sys.modules if name.startswith('fhir_bulk_middleware')}\n"
        "    assert ours == {'fhir_bulk_middleware', 'fhir_bulk_middleware.checks', 'fhir_bulk_middleware.checks.plugin'}\n"
    )
    ran = run_pytest(project, *PLUGIN)

    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_pytest_does_not_load_it_by_itself() -> None:
    """With an entry point, pytest would rewrite every module of ours in every test run of whoever has us installed."""
    assert [found.value for found in entry_points(group="pytest11") if "fhir_bulk" in found.value] == []
