"""What a cut of PostgreSQL waits for, and what it says when it does not wait, or when the database came from elsewhere."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from documents.storage import DocumentStorage
from documents.writing import SCHEMA, Connection, write
from postgres_fixture import database, set_clock
from postgres_fixture import server as postgres
from psycopg.sql import SQL
from waiting import PATIENCE, until

from fhir_bulk_middleware import Everything, Instant, Query, Reason, Refused, Window
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.stores.postgres.cut import PostgresCuts
from fhir_bulk_middleware.testing.resource_values import observation, patient

pytestmark = pytest.mark.anyio

MICROSECONDS = Precision.MICROSECONDS


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as dsn:
        yield dsn


@pytest.fixture
def storage(server: str) -> Iterator[DocumentStorage]:
    with database(server, SCHEMA) as dsn:
        storage = DocumentStorage(dsn)
        yield storage
        storage.close()


def cuts(storage: DocumentStorage, patience: float, used: list[int] | None = None) -> PostgresCuts:
    """The cuts of the storage with another patience; `used` grows with each connection."""

    @contextmanager
    def connection() -> Iterator[Connection]:
        with storage.connection() as found:
            if used is not None:
                used.append(threading.get_ident())
            yield found

    return PostgresCuts(connection, newest=SQL("(SELECT max(last_updated) FROM version)"), patience=patience)


async def held(storage: DocumentStorage, cut: Instant, since: Instant | None = None, type_: str = "Patient") -> int:
    """How many resources an export holds."""
    query = Query(type=type_, selection=Everything(), window=Window(since, cut), as_of=cut)
    return sum([page.count async for page in storage.pages(query, None)])


async def gone(storage: DocumentStorage, cut: Instant, since: Instant) -> list[str]:
    query = Query(type="Patient", selection=Everything(), window=Window(since, cut), as_of=cut)
    return [reference async for page in storage.deletions(query, None) for reference in page.references]


async def test_a_cut_waits_for_the_writers_under_way(storage: DocumentStorage, caplog: pytest.LogCaptureFixture) -> None:
    used: list[int] = []
    with storage.connection() as writer:
        writer.execute("BEGIN")
        write(writer, [patient("slow")], storage.compartments)
        waiting = asyncio.create_task(cuts(storage, PATIENCE, used).cut(MICROSECONDS))
        await until(lambda: len(used) > 4)
        assert not waiting.done()
        writer.execute("COMMIT")
    cut = await waiting
    assert await held(storage, cut) == 1
    assert await storage.unfinished(cut) is None
    assert caplog.messages == []


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_cut_goes_ahead_of_a_writer_that_is_too_slow_and_says_so(
    storage: DocumentStorage, caplog: pytest.LogCaptureFixture, *, prepared: bool
) -> None:
    with storage.connection() as writer:
        writer.execute("BEGIN")
        write(writer, [patient("slow")], storage.compartments)
        if prepared:
            writer.execute("PREPARE TRANSACTION 'slow'")
        cut = await cuts(storage, 0.01).cut(MICROSECONDS)
        assert await held(storage, cut) == 0
        unfinished = await storage.unfinished(cut)
        assert unfinished is not None
        assert unfinished.transactions == 1
        assert cut < unfinished.at <= await storage.now()
        assert "does not wait any longer for 1 transaction(s)" in caplog.text
        assert "in the next export" in caplog.text
        writer.execute("COMMIT PREPARED 'slow'" if prepared else "COMMIT")
    caplog.clear()
    following = await cuts(storage, 0.01).cut(MICROSECONDS)
    assert await held(storage, following, cut) == 1
    assert await held(storage, cut) == 0, "what was read as of the first cut is read again"
    assert await storage.unfinished(following) is None
    assert await storage.unfinished(cut) == unfinished, "what was said of a cut stays true of it"
    assert caplog.messages == []


async def test_transactions_are_counted_that_write_and_not_their_savepoints_nor_others(storage: DocumentStorage) -> None:
    with storage.connection() as first, storage.connection() as second, storage.connection() as other:
        for writer, id_ in ((first, "a"), (second, "b")):
            writer.execute("BEGIN")
            for name in (f"{id_}1", f"{id_}2"):
                writer.execute(f"SAVEPOINT {name}".encode())
                write(writer, [patient(name)], storage.compartments)
        other.execute("BEGIN")
        other.execute("SELECT pg_current_xact_id()")
        storage.write(patient("younger"))
        unfinished = await storage.unfinished(await cuts(storage, 0.01).cut(MICROSECONDS))
        for each in (first, second, other):
            each.execute("ROLLBACK")
    assert unfinished is not None
    assert unfinished.transactions == 2


async def test_what_ends_while_the_cut_is_recorded_is_not_counted(
    storage: DocumentStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The count is that of the snapshot that decides what is seen."""
    with storage.connection() as other, storage.connection() as writer:
        other.execute("BEGIN")
        other.execute("LOCK TABLE bulk_cut IN EXCLUSIVE MODE")
        writer.execute("BEGIN")
        write(writer, [patient("slow")], storage.compartments)
        cutting = asyncio.create_task(cuts(storage, 0.01).cut(MICROSECONDS))
        with storage.connection() as looking:
            await until(lambda: bool(looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()))
        writer.execute("COMMIT")
        other.execute("COMMIT")
        cut = await cutting
    assert await held(storage, cut) == 1
    assert await storage.unfinished(cut) is None
    assert caplog.messages == []


async def test_a_cut_waits_for_no_reader_and_for_no_other_table(storage: DocumentStorage) -> None:
    with storage.connection() as reader, storage.connection() as other:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT max(instant) FROM bulk_cut")
        other.execute("BEGIN")
        other.execute("CREATE TABLE unrelated AS SELECT 1 AS one")
        await asyncio.wait_for(cuts(storage, 10 * PATIENCE).cut(MICROSECONDS), PATIENCE)
        for each in (reader, other):
            each.execute("ROLLBACK")


async def test_writers_do_not_wait_for_a_cut(storage: DocumentStorage) -> None:
    with storage.connection() as cutting, storage.connection() as writer:
        cutting.execute("BEGIN")
        cutting.execute("LOCK TABLE bulk_cut IN EXCLUSIVE MODE")  # as a cut takes it
        writer.execute("SET lock_timeout = '1s'")
        with writer.transaction():
            write(writer, [patient("a")], storage.compartments)
        writer.execute("RESET lock_timeout")
        cutting.execute("ROLLBACK")


async def test_a_cut_that_has_not_arrived_here_is_busy(storage: DocumentStorage) -> None:
    """As on a standby that is behind."""
    cut = await storage.cut(MICROSECONDS)
    with pytest.raises(Refused) as refused:
        await held(storage, Instant(cut + 1))
    assert refused.value.reason is Reason.BUSY


async def test_a_database_restored_elsewhere_gives_no_cut_until_it_is_adopted_and_then_tells_everything(
    storage: DocumentStorage,
) -> None:
    for each in (patient("a"), patient("gone"), observation("o", "Patient/a")):
        storage.write(each)
    before = await storage.cut(MICROSECONDS)
    storage.delete("Patient", "gone")
    assert await held(storage, await storage.cut(MICROSECONDS), before) == 0
    with storage.connection() as connection:
        connection.execute("UPDATE bulk_cut SET cluster = cluster + 1")  # it says where the snapshots were taken

    with pytest.raises(RuntimeError, match="restored into another cluster"):
        await storage.cut(MICROSECONDS)
    storage.cuts.adopt([("version", "written_by"), ("version", "ended_by")])
    cut = await storage.cut(MICROSECONDS)
    assert [await held(storage, cut, before, type_) for type_ in ("Patient", "Observation")] == [1, 1]
    assert await gone(storage, cut, before) == ["Patient/gone"]
    assert await held(storage, await storage.cut(MICROSECONDS), cut) == 0, "once"
    with pytest.raises(RuntimeError, match="before the database was restored"):
        await held(storage, before)


async def test_two_writers_that_create_one_resource_write_two_versions(storage: DocumentStorage) -> None:
    with storage.connection() as first:
        first.execute("BEGIN")
        write(first, [patient("a", "first")], storage.compartments)
        second = asyncio.create_task(asyncio.to_thread(storage.write, patient("a", "second")))
        with storage.connection() as looking:
            await until(lambda: bool(looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()))
        first.execute("COMMIT")
    await second
    found = storage.read("Patient", "a")
    assert found is not None
    assert b'"versionId":"2"' in found
    assert b"second" in found


async def test_a_change_that_waits_for_another_one_does_not_miss_it(storage: DocumentStorage) -> None:
    storage.write(patient("a"))
    with storage.connection() as first:
        first.execute("BEGIN")
        write(first, [patient("a", "changed")], storage.compartments)
        second = asyncio.create_task(asyncio.to_thread(storage.delete, "Patient", "a"))
        with storage.connection() as looking:
            await until(lambda: bool(looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()))
        first.execute("COMMIT")
    assert await second is True
    assert storage.read("Patient", "a") is None


async def test_a_cut_that_another_one_overtook_adds_no_row_before_it(storage: DocumentStorage) -> None:
    """The later cut decides what is seen at the earlier instant too."""
    with storage.connection() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE bulk_cut IN EXCLUSIVE MODE")
        first = asyncio.create_task(storage.cut(MICROSECONDS))
        with storage.connection() as looking:
            await until(lambda: bool(looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()))
        other.execute(
            "INSERT INTO bulk_cut SELECT bulk_clock(), pg_current_snapshot(), system_identifier FROM pg_control_system()"
        )
        other.execute("COMMIT")
        cut = await first
        assert other.execute("SELECT count(*), min(instant) > %s FROM bulk_cut", (cut,)).fetchall() == [(1, True)]
        storage.write(patient("later"))
        assert await held(storage, cut) == 0


async def test_a_write_after_a_cut_has_a_later_stamp_though_the_clock_was_set_back(storage: DocumentStorage) -> None:
    """Law 4."""
    storage.write(patient("a"))
    cut = await storage.cut(MICROSECONDS)
    with storage.connection() as connection:
        set_clock(connection, -10_000_000)
        storage.write(patient("b"), patient("a"))
        stamps = connection.execute("SELECT id, last_updated > %s FROM version ORDER BY seq", (cut,)).fetchall()
    assert stamps == [("a", False), ("b", True), ("a", True)]
