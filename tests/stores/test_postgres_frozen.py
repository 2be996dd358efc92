"""A PostgreSQL that is frozen, so that connections stay and nothing is answered: what is told, what is lost, and what goes on.

TCP does not notice it: the machine of a server whose processes are stopped acknowledges what it receives.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest
from cutting_proxy import Cut, CuttingProxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import PATIENCE

from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore, connections, hints
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.testing.job_values import LEASE, NOW, added, claimed, found, started

pytestmark = [pytest.mark.anyio, pytest.mark.long]
pytest_plugins = ["postgres_fixtures"]

StoreOn = Callable[..., PostgresJobStore]
SOON = 0.5
"""Seconds after which a server counts as frozen here."""


@pytest.fixture
def proxy(postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    monkeypatch.setattr(connections, "_SILENT_SECONDS", SOON)
    monkeypatch.setattr(connections, "_SILENT_FOR_WORKERS", SOON)
    monkeypatch.setattr(hints, "_SILENT_SECONDS", SOON)
    monkeypatch.setattr(hints, "_LOOK_SECONDS", 0.1)
    with CuttingProxy(postgres).running() as proxy:
        proxy.dsn = make_conninfo(proxy.dsn, connect_timeout=2)
        yield proxy


@pytest.mark.parametrize("blocking", [False, True], ids=["server", "worker"])
async def test_a_frozen_server_is_busy_and_nothing_waits_for_it_for_ever(
    store_on: StoreOn, proxy: CuttingProxy, *, blocking: bool
) -> None:
    patient = store_on(proxy.dsn)
    job = await added(patient)
    store = store_on(proxy.dsn, patience=SOON, blocking=blocking)
    assert await found(store, job) == job, "it has a connection"
    proxy.thawed.clear()
    began = time.monotonic()
    for _ in range(2):  # on the connection that it has, and on a new one
        with pytest.raises(Refused) as refused:
            await store.find(job.id, job.mount, job.owner)
        assert refused.value.reason is Reason.BUSY
    assert time.monotonic() - began < PATIENCE
    proxy.thawed.set()
    assert await found(patient, job) == job


@pytest.mark.parametrize("blocking", [False, True], ids=["server", "worker"])
@pytest.mark.parametrize("freeze", [Cut.FREEZE_BEFORE, Cut.FREEZE_AFTER], ids=lambda cut: cut.name)
async def test_a_commit_in_which_the_server_freezes_is_made_once(
    store_on: StoreOn, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture, freeze: Cut, *, blocking: bool
) -> None:
    job = await started(store_on(proxy.dsn))
    store = store_on(proxy.dsn, blocking=blocking, patience=PATIENCE)
    store._connections._limit = SOON  # that of a server process grows with its patience
    lease = await claimed(store)
    proxy.cuts = [freeze]

    def thaw() -> None:
        while "PostgreSQL cannot answer" not in caplog.text:  # the connection was given up, and another one is tried
            time.sleep(0.01)
        proxy.thawed.set()

    thawing = threading.Thread(target=thaw)
    thawing.start()
    assert await store.checkpoint(lease, [], None, NOW, done=7, finished=True), "it counts as made"
    thawing.join()
    ended = await found(store, job)
    assert (ended.state, ended.done) == (JobState.COMPLETED, 7)
    assert await store.claim("other", NOW, lease_seconds=LEASE) is None


async def test_a_commit_of_which_nothing_is_heard_is_busy_and_the_log_says_that_it_may_be_made(
    store_on: StoreOn, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    patient = store_on(proxy.dsn)
    job = await added(patient)
    store = store_on(proxy.dsn, patience=SOON)
    await store.registry()
    proxy.cuts = [Cut.FREEZE_AFTER]
    with pytest.raises(Refused) as refused:
        await store.replace(job.cancelled(NOW))
    assert refused.value.reason is Reason.BUSY
    assert "a change that is answered as busy may be made" in caplog.text
    proxy.thawed.set()
    assert (await found(patient, job)).state is JobState.CANCELLED


async def test_of_several_servers_one_that_answers_is_used(store_on: StoreOn, proxy: CuttingProxy, postgres: str) -> None:
    """A failover: the former primary server is frozen, another one took over."""
    job = await added(store_on())
    proxy.thawed.clear()
    frozen, real = conninfo_to_dict(proxy.dsn), conninfo_to_dict(postgres)
    several = {name: f"{frozen[name]},{real.get(name) or 5432}" for name in ("host", "port")}
    store = store_on(make_conninfo(proxy.dsn, **several))
    assert await found(store, job) == job


async def test_who_listens_to_a_frozen_server_notices_and_comes_back(store_on: StoreOn, proxy: CuttingProxy) -> None:
    store, heard = store_on(proxy.dsn), asyncio.Event()
    listening = asyncio.create_task(store.listen(work=heard.set, ended=lambda _: None))
    await asyncio.wait_for(heard.wait(), PATIENCE)
    proxy.thawed.clear()
    heard.clear()
    await asyncio.sleep(4 * SOON)  # nothing can be waited for: nobody is told
    proxy.thawed.set()
    await asyncio.wait_for(heard.wait(), PATIENCE)
    listening.cancel()
    await asyncio.wait({listening})


async def test_a_statement_that_takes_long_is_no_frozen_server_for_a_loader(proxy: CuttingProxy, schema: str) -> None:
    """Such as the index of a new base URL."""
    with closing(PostgresResourceStore(proxy.dsn, schema=schema, patience=PATIENCE)) as made:
        await made.migrate()
    store = PostgresResourceStore(proxy.dsn, schema=schema, patience=SOON)
    slept = partial(Session.one, text="SELECT 1 FROM pg_sleep(%(seconds)s)", values={"seconds": 8 * SOON})
    assert await asyncio.to_thread(store._connections.write_here, slept) == 1
    store.close()


async def test_a_frozen_server_does_not_keep_other_work_from_its_turn(store_on: StoreOn, proxy: CuttingProxy) -> None:
    """More steps than threads are refused in time too."""
    store = store_on(proxy.dsn, patience=SOON, connections=2)
    job = await added(store_on(proxy.dsn))
    await found(store, job)
    proxy.thawed.clear()
    refused = await asyncio.gather(*(store.find(job.id, job.mount, job.owner) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, Refused) and each.reason is Reason.BUSY for each in refused)
    proxy.thawed.set()
    assert await found(store_on(proxy.dsn), job) == job
