"""Iterators are closed at the end of a context, so that they hold no file or cursor any longer."""

from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

import anyio
import pytest

from fhir_bulk_middleware.streams.closing import closing

pytestmark = pytest.mark.anyio


async def pages(closed: list[str], count: int = 3) -> AsyncIterator[int]:
    try:
        for number in range(count):
            yield number
    finally:
        await anyio.lowlevel.checkpoint()  # raises if the reader's cancellation reaches it
        closed.append("closed")


async def test_a_generator_that_is_left_early_is_closed_at_once() -> None:
    closed: list[str] = []
    async with closing(pages(closed)) as source:
        assert await anext(source) == 0
        assert closed == []
    assert closed == ["closed"]


async def test_a_generator_releases_what_it_holds_although_its_reader_was_cancelled() -> None:
    closed: list[str] = []
    with anyio.CancelScope() as scope:
        async with closing(pages(closed)) as source:
            await anext(source)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert closed == ["closed"]


async def test_a_generator_that_has_ended_is_closed_once() -> None:
    closed: list[str] = []
    async with closing(pages(closed)) as source:
        assert [number async for number in source] == [0, 1, 2]
    assert closed == ["closed"]


class Compiled(AsyncGenerator[int, None]):
    """A generator that is not made by Python, as those of compiled modules."""

    def __init__(self) -> None:
        self.closed = False

    async def __anext__(self) -> int:
        return 1

    async def asend(self, value: None) -> int:
        del value
        return 1

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> int:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True


async def test_a_generator_of_another_make_is_closed() -> None:
    source = Compiled()
    async with closing(source):
        await anext(source)
    assert source.closed
