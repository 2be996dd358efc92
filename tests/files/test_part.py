import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.job import Codec, FileKind, Part
from fhir_bulk_middleware.files import deflate
from fhir_bulk_middleware.files.part import FLUSH_INTERVAL, PartEncoder, PartReader, default_codec
from fhir_bulk_middleware.identifiers import file_id, new_job_id
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore

JOB = new_job_id()


def lines(size: int) -> bytes:
    """NDJSON-like bytes that compress, but not to nothing."""
    words = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(64))
    return (b'{"resourceType":"Observation","value":"' + words + b'"}\n') * (size // 4096 + 1)


TEXT = lines(3 * FLUSH_INTERVAL + 70_000)[: 3 * FLUSH_INTERVAL + 54_321]


async def stored(outputs: MemoryOutputStore, pages: Sequence[bytes], codec: Codec) -> Part:
    encoder = PartEncoder(codec)
    key = f"{JOB}/0-0.1.ndjson"
    async with outputs.create(key) as sink:
        for page in pages:
            await sink.write(encoder.encode(page))
        await sink.write(encoder.finish())
        await sink.seal()
    found = encoder.summary
    return Part(
        file_id=file_id(JOB, 0, 0),
        slice=0,
        number=0,
        kind=FileKind.OUTPUT,
        type="Observation",
        key=key,
        codec=codec,
        count=len(pages),
        size=found.size,
        sha256=found.sha256,
        stored_size=found.stored_size,
        flush_points=found.flush_points,
        sealed_at=Instant(0),
    )


async def gathered(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def cut(text: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [*sorted(place for place in places if place < len(text)), len(text)]
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


PLACES = st.lists(st.one_of(st.integers(0, len(TEXT)), st.sampled_from([FLUSH_INTERVAL, 2 * FLUSH_INTERVAL])), max_size=12)


@pytest.mark.anyio
@settings(max_examples=40)
@given(data=st.data(), codec=st.sampled_from(Codec), places=PLACES, size=st.integers(1, len(TEXT)))
async def test_any_range_of_any_pages_reads_back_exactly(data: st.DataObject, codec: Codec, places: list[int], size: int) -> None:
    text = TEXT[:size]
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))

    outputs = MemoryOutputStore()
    part = await stored(outputs, cut(text, places), codec)
    assert await gathered(PartReader(outputs, part).read(start, length)) == text[start : start + length]


@pytest.mark.anyio
@settings(max_examples=25)
@given(codec=st.sampled_from(Codec), places=PLACES)
async def test_what_a_part_is_does_not_depend_on_how_its_pages_were_cut(codec: Codec, places: list[int]) -> None:
    outputs = MemoryOutputStore()
    whole = await stored(outputs, [TEXT], codec)
    pieces = await stored(outputs, cut(TEXT, places), codec)
    lying = await gathered(outputs.read(pieces.key, 0, pieces.stored_size))
    assert (pieces.size, pieces.sha256) == (whole.size, whole.sha256) == (len(TEXT), hashlib.sha256(TEXT).hexdigest())
    assert len(lying) == pieces.stored_size
    assert len(pieces.flush_points) == (4 if codec is Codec.GZIP else 0)


@pytest.mark.anyio
@pytest.mark.parametrize("fast", [deflate.FAST, False])
async def test_a_gzipped_part_is_one_member_that_anybody_can_open(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "FAST", fast)
    outputs = MemoryOutputStore()
    part = await stored(outputs, [TEXT], Codec.GZIP)
    lying = await gathered(outputs.read(part.key, 0, part.stored_size))
    assert gzip.decompress(lying) == TEXT
    assert lying[:10][3:8] == bytes(5), "no name and no time in the header"
    assert zlib.decompressobj(31).decompress(lying) == TEXT
    assert part.stored_size < len(TEXT) / 1.5


@pytest.mark.anyio
async def test_inflating_can_begin_at_every_flush_point() -> None:
    outputs = MemoryOutputStore()
    part = await stored(outputs, [TEXT], Codec.GZIP)
    lying = await gathered(outputs.read(part.key, 0, part.stored_size))
    for number, point in enumerate(part.flush_points):
        assert zlib.decompressobj(-15).decompress(lying[point:]) == TEXT[number * FLUSH_INTERVAL :]


@pytest.mark.anyio
@pytest.mark.parametrize(("written", "read"), [(True, False), (False, True)])
async def test_a_part_that_isal_wrote_reads_without_it_and_the_other_way_round(
    written: bool, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("isal")
    outputs = MemoryOutputStore()
    monkeypatch.setattr(deflate, "FAST", written)
    part = await stored(outputs, [TEXT], Codec.GZIP)
    monkeypatch.setattr(deflate, "FAST", read)
    assert await gathered(PartReader(outputs, part).read(FLUSH_INTERVAL - 3, 9)) == TEXT[FLUSH_INTERVAL - 3 : FLUSH_INTERVAL + 6]


def test_a_part_that_ends_on_a_boundary_has_no_flush_point_behind_its_end() -> None:
    encoder = PartEncoder(Codec.GZIP)
    encoder.encode(TEXT[: 2 * FLUSH_INTERVAL])
    encoder.finish()
    assert len(encoder.summary.flush_points) == 2


@pytest.mark.anyio
async def test_a_range_reads_little_more_than_its_own_interval() -> None:
    class Counting(MemoryOutputStore):
        taken = 0

        async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
            async for chunk in super().read(key, start, length):
                self.taken += len(chunk)
                yield chunk

    outputs = Counting()
    part = await stored(outputs, [TEXT], Codec.GZIP)
    await gathered(PartReader(outputs, part).read(2 * FLUSH_INTERVAL + 5, 10))
    assert outputs.taken == part.flush_points[3] - part.flush_points[2]


@pytest.mark.anyio
async def test_chunks_stay_small_though_the_part_inflates_a_thousandfold() -> None:
    outputs = MemoryOutputStore()
    part = await stored(outputs, [b"\0" * (8 * FLUSH_INTERVAL)], Codec.GZIP)
    sizes = [len(chunk) async for chunk in PartReader(outputs, part).read(0, part.size)]
    assert max(sizes) <= 256 * 1024
    assert list(accumulate(sizes))[-1] == part.size


@pytest.mark.anyio
@pytest.mark.parametrize("codec", Codec)
async def test_a_part_that_is_shorter_than_its_row_says_is_an_error_not_a_short_answer(codec: Codec) -> None:
    outputs = MemoryOutputStore()
    part = await stored(outputs, [TEXT[:1000]], codec)
    with pytest.raises(OSError, match="early"):
        await gathered(PartReader(outputs, replace(part, size=2000)).read(0, 2000))


@pytest.mark.anyio
async def test_a_part_that_was_damaged_is_an_error() -> None:
    outputs = MemoryOutputStore()
    part = await stored(outputs, [TEXT], Codec.GZIP)
    with pytest.raises(OSError, match="inflated"):
        await gathered(PartReader(outputs, replace(part, flush_points=(3, *part.flush_points[1:]))).read(0, 100))


@pytest.mark.anyio
async def test_reading_a_part_that_is_gone_says_so_on_the_first_step() -> None:
    outputs = MemoryOutputStore()
    part = await stored(outputs, [TEXT], Codec.GZIP)
    await outputs.discard(JOB)
    with pytest.raises(FileNotFoundError):
        await anext(PartReader(outputs, part).read(0, 10))


def test_parts_are_gzipped_where_that_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "FAST", True)
    assert default_codec() is Codec.GZIP
    monkeypatch.setattr(deflate, "FAST", False)
    assert default_codec() is Codec.PLAIN
