"""The ways of a kick-off and of a byte run through the modules that the guide for contributors names, in its order."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import httpx2
import pytest
from house import KICK_OFF, House, populate
from starlette.applications import Starlette
from waiting import PATIENCE

import fhir_bulk_middleware
from fhir_bulk_middleware.workers.runner import LoopRunner

PACKAGE = Path(fhir_bulk_middleware.__file__).parent
GUIDE = (Path(__file__).parent.parent / ".github" / "CONTRIBUTING.md").read_text()

pytestmark = pytest.mark.anyio


def named(way: str) -> list[str]:
    """The modules that a section of the guide names, in order."""
    (section,) = re.findall(rf"^## How a {way} passes through\n(.*?)^## ", GUIDE, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", section)


@contextmanager
def entered() -> Iterator[list[str]]:
    """The modules of the package whose functions are called in this thread while the context is open."""
    found: list[str] = []

    def each(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            module = path.relative_to(PACKAGE).as_posix()
            if found[-1:] != [module]:
                found.append(module)

    before = sys.getprofile()
    sys.setprofile(each)
    try:
        yield found
    finally:
        sys.setprofile(before)


def first_missing(modules: list[str], way: list[str]) -> str | None:
    """The first of the modules that was not entered after those before it."""
    rest = iter(way)
    return next((module for module in modules if module not in rest), None)


def attached(house: House) -> httpx2.AsyncClient:
    """A client of a host that the house is attached to."""
    app = Starlette()
    house.bulk.install(app, base="/fhir")
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="https://ehr.example", headers={"Authorization": f"Bearer {house.token()}"}
    )


async def test_a_kick_off_passes_through_the_modules_that_the_guide_names(house: House) -> None:
    http = attached(house)
    with entered() as way:
        answer = await http.post("/fhir/$export", headers=KICK_OFF)

    assert answer.status_code == 202, answer.text
    assert len(named("kick-off")) > 12
    assert first_missing(named("kick-off"), way) is None


async def test_a_byte_passes_through_the_modules_that_the_guide_names(make_house: Any) -> None:
    async with make_house(parts={"runner": LoopRunner()}, poll_burst=10_000, first_poll_wait=1) as house:
        await populate(house)
        house.clock.advance(1)
        http = attached(house)
        with entered() as way:
            kicked_off = await http.post("/fhir/$export?_type=Patient", headers=KICK_OFF)
            with anyio.fail_after(PATIENCE):
                while (poll := await http.get(kicked_off.headers["Content-Location"])).status_code == 202:  # noqa: ASYNC110 - as clients do
                    await anyio.sleep(0.01)
            part = await http.get(poll.json()["output"][0]["url"], headers={"Range": "bytes=0-9"})

    assert part.status_code == 206
    assert len(named("byte")) > 15
    assert first_missing(named("byte"), way) is None
