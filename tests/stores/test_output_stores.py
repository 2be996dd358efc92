import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fhir_bulk_middleware.contract.output_store import Link, OutputSink, OutputStore
from fhir_bulk_middleware.stores import filesystem, prompt_open
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.streams.closing import closing
from fhir_bulk_middleware.testing.output_store import OutputStoreSuite

JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEY = f"{JOB}/0-0.1.ndjson"


class TestMemoryOutputStore(OutputStoreSuite):
    @pytest.fixture
    def store(self) -> OutputStore:
        return MemoryOutputStore()


class TestFileOutputStoreInTheServer(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> OutputStore:
        return FileOutputStore(tmp_path / "exports")


class TestFileOutputStoreWhereReadingMayAlwaysWait(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputStore:
        monkeypatch.setattr(filesystem, "_CAN_SAY", False)
        return FileOutputStore(tmp_path / "exports")


class TestFileOutputStoreWhereOpeningMayAlwaysWait(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputStore:
        monkeypatch.setattr(prompt_open, "_OPENAT2", 1_000_000)  # which no system knows
        return FileOutputStore(tmp_path / "exports")


class TestFileOutputStoreInAWorker(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> OutputStore:
        return FileOutputStore(tmp_path / "exports", blocking=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "store", [MemoryOutputStore, lambda: FileOutputStore("nowhere"), lambda: FileOutputStore("nowhere", blocking=True)]
)
@pytest.mark.parametrize(
    "key",
    [
        "",
        JOB,
        f"{JOB}/",
        f"{JOB}/.tmp-x",
        f"{JOB}/..",
        f"{JOB}/../x",
        f"{JOB}/a/b",
        f"{JOB}/a\0b",
        f"{JOB}/a\n",
        f"{JOB}/ä",
        f"{JOB}/{'a' * 129}",
        f"{JOB.upper()}/a",
        f"../{JOB}/a",
        f"/{JOB}/a",
        "../../etc/passwd",
    ],
)
async def test_a_key_of_another_shape_never_reaches_a_path(store: Callable[[], OutputStore], key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await anext(store().read(key, 0, 1))
    with pytest.raises(ValueError, match="key"):
        async with store().create(key):
            pass
    assert "nowhere" not in names(Path())


@pytest.mark.anyio
@pytest.mark.parametrize("cold_from", [0, 300_000, 2_000_000])
async def test_what_the_system_has_not_in_memory_is_read_as_well(tmp_path: Path, cold_from: int) -> None:
    store = FileOutputStore(tmp_path)
    content = os.urandom(3_000_000)
    async with store.create(KEY) as sink:
        await sink.write(content)
        await sink.seal()
    with (tmp_path / KEY).open("rb") as file:
        os.posix_fadvise(file.fileno(), cold_from, 0, os.POSIX_FADV_DONTNEED)
    chunks = [chunk async for chunk in store.read(KEY, 1, 2_999_998)]
    assert b"".join(chunks) == content[1:-1]
    assert max(map(len, chunks)) <= 256 * 1024


async def stored(store: OutputStore, content: bytes) -> None:
    async with store.create(KEY) as sink:
        await sink.write(content)
        await sink.seal()


def reads_promptly(path: Path) -> bool:
    """Whether this system opens and reads a file that it has in memory without waiting."""
    file = prompt_open.open_promptly(path)
    if file is None:
        return False
    with file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except (AttributeError, OSError):
            return False


@pytest.mark.anyio
async def test_what_the_system_has_in_memory_is_read_without_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileOutputStore(tmp_path)
    await stored(store, content := os.urandom(1_000_000))
    if not reads_promptly(tmp_path / KEY):
        pytest.skip("this system cannot say whether it would wait")
    assert b"".join([chunk async for chunk in store.read(KEY, 0, 1_000_000)]) == content

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a thread costs more than the chunk")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    assert b"".join([chunk async for chunk in store.read(KEY, 0, 1_000_000)]) == content


@pytest.mark.anyio
async def test_a_file_is_first_opened_in_a_thread_and_until_one_was_read_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of a network cannot read without waiting, and would keep the loop waiting while it opens."""
    monkeypatch.setattr(filesystem, "open_promptly", lambda _: pytest.fail("opening may wait here"))
    monkeypatch.setattr(filesystem, "_CAN_SAY", False)
    store = FileOutputStore(tmp_path)
    await stored(store, b"x" * 1_000_000)
    for _ in range(2):
        assert [len(chunk) async for chunk in store.read(KEY, 999_000, 1_000)] == [1_000]


@pytest.mark.anyio
async def test_a_part_that_goes_after_another_read_is_missed_on_the_first_step(tmp_path: Path) -> None:
    store = FileOutputStore(tmp_path)
    await stored(store, b"x")
    assert [chunk async for chunk in store.read(KEY, 0, 1)] == [b"x"]
    await store.discard(JOB)
    with pytest.raises(FileNotFoundError):
        await anext(store.read(KEY, 0, 1))


@pytest.mark.anyio
async def test_no_file_stays_open_after_its_reader_has_gone(tmp_path: Path) -> None:
    store = FileOutputStore(tmp_path)
    await stored(store, b"x" * 1_000_000)
    for _ in range(3):
        async with closing(store.read(KEY, 0, 1_000_000)) as chunks:
            await anext(chunks)
    assert not held(tmp_path / KEY)


async def write_on_a_full_disk(store: OutputStore, folder: Path) -> None:
    async with store.create(KEY) as sink:
        (name,) = names(folder)
        fill(folder / name)
        await sink.write(b"x" * 1_000_000)
        await sink.seal()


def fill(path: Path) -> None:
    """Whoever has this file open finds the disk full from now on."""
    full = os.open("/dev/full", os.O_WRONLY)
    for descriptor in held(path):
        os.dup2(full, descriptor)
    os.close(full)


def held(path: Path) -> list[int]:
    """The descriptors of this process that have the file open."""
    return [int(each) for each in names(Path("/proc/self/fd")) if Path("/proc/self/fd", each).resolve() == path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


BOTH = pytest.mark.parametrize("blocking", [False, True])


@pytest.mark.anyio
@BOTH
async def test_discarding_by_anything_but_a_job_id_is_refused(tmp_path: Path, blocking: bool) -> None:
    (tmp_path / "exports").mkdir()
    with pytest.raises(ValueError, match="id"):
        await FileOutputStore(tmp_path / "exports", blocking=blocking).discard("..")
    assert names(tmp_path) == ["exports"]


@pytest.mark.anyio
@BOTH
async def test_a_part_is_written_beside_its_place_and_synced_before_it_appears(
    tmp_path: Path, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(("folder" if folder else "file", (tmp_path / KEY).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    async with FileOutputStore(tmp_path, blocking=blocking).create(KEY) as sink:
        await sink.write(b"x" * 300_000)
        assert [path.name.startswith(".tmp-") for path in (tmp_path / JOB).iterdir()] == [True]
        await sink.seal()
    assert seen == [("file", False), ("folder", True), ("folder", True)]
    assert names(tmp_path / JOB) == ["0-0.1.ndjson"]


@pytest.mark.anyio
async def test_other_users_of_the_machine_cannot_look_into_a_jobs_folder(tmp_path: Path) -> None:
    async with FileOutputStore(tmp_path / "exports").create(KEY) as sink:
        await sink.seal()
    assert stat.S_IMODE((tmp_path / "exports" / JOB).stat().st_mode) & 0o077 == 0


@pytest.mark.anyio
@BOTH
async def test_a_full_disk_is_an_error_outward_and_leaves_nothing(tmp_path: Path, blocking: bool) -> None:
    store = FileOutputStore(tmp_path, blocking=blocking)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is asserted
        await write_on_a_full_disk(store, tmp_path / JOB)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.anyio
@BOTH
async def test_a_folder_that_cannot_be_written_is_an_error_outward(tmp_path: Path, blocking: bool) -> None:
    (tmp_path / "exports").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exports"):
        async with FileOutputStore(tmp_path / "exports", blocking=blocking).create(KEY):
            pass


@pytest.mark.anyio
@BOTH
async def test_a_store_without_a_folder_has_no_jobs(tmp_path: Path, blocking: bool) -> None:
    store = FileOutputStore(tmp_path / "not yet", blocking=blocking)
    assert [job_id async for job_id in store.jobs()] == []


@pytest.mark.anyio
async def test_what_else_lies_in_the_folder_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / JOB).mkdir()
    assert [job_id async for job_id in FileOutputStore(tmp_path).jobs()] == [JOB]


@pytest.mark.anyio
async def test_writers_who_leave_and_discard_at_the_same_time_do_not_trip_each_other(tmp_path: Path) -> None:
    store = FileOutputStore(tmp_path)

    async def write(number: int) -> None:
        for _ in range(20):
            async with store.create(f"{JOB}/{number}-0.1.ndjson") as sink:
                await sink.write(b"x")

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(write, number)
    assert names(tmp_path) == []


def test_its_recipe_makes_one_that_blocks_on_the_same_folder(tmp_path: Path) -> None:
    recipe = FileOutputStore(tmp_path).recipe()
    assert recipe.factory == "fhir_bulk_middleware.stores.filesystem:FileOutputStore"
    assert recipe.arguments == {"folder": str(tmp_path), "blocking": True}


class _Eager(MemoryOutputStore):
    """Shows a part while it is written."""

    @asynccontextmanager
    async def create(self, key: str) -> AsyncGenerator[OutputSink]:
        async with super().create(key) as sink:
            await sink.seal()
            yield sink


class _Greedy(MemoryOutputStore):
    """Reads all of a part at once."""

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        yield b"".join([chunk async for chunk in super().read(key, start, length)])


class _Careless(MemoryOutputStore):
    """Discards everybody's parts."""

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:  # noqa: ARG002
        self._parts.clear()


class _Thorough(MemoryOutputStore):
    """Discards what is to be kept."""

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:  # noqa: ARG002
        await super().discard(job_id)


class _Forgetful(MemoryOutputStore):
    """Cannot name a job whose parts are not sealed."""

    async def jobs(self) -> AsyncIterator[str]:
        for job_id in {key.partition("/")[0] for key in self._parts}:
            yield job_id


class _Interrupting(MemoryOutputStore):
    """Ends a running read when the part is discarded."""

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        async for chunk in super().read(key, start, length):
            if key not in self._parts:
                raise FileNotFoundError(key)
            yield chunk


class _OffByOne(MemoryOutputStore):
    """Gives one byte too many."""

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        async for chunk in super().read(key, start, length + 1):
            yield chunk


class _Open(MemoryOutputStore):
    """Lets any job store in."""

    async def bind(self, store: str) -> bool:  # noqa: ARG002
        return True


class _Hesitant(MemoryOutputStore):
    """Looks, and binds a moment later."""

    async def bind(self, store: str) -> bool:
        free = self._bound is None
        await anyio.lowlevel.checkpoint()
        self._bound = store if free else self._bound
        return free or self._bound == store


class _Hasty(MemoryOutputStore):
    """Links whatever is asked for, over whatever is there."""

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        for source, key, _ in links:
            self._parts[key] = self._parts.get(source, b"")
        return {link.key for link in links}


class _Shared(MemoryOutputStore):
    """Looks a link's bytes up at its source."""

    def __init__(self) -> None:
        super().__init__()
        self._source: dict[str, str] = {}

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        made = await super().link(links)
        self._source |= {link.key: link.source for link in links if link.key in made}
        return made

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        async for chunk in super().read(self._source.get(key, key), start, length):
            yield chunk


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broken", "test", "promise"),
    [
        (_Eager, OutputStoreSuite.test_nobody_sees_a_part_before_it_is_sealed, "before it is sealed"),
        (_Eager, OutputStoreSuite.test_a_failure_while_writing_leaves_nothing, "whose writer failed"),
        (_Eager, OutputStoreSuite.test_a_cancelled_writer_leaves_nothing, "was cancelled"),
        (_Eager, OutputStoreSuite.test_a_key_written_again_is_replaced_as_a_whole, "stay whole until"),
        (_Eager, OutputStoreSuite.test_leaving_a_successor_unsealed_keeps_the_part, "must keep the part"),
        (_Greedy, OutputStoreSuite.test_a_read_comes_in_chunks, "in chunks"),
        (_Open, OutputStoreSuite.test_a_store_is_bound_to_one_job_store_for_good, "to no other"),
        (_Hesitant, OutputStoreSuite.test_of_several_who_bind_at_once_one_is_first, "one succeeds"),
        (_Careless, OutputStoreSuite.test_discard_removes_a_jobs_parts_and_no_others, "not touch another"),
        (_Thorough, OutputStoreSuite.test_discard_keeps_what_it_is_told_to_keep, "must stay"),
        (_Forgetful, OutputStoreSuite.test_jobs_lists_every_job_with_anything_here, "must be listed"),
        (_Interrupting, OutputStoreSuite.test_a_read_that_has_begun_survives_a_discard, "go on to its end"),
        (_Hasty, OutputStoreSuite.test_a_link_reads_as_its_part_does, "and else not"),
        (_Hasty, OutputStoreSuite.test_no_link_is_made_of_a_part_that_is_not_sealed, "before it is sealed"),
        (_Shared, OutputStoreSuite.test_a_part_that_is_written_again_leaves_its_links_as_they_are, "that it was made of"),
        (_OffByOne, OutputStoreSuite.test_any_range_of_a_part_can_be_read, "exactly the range"),
    ],
)
async def test_a_broken_store_fails_with_the_promise_that_it_breaks(
    broken: Callable[[], OutputStore], test: Callable[..., object], promise: str
) -> None:
    with pytest.raises(AssertionError, match=promise):
        await test(OutputStoreSuite(), broken())  # type: ignore[misc]
