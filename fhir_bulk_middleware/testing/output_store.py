"""The suite for output stores: the promises of `OutputStore` as tests.

Subclass `OutputStoreSuite` with a fixture that makes a store:

    class TestMyStore(OutputStoreSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)
"""

import itertools
from collections.abc import AsyncIterator

import anyio

from fhir_bulk_middleware.contract.output_store import Link, OutputStore, SupportsLinking
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["OutputStoreSuite"]

_LONG = bytes(range(256)) * 4096  # 1 MiB, larger than the chunks of a store
_MORE_THAN_IN_MEMORY = 10  # times that much a store may gather, before it has anything of a part


class _Left(Exception):  # noqa: N818 - any failure while a part is written
    pass


@pytest.mark.anyio
class OutputStoreSuite:
    """The promises of an output store. The message of a failed test names the promise."""

    @pytest.fixture
    def store(self) -> OutputStore:
        """An empty store. Override this."""
        pytest.skip("override the fixture `store`")

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Asyncio is the supported loop."""
        return "asyncio"

    async def test_a_sealed_part_reads_back_byte_for_byte(self, store: OutputStore) -> None:
        """All bytes, in order, however they were divided into writes."""
        key = _key()
        await _put(store, key, b"", _LONG[:1], _LONG[1:300_000], _LONG[300_000:])
        assert await _get(store, key, 0, len(_LONG)) == _LONG, "a sealed part must read back byte for byte"

    async def test_a_store_is_bound_to_one_job_store_for_good(self, store: OutputStore) -> None:
        """Law 32: the sweep of another job store would remove these parts."""
        promise = "an output store is bound to the first job store that asks, and to no other"
        assert await store.bind("a" * 32), promise
        assert not await store.bind("b" * 32), promise
        assert await store.bind("a" * 32), promise
        await _put(store, _key(), b"x")
        assert not await store.bind("b" * 32), promise
        assert all(job_id != "a" * 32 for job_id in await _jobs(store)), "what a store is bound to is no job"

    async def test_of_several_who_bind_at_once_one_is_first(self, store: OutputStore) -> None:
        """Law 32."""
        bound: list[str] = []

        async def bind(name: str) -> None:
            if await store.bind(name):
                bound.append(name)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(bind, f"{number}" * 32)
        assert len(bound) == 1, "of several job stores that bind an output store at once one succeeds"

    async def test_any_range_of_a_part_can_be_read(self, store: OutputStore) -> None:
        """A range at the beginning, across chunks, at the end, and an empty one."""
        key = _key()
        await _put(store, key, _LONG)
        for start, length in [(0, 1), (7, 11), (262_140, 300_000), (len(_LONG) - 1, 1), (5, 0), (len(_LONG), 0)]:
            got = await _get(store, key, start, length)
            assert got == _LONG[start : start + length], "a read must give exactly the range that was asked for"

    async def test_a_read_comes_in_chunks(self, store: OutputStore) -> None:
        """Memory is bounded by a chunk, not by the part."""
        key = _key()
        await _put(store, key, _LONG)
        sizes = [len(chunk) async for chunk in store.read(key, 0, len(_LONG))]
        assert max(sizes) < len(_LONG), "a read must come in chunks, so that a large part never is in memory as a whole"

    async def test_an_empty_part_is_a_part(self, store: OutputStore) -> None:
        """Sealing without writing makes an empty part."""
        key = _key()
        await _put(store, key)
        assert await _get(store, key, 0, 0) == b"", "a part without bytes must exist once it is sealed"

    async def test_a_part_that_is_not_there_says_so_on_the_first_step(self, store: OutputStore) -> None:
        """For an unknown job, and for an unknown part of a known job."""
        job_id = new_job_id()
        for _ in range(2):
            await _refuses(store, f"{job_id}/absent.ndjson", "reading a part that is not there must raise FileNotFoundError")
            await _put(store, f"{job_id}/present.ndjson", b"x")

    async def test_nobody_sees_a_part_before_it_is_sealed(self, store: OutputStore) -> None:
        """While it is written, and after it was left unsealed."""
        key = _key()
        async with store.create(key) as sink:
            await sink.write(_LONG)
            await _refuses(store, key, "a part must not be seen before it is sealed")
        await _refuses(store, key, "a part that was left unsealed must not be seen")
        assert key.partition("/")[0] not in await _jobs(store), "a part that was left unsealed must leave nothing behind"

    async def test_a_failure_while_writing_leaves_nothing(self, store: OutputStore) -> None:
        """The exception is raised, and the bytes are removed."""
        key = _key()
        with pytest.raises(_Left):
            await _fail(store, key)
        await _refuses(store, key, "a part whose writer failed must not be seen")
        assert key.partition("/")[0] not in await _jobs(store), "a part whose writer failed must leave nothing behind"

    async def test_a_cancelled_writer_leaves_nothing(self, store: OutputStore) -> None:
        """Cancellation reaches the store while the part is open."""
        key = _key()
        with anyio.CancelScope() as scope:
            async with store.create(key) as sink:
                await sink.write(_LONG)
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        await _refuses(store, key, "a part whose writer was cancelled must not be seen")
        assert key.partition("/")[0] not in await _jobs(store), "a part whose writer was cancelled must leave nothing behind"

    async def test_a_key_written_again_is_replaced_as_a_whole(self, store: OutputStore) -> None:
        """The old part stays until the new one is sealed, and is then replaced as a whole."""
        key = _key()
        await _put(store, key, b"first and longer")
        async with store.create(key) as sink:
            await sink.write(b"second")
            assert await _get(store, key, 0, 16) == b"first and longer", "a part must stay whole until its successor is sealed"
            await sink.seal()
        assert await _get(store, key, 0, 16) == b"second", "a key written again must be replaced as a whole"

    async def test_leaving_a_successor_unsealed_keeps_the_part(self, store: OutputStore) -> None:
        """A failed retry leaves the old part in place."""
        key = _key()
        await _put(store, key, b"first")
        async with store.create(key) as sink:
            await sink.write(b"second")
        assert await _get(store, key, 0, 5) == b"first", "leaving a successor unsealed must keep the part"

    async def test_parts_of_one_job_can_be_written_at_the_same_time(self, store: OutputStore) -> None:
        """Several workers export one job."""
        job_id = new_job_id()
        async with store.create(f"{job_id}/0-0.1.ndjson") as one:
            async with store.create(f"{job_id}/1-0.1.ndjson") as two:
                await two.write(b"two")
                await one.write(b"one")
                await two.seal()
            await one.seal()
        got = [await _get(store, f"{job_id}/{number}-0.1.ndjson", 0, 3) for number in (0, 1)]
        assert got == [b"one", b"two"], "parts written at the same time must not mix"

    async def test_discard_removes_a_jobs_parts_and_no_others(self, store: OutputStore) -> None:
        """Twice, since a sweep may repeat it."""
        key, other = _key(), _key()
        await _put(store, key, b"gone")
        await _put(store, other, b"kept")
        for _ in range(2):
            await store.discard(key.partition("/")[0])
        await _refuses(store, key, "a discarded part must be gone")
        assert other.partition("/")[0] in await _jobs(store), "discarding a job must not touch another one"
        assert await _get(store, other, 0, 4) == b"kept", "discarding a job must not touch another one"

    async def test_discard_keeps_what_it_is_told_to_keep(self, store: OutputStore) -> None:
        """A finished job discards the parts of failed attempts and keeps its result."""
        key = _key()
        left = f"{key}.left"
        await _put(store, key, b"kept")
        await _put(store, left, b"gone")
        async with store.create(f"{key}.begun") as sink:
            await sink.write(b"begun")
            for _ in range(2):
                await store.discard(key.partition("/")[0], keep=[key])
        await _refuses(store, left, "what is not kept must be gone")
        try:
            kept = await _get(store, key, 0, 4)
        except OSError:
            kept = b""
        assert kept == b"kept", "what is to be kept must stay"

    async def test_discard_removes_what_was_only_begun(self, store: OutputStore) -> None:
        """A writer that still holds a part cannot bring back the job unnoticed."""
        key = _key()
        job_id = key.partition("/")[0]
        async with store.create(key) as sink:
            await sink.write(_LONG)
            await store.discard(job_id)
            try:
                await sink.seal()
            except OSError:
                pass
            else:
                assert job_id in await _jobs(store), "what is sealed after a discard must be listed, to be discarded again"
                await store.discard(job_id)
        assert job_id not in await _jobs(store), "a discarded job must have nothing left"

    async def test_a_read_that_has_begun_survives_a_discard(self, store: OutputStore) -> None:
        """Running downloads may finish (DL-09)."""
        key = _key()
        await _put(store, key, _LONG)
        chunks = store.read(key, 0, len(_LONG))
        got = await anext(chunks)
        await store.discard(key.partition("/")[0])
        try:
            async for chunk in chunks:
                got += chunk
        except OSError:
            got = b""
        assert got == _LONG, "a read that has begun must go on to its end though the part is discarded"

    async def test_a_link_reads_as_its_part_does(self, store: OutputStore) -> None:
        """And what cannot be linked is left out."""
        links = _linking(store)
        source, key, other = _key(), _key(), _key()
        await _put(store, source, _LONG)
        await _put(store, other, b"kept")
        size = len(_LONG)
        made = await links.link(
            [Link(source, key, size), Link(source, f"{key}.short", size - 1), Link(_key(), f"{key}.lost", size)]
        )
        assert set(made) == {key}, "a part is linked under its key if it is there and has the size that is told, and else not"
        assert await _get(store, key, 0, size) == _LONG, "a link must read as the part that it was made of"
        for absent in ("short", "lost"):
            await _refuses(store, f"{key}.{absent}", "what was not linked must not be there")
        assert not set(await links.link([Link(source, other, size)])), "a link must never replace a part"
        assert await _get(store, other, 0, 4) == b"kept", "a link must never replace a part"
        assert key.partition("/")[0] in await _jobs(store), "a job with a link must be listed"

    async def test_no_link_is_made_of_a_part_that_is_not_sealed(self, store: OutputStore) -> None:
        """It may still change."""
        links, source = _linking(store), _key()
        async with store.create(source) as sink:
            await sink.write(b"four")
            made = await links.link([Link(source, _key(), 4), Link(source, _key(), 0)])
        assert not set(made), "a part must not be linked before it is sealed"

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_the_bytes_stay_as_long_as_one_key_does(self, store: OutputStore, order: tuple[int, ...]) -> None:
        """Jobs that share files are discarded in any order; the second link is one of the first."""
        links, keys = _linking(store), [_key() for _ in range(3)]
        await _put(store, keys[0], _LONG)
        for source, key in itertools.pairwise(keys):
            assert set(await links.link([Link(source, key, len(_LONG))])) == {key}, "a link can be linked"
        for number in order:
            assert await _get(store, keys[number], 0, len(_LONG)) == _LONG, "the bytes must stay as long as one key does"
            await store.discard(keys[number].partition("/")[0])
            await _refuses(store, keys[number], "a discarded link must be gone")
        assert not {key.partition("/")[0] for key in keys} & set(await _jobs(store)), "a discarded job must have nothing left"

    async def test_a_part_that_is_written_again_leaves_its_links_as_they_are(self, store: OutputStore) -> None:
        """A link is to the bytes, not to the key."""
        links, source, key = _linking(store), _key(), _key()
        await _put(store, source, b"first")
        assert set(await links.link([Link(source, key, 5)])) == {key}, "a part can be linked"
        await _put(store, source, b"second")
        assert await _get(store, key, 0, 5) == b"first", "a link must keep the bytes that it was made of"

    async def test_jobs_lists_every_job_with_anything_here(self, store: OutputStore) -> None:
        """Sealed or not: a sweep finds the parts of jobs that the job store no longer knows, and what killed workers left."""
        sealed, begun = _key(), _key()
        await _put(store, sealed, b"x")
        async with store.create(begun) as sink:
            for _ in range(_MORE_THAN_IN_MEMORY):
                await sink.write(_LONG)
            listed = await _jobs(store)
        for key in (sealed, begun):
            assert key.partition("/")[0] in listed, "a job with anything in the store must be listed"
        assert len(listed) == len(set(listed)), "a job must be listed once"


def _linking(store: OutputStore) -> SupportsLinking:
    if not isinstance(store, SupportsLinking):
        pytest.skip("SupportsLinking is not implemented")
    return store


def _key() -> str:
    return f"{new_job_id()}/0-0.1.ndjson"


async def _put(store: OutputStore, key: str, *pieces: bytes) -> None:
    async with store.create(key) as sink:
        for piece in pieces:
            await sink.write(piece)
        await sink.seal()


async def _fail(store: OutputStore, key: str) -> None:
    async with store.create(key) as sink:
        await sink.write(_LONG)
        raise _Left


async def _get(store: OutputStore, key: str, start: int, length: int) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start, length)])


async def _refuses(store: OutputStore, key: str, promise: str) -> None:
    chunks: AsyncIterator[bytes] = store.read(key, 0, 1)
    try:
        async for _ in chunks:
            pass
    except FileNotFoundError:
        return
    raise AssertionError(promise)


async def _jobs(store: OutputStore) -> list[str]:
    return [job_id async for job_id in store.jobs()]
