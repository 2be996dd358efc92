"""`ProcrastinateRunner` keeps the promises of a `JobRunner` with a worker in the same process, and refuses what cannot work."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from psycopg.conninfo import make_conninfo
from waiting import until

from fhir_bulk_middleware.contract.figures import SupportsWorkerCount
from fhir_bulk_middleware.contract.running import Dispatcher, JobRunner, Work
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.testing.runner import FolderWork, RunnerSuite

pytest_plugins = ["postgres_fixtures"]
pytestmark = pytest.mark.timeout(300)


class _Working(ProcrastinateRunner):
    """Whoever runs it is a worker too."""

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        async with super().running(work), self.working(work):
            yield


@pytest.fixture
def quick(postgres: str, schema: str) -> Callable[..., _Working]:
    """Makes runners on this test's schema, with short times."""

    def made(**options: Any) -> _Working:
        return _Working(postgres, schema=schema, **{"drain": 0.1, "heartbeat": 0.5, "stalled_after": 2.0} | options)

    return made


class TestProcrastinateRunner(RunnerSuite):
    patience = 60.0

    @pytest.fixture(params=[1, 3])
    def runner(self, request: pytest.FixtureRequest, quick: Callable[..., _Working]) -> JobRunner:
        return quick(concurrency=request.param)


def test_it_is_a_dispatcher(quick: Callable[..., _Working]) -> None:
    assert isinstance(quick(), Dispatcher)


def rows(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(text.encode()).fetchall()


@pytest.mark.anyio
async def test_as_many_tasks_wait_as_there_are_pieces_of_work(postgres: str, schema: str, tmp_path: Any) -> None:
    """However many processes dispatch, so that the length of the queue says how many workers are wanted."""
    work = FolderWork(str(tmp_path / "work"))
    for number in range(30):
        work.add(f"{number}")
    waiting = f"SELECT task_name, queue_name, priority, args FROM {schema}.procrastinate_jobs WHERE status = 'todo'"  # noqa: S608
    one, two = (ProcrastinateRunner(postgres, schema=schema, queue="exports", priority=7) for _ in range(2))
    async with one.running(work), two.running(work):
        await until(lambda: len(rows(postgres, waiting)) == 30)
        for _ in range(20):
            one.wake()
            two.wake()
            await until(lambda: len(rows(postgres, waiting)) >= 30)
        found = rows(postgres, waiting)
    assert found == [("fhir_bulk:step", "exports", 7, {"adapter": ""})] * 30


@pytest.mark.anyio
async def test_a_task_goes_on_with_further_pieces_and_takes_their_tasks_out_of_the_queue(
    postgres: str, schema: str, tmp_path: Any
) -> None:
    """So small pieces do not cost a task each, and the length of the queue stays that of the free work."""
    work = FolderWork(str(tmp_path / "work"))
    for number in range(30):
        work.add(f"{number}")
    jobs = f"{schema}.procrastinate_jobs"
    steps = f"SELECT status FROM {jobs} WHERE task_name = 'fhir_bulk:step'"  # noqa: S608
    app = App(connector=PsycopgConnector(conninfo=postgres, kwargs={"options": f"-c search_path={schema}"}, min_size=1))
    app.worker_defaults["delete_jobs"] = "never"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        runner = ProcrastinateRunner(app, drain=0.1)
        async with runner.running(work):
            await until(lambda: rows(postgres, steps) == [("todo",)] * 30)
        async with runner.working(work):
            await until(lambda: all(work.done(f"{number}") for number in range(30)))
            await until(lambda: ("todo",) not in rows(postgres, steps))
            await until(lambda: ("doing",) not in rows(postgres, steps))
    carried_out = rows(postgres, steps)
    assert 1 <= len(carried_out) < 30, "one task carried out several pieces, and the tasks of these are gone"
    assert set(carried_out) == {("succeeded",)}


class _Waiting(FolderWork):
    """Each step waits until it may go on."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.begun: list[str] = []
        self.may_go_on = asyncio.Event()

    def recipe(self) -> None:  # type: ignore[override] # it is carried out here
        return None

    async def step(self, worker: str) -> bool:
        self.begun.append(worker)
        await self.may_go_on.wait()
        return await super().step(worker)


@pytest.mark.anyio
async def test_a_worker_that_is_stopped_begins_no_further_piece(
    quick: Callable[..., _Working], postgres: str, schema: str, tmp_path: Any
) -> None:
    runner, work = quick(drain=20.0), _Waiting(str(tmp_path / "work"))
    for number in range(5):
        work.add(f"{number}")
    waiting = f"SELECT 1 FROM {schema}.procrastinate_jobs WHERE status = 'todo'"  # noqa: S608
    async with runner.running(work):
        await until(lambda: len(work.begun) == 1 and len(rows(postgres, waiting)) >= 4)
        asyncio.get_running_loop().call_soon(work.may_go_on.set)
    assert len(work.begun) == 1
    assert await work.backlog(5) == 4


@pytest.mark.anyio
async def test_a_task_of_a_worker_that_fell_silent_is_given_to_another(
    postgres: str, schema: str, quick: Callable[..., _Working], tmp_path: Any
) -> None:
    """Also if another one of its number waits already: then it is dropped."""
    runner, work = quick(), FolderWork(str(tmp_path / "work"))
    jobs = f"{schema}.procrastinate_jobs"
    async with runner.running(work):
        work.add("one")
        await until(lambda: work.done("one"))
    with psycopg.connect(postgres, autocommit=True) as connection:
        task = "SELECT 'fhir_bulk', 'fhir_bulk:step', '{\"adapter\": \"\"}', 'doing', 'the same'"
        insert = f"INSERT INTO {jobs} (queue_name, task_name, args, status, queueing_lock) {task} FROM generate_series(1, 2)"
        connection.execute(insert.encode())
    stalled = f"SELECT id FROM {jobs} WHERE status = 'doing' AND worker_id IS NULL"  # noqa: S608
    assert len(rows(postgres, stalled)) == 2
    async with runner.running(work):
        await until(lambda: not rows(postgres, stalled))
        await until(lambda: not rows(postgres, f"SELECT id FROM {jobs} WHERE queueing_lock = 'the same'"))  # noqa: S608


@pytest.mark.anyio
async def test_a_server_knows_how_many_workers_there_are_anywhere(
    postgres: str, schema: str, quick: Callable[..., _Working], tmp_path: Any
) -> None:
    """For health and metrics: also of those that work in other processes, and not of those that fell silent."""
    server, worker, work = ProcrastinateRunner(postgres, schema=schema), quick(), FolderWork(str(tmp_path / "work"))
    assert isinstance(server, SupportsWorkerCount)
    assert await server.workers_alive() == 0
    async with server.running(work):
        assert await server.workers_alive() == 0
        async with worker.working(work):
            await until(lambda: rows(postgres, f"SELECT count(*) FROM {schema}.procrastinate_workers") == [(1,)])  # noqa: S608
            assert await server.workers_alive() == 1
            silent = f"INSERT INTO {schema}.procrastinate_workers (last_heartbeat) VALUES ('2026-01-01') RETURNING 1"  # noqa: S608
            assert rows(postgres, silent) == [(1,)]
            assert await server.workers_alive() == 1


@contextmanager
def connections_may_be_lost() -> Iterator[None]:
    """procrastinate's worker leaves it to the loop to report that it could not record the end of a task."""
    loop = asyncio.get_running_loop()
    reported: list[BaseException] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    try:
        yield
        gc.collect()  # the loop reports an exception that nobody has asked for when its task is freed
    finally:
        loop.set_exception_handler(before)
    assert [error for error in reported if not isinstance(error, ConnectorException)] == []


@pytest.mark.anyio
async def test_a_worker_that_loses_its_connections_goes_on(postgres: str, quick: Callable[..., _Working], tmp_path: Any) -> None:
    """As when PostgreSQL is restarted: procrastinate's own worker may end by it."""
    runner, work = quick(), FolderWork(str(tmp_path / "work"))
    others = "FROM pg_stat_activity WHERE query LIKE '%procrastinate%' AND pid <> pg_backend_pid()"
    cut = f"SELECT count(pg_terminate_backend(pid)) > 0 {others}"
    with connections_may_be_lost():
        async with runner.running(work):
            for name in ("one", "two", "three"):
                work.add(name)
                runner.wake()
                await until(lambda name=name: work.done(name))  # type: ignore[misc]
                await until(lambda: rows(postgres, cut) == [(True,)])  # once its last statement is one of procrastinate's
            work.add("four")
            await until(lambda: work.done("four"))


@pytest.mark.anyio
async def test_a_house_hands_its_own_app_in(postgres: str, schema: str, tmp_path: Any) -> None:
    """Its tables have to be there; its own tasks run beside ours, and what it opened stays open."""
    options = {"options": f"-c search_path={schema}"}
    app = App(connector=PsycopgConnector(conninfo=postgres, kwargs=options, min_size=1))
    greeted: list[str] = []

    @app.task(name="clinic:greet", queue="fhir_bulk")
    async def greet(name: str) -> None:
        greeted.append(name)

    runner, work = _Working(app, drain=0.1), FolderWork(str(tmp_path / "work"))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    with pytest.raises(RuntimeError, match="procrastinate schema --apply"):
        async with runner.running(work):
            pass
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        async with runner.running(work):
            work.add("one")
            await greet.defer_async(name="you")
            await until(lambda: work.done("one") and greeted == ["you"])
        assert await app.check_connection_async()
    with pytest.raises(ValueError, match="already"):
        ProcrastinateRunner(app)


@pytest.mark.anyio
async def test_of_several_that_start_at_once_one_makes_the_tables(postgres: str, schema: str) -> None:
    runners = [ProcrastinateRunner(postgres, schema=schema) for _ in range(4)]

    await asyncio.gather(*(runner.migrate() for runner in runners))

    assert rows(postgres, f"SELECT 1 FROM pg_tables WHERE schemaname = '{schema}' AND tablename = 'procrastinate_jobs'")  # noqa: S608


@pytest.mark.anyio
async def test_a_role_that_may_not_make_tables_is_told_so(postgres: str, schema: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {schema} LOGIN".encode())
        try:
            with pytest.raises(RuntimeError, match=r"procrastinate cannot be .* permission denied"):
                await ProcrastinateRunner(make_conninfo(postgres, user=schema), schema=schema).migrate()
        finally:
            connection.execute(f"DROP ROLE {schema}".encode())


@pytest.mark.anyio
async def test_a_job_store_that_does_not_count_its_work_is_refused(quick: Callable[..., _Working], make_house: Any) -> None:
    with pytest.raises(TypeError, match="PostgresJobStore"):
        async with make_house(parts={"runner": quick()}):
            pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"heartbeat": 30.0, "stalled_after": 30.0}, "heartbeat"),
        ({"schema": "Upper"}, "schema"),
    ],
)
def test_an_argument_of_another_form_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ProcrastinateRunner("postgresql://db.example/fhir", **options)
