import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from jobs_of import EVERYTHING, MOUNT, OWNER, job
from listed import Complete, Remade
from serving import SETTINGS, work_in
from waiting import PATIENCE, until

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.contract.recipes import from_json, make
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import sealed
from fhir_bulk_middleware.workers.process import Assignment
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

COUNT, GATE = 120, 70
SCHEDULING = 60.0
"""Seconds that a busy machine may take beyond what is promised."""


class State:
    """A STATE folder, a gated adapter beside it, and one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True)
        self.jobs = SQLiteJobStore(self.folder / "jobs.db")
        self.outputs = FileOutputStore(self.folder / "exports")
        self.resources = Remade(str(self.gates), COUNT, GATE)
        self.job = job("Observation", created_at=system_clock())

    def work(self) -> JobWork:
        return work_in(self.folder, self.resources)

    def runner(self) -> ProcessRunner:
        return ProcessRunner(self.folder, SETTINGS)

    async def kick_off(self) -> None:
        assert await self.jobs.add(self.job, Rows(EVERYTHING), working_at_most=5)

    def open(self) -> None:
        (self.gates / "open").touch()

    def reached(self) -> set[int]:
        """The processes that reached the gate."""
        return {int(path.name.removeprefix("reached-")) for path in self.gates.glob("reached-*")}

    async def found(self) -> Job:
        found = await self.jobs.find(self.job.id, MOUNT, OWNER)
        assert found is not None
        return found

    async def completed(self) -> bool:
        return (await self.found()).state is JobState.COMPLETED

    async def content(self) -> list[tuple[str, int, str, bytes]]:
        """What a client would get: ids, counts, hashes and bytes."""
        parts = await sealed(self.jobs, self.job)
        return [
            (
                part.file_id.rpartition(".")[2],
                part.count,
                part.sha256,
                b"".join([chunk async for chunk in PartReader(self.outputs, part).read(0, part.size)]),
            )
            for part in parts
        ]

    async def files(self) -> tuple[set[str], set[str]]:
        """Names in the job's folder, and names that its rows know."""
        rows = {part.key.partition("/")[2] for part in await sealed(self.jobs, self.job)}
        return {path.name for path in (self.folder / "exports" / self.job.id).iterdir()}, rows


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    state = State(tmp_path)
    await state.kick_off()
    yield state
    state.jobs.close()


@pytest.fixture
async def undisturbed(tmp_path: Path) -> AsyncIterator[list[tuple[str, int, str, bytes]]]:
    calm = State(tmp_path / "calm")
    calm.open()
    await calm.kick_off()
    work = calm.work()
    while await work.step("worker"):
        pass
    assert (await calm.found()).done == COUNT
    yield await calm.content()
    calm.jobs.close()


@pytest.mark.anyio
async def test_a_worker_that_is_killed_in_a_slice_leaves_the_same_files_as_if_it_had_not_been(
    state: State, undisturbed: list[object]
) -> None:
    async with state.runner().running(state.work()):
        await until(lambda: len(state.reached()) == 1)
        (victim,) = state.reached()
        os.kill(victim, signal.SIGKILL)
        state.open()
        await until(state.completed)
        assert await state.content() == undisturbed
        assert (await state.found()).done == COUNT
        await until(lambda: is_gone(victim))


@pytest.mark.anyio
async def test_what_a_killed_worker_held_is_given_back_at_once(state: State) -> None:
    patient = SETTINGS.model_copy(update={"lease_seconds": 3600.0})
    work = job_work(state.resources, state.jobs, state.outputs, patient)
    async with ProcessRunner(state.folder, patient).running(work):
        await until(lambda: len(state.reached()) == 1)
        (victim,) = state.reached()
        os.kill(victim, signal.SIGKILL)
        state.open()
        await until(state.completed)


@pytest.mark.anyio
async def test_a_worker_that_was_paused_past_its_lease_publishes_nothing(state: State, undisturbed: list[object]) -> None:
    recipe = state.work().recipe()
    assert recipe is not None
    paused = spawn()
    assert paused.stdin is not None
    paused.stdin.write(Assignment("paused", state.folder / "workers", recipe, 30).line())
    paused.stdin.flush()
    try:
        await until(lambda: len(state.reached()) == 1)
        stop(state, paused.pid, in_a_write=False)  # else nobody could write: nobody keeps it, so nobody ends it
        async with state.runner().running(state.work()):
            await until(lambda: len(state.reached()) == 2)  # another worker took over what it held
            state.open()
            await until(state.completed)
            before = await state.content()
            paused.send_signal(signal.SIGCONT)
            await until(lambda: not drafts(state.folder))
    finally:
        paused.send_signal(signal.SIGCONT)
        paused.communicate(timeout=PATIENCE)
    names, rows = await state.files()
    assert names == rows
    assert before == await state.content() == undisturbed


@pytest.mark.anyio
async def test_a_worker_that_is_stopped_in_the_middle_of_a_write_is_ended_within_the_lease(
    state: State, undisturbed: list[object]
) -> None:
    """Until then it holds the write lock of the job store, and nobody can write."""
    async with state.runner().running(state.work()):
        await until(lambda: len(state.reached()) == 1)
        (stopped,) = state.reached()
        stop(state, stopped, in_a_write=True)
        begun = time.monotonic()
        state.open()
        await until(lambda: is_gone(stopped))
        assert time.monotonic() - begun < SETTINGS.lease_seconds + SCHEDULING
        await until(state.completed)
    assert await state.content() == undisturbed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("in_a_write", "alone"),
    [
        pytest.param(False, False, id="its workers go on, idle", marks=pytest.mark.long),
        pytest.param(True, False, id="its workers go on, one in the middle of a write"),
        pytest.param(False, True, id="with its workers, idle", marks=pytest.mark.long),
        pytest.param(True, True, id="with its workers, one in the middle of a write", marks=pytest.mark.long),
    ],
)
async def test_a_server_that_is_stopped_loses_its_pool_within_the_lease(
    state: State, undisturbed: list[object], in_a_write: bool, alone: bool
) -> None:
    pipes = state.folder / "workers"
    with server(state) as first:
        await until(lambda: len(state.reached()) == 1)
        await until(lambda: len(list(pipes.iterdir())) == 2)
        kept = {int(pipe.name.split("-")[-2]) for pipe in pipes.iterdir()}
        (busy,) = state.reached()
        async with state.runner().running(state.work()):
            first.send_signal(signal.SIGSTOP)
            if in_a_write:
                stop(state, busy, in_a_write=True)
            if alone:
                for worker in kept:
                    os.kill(worker, signal.SIGSTOP)
            begun = time.monotonic()
            await until(lambda: all(is_gone(worker) for worker in kept))
            taken_over = time.monotonic() - begun
            state.open()
            await until(state.completed)
            assert taken_over < SETTINGS.lease_seconds + SCHEDULING
            first.send_signal(signal.SIGCONT)  # it finds that it was replaced, and stands by
            await until(lambda: len(workers_of(first.pid)) == 0)
            await until(lambda: len(list(pipes.iterdir())) == 2)
    assert await state.content() == undisturbed


@pytest.mark.anyio
async def test_a_worker_that_hangs_for_ever_loses_its_place_to_another(state: State) -> None:
    async with state.runner().running(state.work()):
        await until(lambda: len(state.reached()) == 1)
        (hanging,) = state.reached()
        await until(lambda: len(list((state.folder / "workers").iterdir())) == 2)
        assert await state.jobs.replace((await state.found()).cancelled(system_clock()))
        await until(lambda: is_gone(hanging))
        await until(lambda: len(list((state.folder / "workers").iterdir())) == 2)


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
async def test_a_worker_that_is_told_to_stop_gives_its_work_back(
    state: State, number: signal.Signals, undisturbed: list[object]
) -> None:
    async with state.runner().running(state.work()):
        await until(lambda: len(state.reached()) == 1)
        (told,) = state.reached()
        os.kill(told, number)
        state.open()
        await until(state.completed)
        await until(lambda: is_gone(told))
    assert await state.content() == undisturbed


@pytest.mark.anyio
async def test_leaving_stops_the_workers_and_keeps_the_work(state: State, undisturbed: list[object]) -> None:
    async with state.runner().running(state.work()):
        await until(lambda: len(state.reached()) == 1)
        state.open()
    assert all(is_gone(worker) for worker in state.reached())
    assert list((state.folder / "workers").iterdir()) == []
    async with state.runner().running(state.work()):
        await until(state.completed)
    assert await state.content() == undisturbed


@pytest.mark.anyio
async def test_one_pool_serves_all_server_processes_and_outlives_the_one_that_kept_it(
    state: State, undisturbed: list[object]
) -> None:
    pipes = state.folder / "workers"
    with server(state) as first:
        await until(lambda: len(state.reached()) == 1)
        async with state.runner().running(state.work()):
            await until(lambda: len(list(pipes.iterdir())) == 2)
            kept = {pipe.name for pipe in pipes.iterdir()}
            first.kill()
            first.wait()
            state.open()
            await until(state.completed)
            await until(lambda: len(names := {pipe.name for pipe in pipes.iterdir()}) == 2 and not names & kept)
            await until(lambda: all(is_gone(worker) for worker in state.reached()) or len(state.reached()) > 1)
    assert await state.content() == undisturbed


@pytest.mark.anyio
async def test_ctrl_c_in_a_terminal_ends_server_and_workers_without_a_trace(state: State) -> None:
    with server(state) as process:
        await until(lambda: len(state.reached()) == 1)
        state.open()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert all(is_gone(worker) for worker in state.reached())


def test_a_worker_ends_with_its_stdin(tmp_path: Path) -> None:
    worker = spawn()
    recipe = Recipe("fhir_bulk_middleware.testing.runner:FolderWork", {"folder": str(tmp_path / "work")})
    _, errors = worker.communicate(Assignment("w", tmp_path / "pipes", recipe, 30).line(), timeout=PATIENCE)
    assert (worker.returncode, errors) == (0, b"")


def test_a_worker_without_an_assignment_ends() -> None:
    worker = spawn()
    _, errors = worker.communicate(b"", timeout=PATIENCE)
    assert (worker.returncode, errors) == (0, b"")


@pytest.mark.anyio
async def test_work_that_cannot_be_made_again_is_refused_at_the_start(tmp_path: Path) -> None:
    here = job_work(Complete({}), MemoryJobStore(), MemoryOutputStore(), SETTINGS)
    with pytest.raises(ValueError, match="LoopRunner"):
        async with ProcessRunner(tmp_path, SETTINGS).running(here):
            pass


def test_a_pool_without_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LoopRunner"):
        ProcessRunner(tmp_path, Settings(worker_processes=0))


def test_work_is_made_again_from_its_recipe(tmp_path: Path) -> None:
    recipe = work_in(tmp_path, Remade(str(tmp_path), 1, 1)).recipe()
    assert recipe is not None
    again = make(recipe)
    assert isinstance(again, JobWork)
    assert again.recipe() == Recipe(recipe.factory, {**recipe.arguments})


def test_work_with_a_clock_of_its_own_has_no_recipe(tmp_path: Path) -> None:
    work = job_work(
        Remade(str(tmp_path), 1, 1),
        SQLiteJobStore(tmp_path / "jobs.db"),
        FileOutputStore(tmp_path),
        SETTINGS,
        lambda: Instant(0),
    )
    assert work.recipe() is None


@pytest.mark.parametrize(
    ("factory", "error"),
    [("listed", ValueError), (":x", ValueError), ("listed:", ValueError), ("no_such:x", ImportError), ("listed:No", ImportError)],
)
def test_a_recipe_that_leads_nowhere_says_so(factory: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(Recipe(factory, {}))


@pytest.mark.parametrize("value", [None, [], {}, {"factory": 1, "arguments": {}}])
def test_only_a_recipe_is_read_as_one(value: object) -> None:
    with pytest.raises(ValueError, match="recipe"):
        from_json(value)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_an_export_in_the_servers_own_loop_has_the_same_files(state: State, undisturbed: list[object]) -> None:
    state.open()
    runner = LoopRunner(2)
    async with runner.running(state.work()):
        runner.wake()
        await until(state.completed)
    assert await state.content() == undisturbed


def stop(state: State, pid: int, *, in_a_write: bool) -> None:
    """Stop a worker while it holds the write lock, or while it does not: it renews its lease some ten times a second."""
    with closing(sqlite3.connect(state.folder / "jobs.db", timeout=0, isolation_level=None)) as connection:
        for _ in range(100_000):
            os.kill(pid, signal.SIGSTOP)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if in_a_write:
                    return
            else:
                connection.execute("ROLLBACK")
                if not in_a_write:
                    return
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("it was never stopped like that")


def workers_of(server: int) -> list[str]:
    """The worker processes whose parent is the server, and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == server and state != "Z":
                found.append(entry.name)
    return found


def drafts(folder: Path) -> list[Path]:
    return list((folder / "exports").glob("*/.tmp-*"))


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def spawn() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "fhir_bulk_middleware.workers.process"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env)


@contextmanager
def server(state: State) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("serving.py")
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, script, state.folder, state.gates, str(COUNT), str(GATE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.kill()
