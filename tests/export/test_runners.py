from pathlib import Path

import pytest

from fhir_bulk_middleware.export.runner import LoopRunner, ProcessRunner
from fhir_bulk_middleware.protocols import JobRunner
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.runner import RunnerSuite


class TestLoopRunner(RunnerSuite):
    @pytest.fixture(params=[1, 3])
    def runner(self, request: pytest.FixtureRequest) -> JobRunner:
        return LoopRunner(request.param)


class TestProcessRunner(RunnerSuite):
    @pytest.fixture
    def runner(self, tmp_path: Path) -> JobRunner:
        return ProcessRunner(tmp_path / "state", Settings(worker_processes=2))
