"""Loading NDJSON: what is read, and how clearly it is said where something is wrong."""

import gzip
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from fhir_bulk_middleware.demo.load_error import LoadError
from fhir_bulk_middleware.demo.loading import ByLastUpdated, NdjsonFolder, load
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

GOOD = b'{"resourceType":"Patient","id":"%d"}\n'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteResourceStore]:
    store = SQLiteResourceStore(tmp_path / "state" / "store.db")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.mark.anyio
async def test_a_folder_is_read_with_all_its_plain_and_zipped_files(store: SQLiteResourceStore, folder: Path) -> None:
    (folder / "A.ndjson").write_bytes(GOOD % 1 + b"\r\n" + GOOD % 2)
    (folder / "B.ndjson.gz").write_bytes(gzip.compress(GOOD % 3, mtime=0))
    (folder / "notes.txt").write_text("no resource")

    assert load(store, NdjsonFolder(folder)) == 3
    for id_ in "123":
        assert await store.read("Patient", id_) is not None


def test_a_population_is_loaded_whole(store: SQLiteResourceStore) -> None:
    lines = list(population(patients=5))
    seen: list[int] = []

    assert load(store, lines, seen.append) == len(lines)
    assert seen == sorted(seen)
    assert seen[-1] == len(lines)


def test_all_bytes_are_accounted_for(folder: Path) -> None:
    (folder / "A.ndjson").write_bytes(b"".join(GOOD % number for number in range(100)))
    (folder / "B.ndjson.gz").write_bytes(gzip.compress(GOOD % 100, mtime=0))

    lines = NdjsonFolder(folder)
    assert len(list(lines)) == 101
    assert lines.read == lines.size


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("A.ndjson", GOOD % 1 + b"\n{\n", "A.ndjson, line 3: "),
        ("A.ndjson", GOOD % 1 + b"[]\n" + GOOD % 2, "A.ndjson, line 2: "),
        ("A.ndjson", b'{"resourceType":"Patient"}\n', "A.ndjson, line 1: id"),
        ("A.ndjson", b'{"resourceType":"Patient","id":"\xff"}\n', "A.ndjson, line 1: "),
        ("A.ndjson.gz", gzip.compress(GOOD % 1 + b"{}\n", mtime=0), "A.ndjson.gz, line 2: resourceType"),
        ("A.ndjson.gz", b"not gzip", "A.ndjson.gz: "),
        ("A.ndjson.gz", gzip.compress(GOOD % 1, mtime=0)[:-4], "A.ndjson.gz"),
    ],
)
def test_an_error_names_file_and_line(store: SQLiteResourceStore, folder: Path, name: str, content: bytes, where: str) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(LoadError) as caught:
        load(store, NdjsonFolder(folder))

    assert where in str(caught.value)


def test_what_was_read_before_a_file_ended_early_is_loaded_and_told(store: SQLiteResourceStore, folder: Path) -> None:
    """So it is after Ctrl-C: what was parsed is written, and the progress asks how far the files are read."""
    whole = gzip.compress(b"".join(GOOD % number for number in range(20_000)), mtime=0)
    (folder / "A.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    lines, told = NdjsonFolder(folder), list[tuple[int, int]]()

    with pytest.raises(LoadError, match=r"A\.ndjson\.gz"):
        load(store, lines, lambda count: told.append((count, lines.read)))

    assert told[-1][0] > 1_000
    assert told[-1][1] == lines.size


@pytest.mark.parametrize("helpers", [0, 1, 2])
def test_an_error_after_many_good_lines_names_file_and_line(store: SQLiteResourceStore, folder: Path, helpers: int) -> None:
    (folder / "A.ndjson").write_bytes(b"".join(b"\n" * (number % 7 == 0) + GOOD % number for number in range(1_500)))
    (folder / "B.ndjson").write_bytes(b"\n" + b"".join(GOOD % number for number in range(3_000)) + b"{}\n")

    with pytest.raises(LoadError, match=r"B\.ndjson, line 3002: resourceType"):
        load(store, NdjsonFolder(folder), helpers=helpers)


@pytest.mark.anyio
@pytest.mark.parametrize("helpers", [1, 2, 3])
async def test_helpers_give_the_same_store(tmp_path: Path, helpers: int) -> None:
    lines = list(population(patients=60))
    alone = SQLiteResourceStore(tmp_path / "alone.db", clock=lambda: Instant(1))
    helped = SQLiteResourceStore(tmp_path / "helped.db", clock=lambda: Instant(1))

    assert load(alone, lines) == load(helped, lines, helpers=helpers) == len(lines) > 4_000

    extent = "(SELECT block, live, in_patient, size, changed FROM extent)"  # without its stamp, which is random
    for table in ("resource", "compartment", "target", "owner", extent):
        rows = []
        for path in ("alone.db", "helped.db"):
            with closing(sqlite3.connect(tmp_path / path)) as database:
                rows.append(database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall())  # noqa: S608 - no data
        assert rows[0] == rows[1], table
    alone.close()
    helped.close()


def test_a_helper_that_is_killed_ends_the_load(store: SQLiteResourceStore) -> None:
    def lines() -> Iterator[bytes]:
        for number in range(20_000):
            if number == 10_000:
                for child in children():
                    os.kill(child, signal.SIGKILL)
            yield GOOD % number

    with pytest.raises(LoadError, match="a process that parses lines ended with status -9"):
        load(store, lines(), helpers=1)
    assert children() == []


def children() -> list[int]:
    """The processes that this one started and that parse lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            if ours and b"drafting_process" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def dated(id_: str, last_updated: str | None, **more: object) -> bytes:
    meta = {} if last_updated is None else {"meta": {"lastUpdated": last_updated}}
    return json.dumps({"resourceType": "Patient", "id": id_, **meta, **more}).encode() + b"\n"


@pytest.mark.anyio
@pytest.mark.parametrize("helpers", [0, 1])
async def test_a_history_is_loaded_in_its_own_order_at_its_own_instants(
    store: SQLiteResourceStore, folder: Path, helpers: int
) -> None:
    """Law 4."""
    (folder / "A.ndjson").write_bytes(
        dated("a", "2021-01-01T00:00:00Z", active=True)
        + dated("b", "2019-06-01T12:00:00.123456+02:00")
        + dated("c", "2020-01-01T00:00:00Z")
    )
    (folder / "B.ndjson.gz").write_bytes(
        gzip.compress(dated("a", "2018-01-01T00:00:00Z", active=False) + dated("d", "2020-01-01T00:00:00Z"), mtime=0)
    )

    assert load(store, ByLastUpdated(NdjsonFolder(folder)), helpers=helpers) == 5

    found = {id_: await store.read("Patient", id_) for id_ in "abcd"}
    assert {id_: stored and (stored.version, stored.last_updated) for id_, stored in found.items()} == {
        "a": (2, parse("2021-01-01T00:00:00Z")),
        "b": (1, parse("2019-06-01T10:00:00.123456Z")),
        "c": (1, parse("2020-01-01T00:00:00Z")),
        "d": (1, parse("2020-01-01T00:00:00Z")),
    }
    first = await store.vread("Patient", "a", 1)
    assert first is not None
    assert (first.last_updated, json.loads(first.json)["active"]) == (parse("2018-01-01T00:00:00Z"), False)
    assert json.loads(first.json)["meta"]["lastUpdated"] == "2018-01-01T00:00:00.000000Z"
    page = await store.search("Patient", ids=None, count=10, after=None)
    assert [stored.id for stored in page.resources] == ["b", "c", "d", "a"]
    written = await store.update("Patient", "c", {"resourceType": "Patient"})
    assert written.last_updated > parse("2026-01-01T00:00:00Z"), "later writes have the time of the machine"


HISTORY: dict[str, tuple[bytes, str]] = {
    "none": (dated("a", None), "A.ndjson, line 2: meta.lastUpdated: is missing"),
    "no date": (dated("a", "yesterday"), "A.ndjson, line 2: meta.lastUpdated: not a FHIR instant"),
    "no text": (b'{"resourceType":"Patient","id":"a","meta":{"lastUpdated":7}}\n', "A.ndjson, line 2: meta.lastUpdated: "),
    "the future": (dated("a", "2999-01-01T00:00:00Z"), "A.ndjson, line 2: meta.lastUpdated: lies in the future"),
    "no resource": (b"{\n", "A.ndjson, line 2: "),
    "no id": (b'{"resourceType":"Patient","meta":{"lastUpdated":"2020-01-01T00:00:00Z"}}\n', "A.ndjson, line 2: id: "),
}


@pytest.mark.parametrize(("line", "says"), HISTORY.values(), ids=HISTORY)
def test_what_cannot_keep_its_instant_is_named(store: SQLiteResourceStore, folder: Path, line: bytes, says: str) -> None:
    (folder / "A.ndjson").write_bytes(dated("z", "2021-01-01T00:00:00Z") + line + dated("y", "2018-01-01T00:00:00Z"))

    with pytest.raises(LoadError) as caught:
        load(store, ByLastUpdated(NdjsonFolder(folder)))

    assert says in str(caught.value)


@pytest.mark.anyio
async def test_history_is_not_loaded_behind_what_the_store_has(store: SQLiteResourceStore, folder: Path) -> None:
    """Law 4: a later export would not hold it."""
    await store.create("Patient", {"resourceType": "Patient"}, "now")
    (folder / "A.ndjson").write_bytes(dated("a", "2021-01-01T00:00:00Z"))

    with pytest.raises(
        LoadError, match=r"A\.ndjson, line 1: meta\.lastUpdated: is not later than 20.*, the store's latest instant"
    ):
        load(store, ByLastUpdated(NdjsonFolder(folder)))

    assert await store.read("Patient", "a") is None


@pytest.mark.anyio
async def test_resources_of_one_instant_are_in_one_transaction(store: SQLiteResourceStore) -> None:
    """Law 4: two transactions never have the same instant."""
    instants = ["2020-01-01T00:00:00Z"] * 5 + ["2020-01-02T00:00:00Z"] + ["2020-01-03T00:00:00Z"] * 2
    seen: list[int] = []
    lines = [dated(str(number), instant) for number, instant in enumerate(instants)]

    assert store.load(lines, batch=2, keep_last_updated=True, progress=seen.append) == 8

    assert seen == [5, 8]


def test_a_byte_order_mark_is_no_part_of_a_resource(store: SQLiteResourceStore, folder: Path) -> None:
    (folder / "A.ndjson").write_bytes(b"\xef\xbb\xbf" + GOOD % 1)

    assert load(store, NdjsonFolder(folder)) == 1


def test_a_single_file_will_do(store: SQLiteResourceStore, folder: Path) -> None:
    (folder / "A.ndjson").write_bytes(GOOD % 1)

    assert load(store, NdjsonFolder(folder / "A.ndjson")) == 1


def test_a_folder_without_such_files_is_an_error(folder: Path) -> None:
    with pytest.raises(LoadError, match=r"there are no \.ndjson or \.ndjson\.gz files in it"):
        NdjsonFolder(folder)
    with pytest.raises(LoadError, match="no such folder"):
        NdjsonFolder(folder / "nowhere")
