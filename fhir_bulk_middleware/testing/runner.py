"""The promises of a `JobRunner`, as tests.

Subclass `RunnerSuite` with a fixture that makes a runner:

    class TestMyRunner(RunnerSuite):
        @pytest.fixture
        def runner(self, tmp_path):
            return MyRunner(tmp_path / "state")

The work of the tests keeps its state in files, so that it is the same in every process.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from fhir_bulk_middleware.contract.running import JobRunner, Recipe
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["FolderWork", "RunnerSuite"]


class FolderWork:
    """Work in a folder: each file whose name begins with `todo-` is one piece.

    If the rest of the name begins with `raise`, the piece fails; with `hang`, it never ends; else it is done at once. A piece
    that has ended is renamed to `done-`. Each attempt is written to `log`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(exist_ok=True)

    @property
    def adapter(self) -> str:
        """No adapter in particular."""
        return ""

    def recipe(self) -> Recipe:
        """The same folder, in another process."""
        return Recipe(f"{__name__}:FolderWork", {"folder": str(self._folder)})

    async def step(self, worker: str) -> bool:
        """Do one piece."""
        for path in sorted(self._folder.glob("todo-*")):
            name = path.name.removeprefix("todo-")
            taken = path.with_name(f"taken-{name}")
            try:
                path.rename(taken)
            except FileNotFoundError:  # another worker was quicker
                continue
            await self._do(worker, name, taken)
            return True
        return False

    async def backlog(self, at_most: int) -> int:
        """How many pieces wait."""
        return len(list(self._folder.glob("todo-*"))[:at_most])

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """Give back what a worker held."""
        self._log(f"abandoned {worker} {cause}")
        for path in self._folder.glob("taken-*"):
            path.rename(path.with_name(path.name.replace("taken-", "done-")))

    async def give_up(self, cause: str) -> None:
        """Write it down."""
        self._log(f"gave up {cause}")

    async def _do(self, worker: str, name: str, taken: Path) -> None:
        self._log(f"{name} {worker} {os.getpid()}")
        try:
            if name.startswith("raise"):
                raise RuntimeError("this piece of work always fails")
            if name.startswith("hang"):
                await anyio.sleep_forever()
        finally:
            taken.rename(taken.with_name(f"done-{name}"))  # noqa: ASYNC240 - fast enough for a test

    def _log(self, line: str) -> None:
        with (self._folder / "log").open("a") as log:
            log.write(f"{line}\n")

    def add(self, name: str) -> None:
        """Add a piece."""
        (self._folder / f"todo-{name}").touch()

    def began(self, name: str) -> bool:
        """Whether a piece was begun."""
        return any(line.startswith(f"{name} ") for line in self.lines())

    def done(self, name: str) -> bool:
        """Whether a piece is done, or was given up."""
        return (self._folder / f"done-{name}").exists()

    def lines(self) -> list[str]:
        """The log."""
        log = self._folder / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.mark.anyio
class RunnerSuite:
    """The promises of a `JobRunner`; each failure names its promise.

    Attributes:
        patience: seconds to wait for something to happen.
    """

    patience = 20.0

    @pytest.fixture
    def runner(self) -> JobRunner:
        """A runner. Override this."""
        pytest.skip("override the fixture `runner`")

    @pytest.fixture
    def work(self, tmp_path: Path) -> FolderWork:
        """Some work."""
        return FolderWork(str(tmp_path / "work"))

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Asyncio is the supported loop."""
        return "asyncio"

    async def _until(self, condition: Callable[[], bool], promise: str) -> None:
        deadline = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < deadline, promise
            await anyio.sleep(0.003)

    async def test_a_woken_runner_runs_the_work(self, runner: JobRunner, work: FolderWork) -> None:
        """A wake announces new work."""
        async with runner.running(work):
            work.add("one")
            runner.wake()
            await self._until(lambda: work.done("one"), "a woken runner must run the work")

    async def test_work_that_was_there_before_is_run(self, runner: JobRunner, work: FolderWork) -> None:
        """A restart finds the work of the run before."""
        work.add("one")
        async with runner.running(work):
            await self._until(lambda: work.done("one"), "a runner must run work that was there before it")

    async def test_work_that_nobody_told_of_is_found(self, runner: JobRunner, work: FolderWork) -> None:
        """A wake can be missed, and leases run out silently."""
        async with runner.running(work):
            work.add("first")
            await self._until(lambda: work.done("first"), "a runner must run the work")
            work.add("second")
            await self._until(lambda: work.done("second"), "a runner must look for work without being woken")

    async def test_all_work_is_run_after_one_wake(self, runner: JobRunner, work: FolderWork) -> None:
        """A wake may stand for many pieces."""
        async with runner.running(work):
            for number in range(20):
                work.add(f"{number:02}")
            runner.wake()
            await self._until(lambda: all(work.done(f"{number:02}") for number in range(20)), "one wake must do for all work")

    async def test_work_that_raises_does_not_stop_the_runner(self, runner: JobRunner, work: FolderWork) -> None:
        """A fault in one piece is not the next one's."""
        async with runner.running(work):
            work.add("raise")
            runner.wake()
            await self._until(lambda: work.done("raise"), "a runner must run the work")
            work.add("sound")
            runner.wake()
            await self._until(lambda: work.done("sound"), "work that raises must not stop the runner")

    async def test_leaving_stops_it(self, runner: JobRunner, work: FolderWork) -> None:
        """Nothing is begun after the context has closed."""
        async with runner.running(work):
            work.add("one")
            runner.wake()
            await self._until(lambda: work.done("one"), "a runner must run the work")
        work.add("late")
        runner.wake()
        await anyio.sleep(0.3)  # many times longer than a wake takes
        assert not work.began("late"), "a runner must begin nothing after its context was left"

    async def test_leaving_stops_work_in_flight(self, runner: JobRunner, work: FolderWork) -> None:
        """Work that hangs is cancelled, and cleans up."""
        async with runner.running(work):
            work.add("hang")
            runner.wake()
            await self._until(lambda: work.began("hang"), "a runner must run the work")
            begun = time.monotonic()
        assert work.done("hang"), "work in flight must be stopped in good order before the context closes"
        assert time.monotonic() - begun < self.patience, "leaving must not wait for work that hangs"

    async def test_waking_never_fails(self, runner: JobRunner, work: FolderWork) -> None:
        """Before, during and after."""
        runner.wake()
        async with runner.running(work):
            for _ in range(100_000 // 50):
                runner.wake()
        runner.wake()

    async def test_a_fault_of_the_server_passes_as_it_is(self, runner: JobRunner, work: FolderWork) -> None:
        """Whatever is raised inside the context comes out of it unchanged."""
        fault = LookupError("the server's own")
        with pytest.raises(LookupError) as caught:
            await _raise_inside(runner, work, fault)
        assert caught.value is fault, "what is raised inside the context must come out as it is"

    async def test_it_can_run_again(self, runner: JobRunner, work: FolderWork) -> None:
        """One after the other, as a server that restarts its application does."""
        for name in ("one", "two"):
            async with runner.running(work):
                work.add(name)
                runner.wake()
                await self._until(lambda name=name: work.done(name), "a runner must run again after it was left")  # type: ignore[misc]


async def _raise_inside(runner: JobRunner, work: FolderWork, fault: Exception) -> None:
    async with runner.running(work):
        raise fault
