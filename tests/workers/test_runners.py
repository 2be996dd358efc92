import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.contract.running import JobRunner, Work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.runner import FolderWork, RunnerSuite
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner


class TestLoopRunner(RunnerSuite):
    @pytest.fixture(params=[1, 3])
    def runner(self, request: pytest.FixtureRequest) -> JobRunner:
        return LoopRunner(request.param)


class TestProcessRunner(RunnerSuite):
    patience = PATIENCE

    @pytest.fixture
    def runner(self, tmp_path: Path) -> JobRunner:
        return ProcessRunner(tmp_path / "state", Settings(worker_processes=2))


class _Impatient(RunnerSuite):
    patience = 0.4


class _Idle(LoopRunner):
    """Runs nothing."""

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:  # noqa: ARG002
        yield


class _Once(LoopRunner):
    """Does one piece for each wake, and never looks by itself."""

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        self._bell = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve_once, work)
            yield
            group.cancel_scope.cancel()

    async def _serve_once(self, work: Work) -> None:
        while True:
            await self._bell.wait()
            self._bell = anyio.Event()
            await work.step("worker")

    def wake(self) -> None:
        if hasattr(self, "_bell"):
            self._bell.set()


class _Clinging(LoopRunner):
    """Goes on after it was left."""

    _left: Work | None = None

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        async with super().running(work):
            yield
        self._left = work

    def wake(self) -> None:
        super().wake()
        if self._left is not None:
            self._late = asyncio.ensure_future(self._left.step("worker"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broken", "test", "promise"),
    [
        (_Idle, RunnerSuite.test_a_woken_runner_runs_the_work, "a woken runner must run the work"),
        (_Idle, RunnerSuite.test_work_that_was_there_before_is_run, "was there before"),
        (_Once, RunnerSuite.test_all_work_is_run_after_one_wake, "one wake must do"),
        (_Once, RunnerSuite.test_work_that_was_there_before_is_run, "was there before"),
        (_Clinging, RunnerSuite.test_leaving_stops_it, "after its context was left"),
    ],
)
async def test_a_broken_runner_fails_with_the_promise_that_it_breaks(
    broken: Callable[[], JobRunner], test: Callable[..., object], promise: str, tmp_path: Path
) -> None:
    failures: list[BaseException] = []
    try:
        await test(_Impatient(), broken(), FolderWork(str(tmp_path / "work")))  # type: ignore[misc]
    except* AssertionError as group:
        failures.extend(group.exceptions)
    assert len(failures) == 1
    assert promise in str(failures[0])
