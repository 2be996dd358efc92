"""Loading NDJSON: what is read, and how clearly it is said where something is wrong."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_bulk_middleware.demo.loading import LoadError, NdjsonFolder, load
from fhir_bulk_middleware.demo.population import population
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
