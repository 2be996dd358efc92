"""A storage that cannot answer now says so with `BUSY`: 503 in the server, another attempt in a worker."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from house import KICK_OFF, populate

from fhir_bulk_middleware import Authorisation, MemoryResourceStore, Page, Principal, Query, Reason, Refused

pytestmark = pytest.mark.anyio


def busy() -> Refused:
    return Refused(Reason.BUSY, "The warehouse is closed for a moment.", retry_after=7)


class Busy(MemoryResourceStore):
    """Cannot answer as often as `times` says."""

    times = 0

    def look(self) -> None:
        if self.times:
            self.times -= 1
            raise busy()

    async def authorise(self, principal: Principal) -> Authorisation:
        self.look()
        return await super().authorise(principal)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        self.look()
        async for page in super().pages(query, after):
            yield page


async def test_a_kick_off_that_meets_a_busy_storage_is_asked_to_come_again(make_house: Any) -> None:
    async with make_house(store=Busy) as house:
        house.resources.times = 1
        refused = await house.ask("GET", "/$export", headers=KICK_OFF)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
        assert "The warehouse is closed for a moment." in refused.text
        assert (await house.ask("GET", "/$export", headers=KICK_OFF)).status_code == 202


@pytest.mark.parametrize(("times", "status"), [(3, 200), (4, 500)])
async def test_work_that_meets_a_busy_storage_is_tried_again(make_house: Any, times: int, status: int) -> None:
    """`Settings.attempts` is 4: what is busy for longer fails the job."""
    async with make_house(store=Busy) as house:
        await populate(house)
        location = await house.kick_off("/$export?_type=Patient")
        house.resources.times = times
        for _ in range(10):
            await house.runner.finish()
            house.clock.advance(house.settings.lease_seconds + 1)
        polled = await house.ask("GET", location)
        assert polled.status_code == status
        if status == 200:
            assert [item["count"] for item in polled.json()["output"]] == [3]
