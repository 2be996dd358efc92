"""The stores in PostgreSQL through a real PgBouncer whose clients share three server connections."""

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
from hosts import Host
from pgbouncer import bouncer
from postgres_resources import EmptyStores, empty_stores
from psycopg.conninfo import make_conninfo

from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore
from fhir_bulk_middleware.testing.deletes import DeleteSuite
from fhir_bulk_middleware.testing.job_backlog import JobBacklogSuite
from fhir_bulk_middleware.testing.job_census import JobCensusSuite
from fhir_bulk_middleware.testing.job_store import JobStoreSuite
from fhir_bulk_middleware.testing.job_values import LEASE, NOW, added, claimed, started, together
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite

pytestmark = [pytest.mark.anyio, pytest.mark.long]
pytest_plugins = ["postgres_fixtures"]

StoreOn = Callable[..., PostgresJobStore]


@pytest.fixture(scope="module")
def pooled(postgres: str) -> Iterator[str]:
    """The DSN through the pooler."""
    with bouncer(postgres) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def stores(postgres: str, pooled: str) -> Iterator[EmptyStores]:
    """Resource stores through the pooler, each empty when it is given."""
    with empty_stores(postgres) as stores:
        stores.dsn = pooled
        yield stores


class TestPooledJobStore(JobStoreSuite, JobCensusSuite, JobBacklogSuite):
    """The kit's promises hold."""

    @pytest.fixture
    def store(self, store_on: StoreOn, pooled: str) -> PostgresJobStore:
        return store_on(pooled)


class TestPooledResourceStore(ResourceStoreSuite, DeleteSuite):
    """The kit's promises hold, also beside another process of the host."""

    @pytest.fixture
    def store(self, stores: EmptyStores) -> PostgresResourceStore:
        return stores.store()

    @pytest.fixture
    def writer(self, store: PostgresResourceStore, stores: EmptyStores) -> Host:
        del store  # it is there, and empty, before another process of the host uses its tables
        return Host(stores.another())

    @pytest.fixture
    def set_clock(self, stores: EmptyStores) -> Callable[[float], None]:
        return stores.offset


async def test_nothing_is_left_in_the_shared_sessions(store_on: StoreOn, pooled: str, postgres: str, schema: str) -> None:
    """No setting, lock, cursor, temporary table, prepared statement or LISTEN; they would be the next client's."""
    store, resources = store_on(pooled), PostgresResourceStore(pooled, schema=schema)
    await started(store, 20)

    async def work(number: int) -> None:
        lease = await claimed(store, f"w{number}")
        assert await store.renew(lease, NOW, lease_seconds=LEASE, done=1)
        assert await store.checkpoint(lease, [], None, NOW, done=2, finished=True)
        await resources.update("Patient", str(number), {"resourceType": "Patient"})
        await resources.cut(Precision.MICROSECONDS)

    await together(20, work)
    resources.close()
    left = (
        "SELECT current_setting('search_path'), current_setting('statement_timeout'), (SELECT count(*) FROM pg_cursors),"
        " (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels()), pg_my_temp_schema()"
    )
    with psycopg.connect(postgres, autocommit=True) as fresh:
        expected = fresh.execute(left.encode()).fetchone()
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert fresh.execute(locks).fetchone() == (0,)
    with psycopg.connect(pooled, prepare_threshold=None) as first, psycopg.connect(pooled, prepare_threshold=None) as second:
        for each in (first, second):  # each holds one of the sessions
            assert each.execute(left.encode()).fetchone() == expected


async def test_more_clients_than_server_connections_wait_for_their_turn(store_on: StoreOn, pooled: str) -> None:
    stores = [store_on(pooled, connections=4) for _ in range(5)]
    await stores[0].registry()  # makes the tables
    jobs = await together(40, lambda number: added(stores[number % 5]))
    assert len({job.id for job in jobs}) == 40


async def test_hints_are_not_waited_for_through_a_pooler_and_the_log_says_what_to_do(
    store_on: StoreOn, pooled: str, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(postgres, autocommit=True) as direct:
        before = direct.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'").fetchone()
        await store_on(pooled).listen(work=lambda: None, ended=lambda _: None)
        assert direct.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'").fetchone() == before
    assert "leads through a connection pooler" in caplog.text
    assert "listen=" in caplog.text


async def test_hints_come_from_the_server_itself_beside_a_pooler(store_on: StoreOn, pooled: str, postgres: str) -> None:
    store, heard = store_on(pooled, listen=postgres), asyncio.Event()
    listening = asyncio.create_task(store.listen(work=heard.set, ended=lambda _: None))
    await heard.wait()  # it looks once when it begins to listen
    heard.clear()
    await added(store)
    await heard.wait()
    listening.cancel()
    await asyncio.wait({listening})


@pytest.mark.parametrize(
    ("mode", "options", "said"),
    [
        ("statement", "", "set pool_mode = transaction"),
        ("transaction", "-c work_mem=8MB", "leave `options` out of the DSN"),
    ],
)
async def test_a_pooler_that_cannot_work_is_refused_in_a_sentence(
    store_on: StoreOn, postgres: str, mode: str, options: str, said: str
) -> None:
    with bouncer(postgres, mode=mode) as dsn:
        store = store_on(make_conninfo(dsn, **({"options": options} if options else {})))
        with pytest.raises(RuntimeError, match=said):
            await store.registry()
        store.close()
