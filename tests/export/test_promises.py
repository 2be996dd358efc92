"""What a mount says of promises that a storage cannot keep, and what it never says (laws 6, 28; DR-07, SE-18)."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from house import KICK_OFF, House, populate

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Page, Query

pytestmark = pytest.mark.anyio


class Plain:
    """A storage that can be exported, and no more: no snapshot, no deletions, no groups."""

    def __init__(self) -> None:
        self.lines = [b'{"resourceType":"Patient","id":"p1"}\n']

    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(frozenset({"Patient"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        assert query.as_of is None
        if after is None:
            yield Page(b"".join(self.lines), len(self.lines), "end")


async def test_a_storage_without_snapshots_or_deletions_is_declared_as_such(make_house: Any) -> None:
    """Laws 6 and 28; DR-07: the manifest says so, and transactionTime lies before the export began."""
    async with make_house(parts={"resources": Plain()}, settle=5) as house:
        manifest = await house.export("/$export?_since=2020-01-01T00:00:00Z")

        assert manifest["extension"] == {"exactSnapshot": False, "deletedComplete": False}
        assert manifest["deleted"] == []
        assert manifest["transactionTime"] == "2026-03-01T11:59:56.000Z", "now, less the time that transactions may be open"
        assert [item["count"] for item in manifest["output"]] == [1]


async def test_without_groups_there_is_no_group_level(make_house: Any) -> None:
    async with make_house(parts={"resources": Plain()}) as house:
        assert (await house.ask("GET", "/Group/any/$export", headers=KICK_OFF)).status_code == 404


async def test_a_storage_that_keeps_every_promise_is_not_excused(house: House) -> None:
    assert "extension" not in await house.export()


async def test_logs_hold_no_query_strings_no_tokens_and_no_resources(
    make_house: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SE-18: parameters identify patients, so not even a fault logs them."""
    caplog.set_level(logging.DEBUG, "fhir_bulk_middleware")
    async with make_house() as house:
        await populate(house)
        token = house.token()
        secret = "Patient%3Fidentifier%3D943-476-5919"
        for path in (f"/$export?_typeFilter={secret}", f"/$export?_typeFilter={secret}&foo=943-476-5919"):
            await house.ask("GET", path, headers=KICK_OFF, token=token)
        await house.runner.finish()

        async def broken(*_: object, **__: object) -> None:
            raise OSError("disk")

        monkeypatch.setattr(house.jobs, "add", broken)
        assert (await house.ask("GET", f"/$export?_typeFilter={secret}", headers=KICK_OFF, token=token)).status_code == 500
        ours = [record for record in caplog.records if record.name.startswith("fhir_bulk_middleware")]
        text = "\n".join(record.getMessage() + str(record.exc_info or "") for record in ours)

    assert "disk" in text, "the operator learns the cause"
    for never in ("943-476-5919", token, "Álvarez"):
        assert never not in text
