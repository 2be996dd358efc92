"""A resource that its storage cannot give out is reported, and the job goes on without it (ST-15, ST-16)."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from house import House

from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.dialects import STANDARD, STU4

pytestmark = pytest.mark.anyio

SMALL = {"part_bytes": 2048, "page_bytes": 1024, "slice_bytes": 1_000_000, "smallest_part_bytes": 1}


class Holes:
    """Pages of a store of ours, some resources of which cannot be read; fails once, if told to, in the middle."""

    def __init__(self, house: House, unreadable: set[str], *, fail_after: int | None = None) -> None:
        self._pages = house.resources.pages
        self._unreadable = unreadable
        self._fail_after = fail_after

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        given = 0
        async for page in self._pages(query, after):
            if self._fail_after is not None and given >= self._fail_after:
                self._fail_after = None
                raise OSError("the disk is tired")
            given += 1
            kept, lost = [], []
            for line in page.lines.splitlines(keepends=True):
                reference = "/".join(json.loads(line)[key] for key in ("resourceType", "id"))
                (lost.append(reference) if reference in self._unreadable else kept.append(line))
            yield replace(page, lines=b"".join(kept), count=len(kept), unreadable=tuple(lost))


async def patients(house: House, count: int) -> None:
    for number in range(count):
        await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"text": "x" * 100}]}, f"p{number:03}")
    house.clock.advance(1)


def reported(lines: dict[str, list[str]]) -> list[str]:
    """The references that error files name, in their order."""
    return [json.loads(line)["issue"][0]["diagnostics"].partition(" ")[0] for line in lines.get("OperationOutcome", [])]


@pytest.mark.parametrize("fail_after", [None, 1, 5, 12])
async def test_each_unreadable_resource_is_reported_once_even_over_a_retry(
    make_house: Any, monkeypatch: pytest.MonkeyPatch, fail_after: int | None
) -> None:
    async with make_house(**SMALL, renew_seconds=0.001, lease_seconds=0.01) as house:
        await patients(house, 100)
        unreadable = {f"Patient/p{number:03}" for number in (0, 1, 17, 50, 98, 99)}
        monkeypatch.setattr(house.resources, "pages", Holes(house, unreadable, fail_after=fail_after).pages)
        manifest = await house.export("/$export?_type=Patient")
        found = await house.lines(manifest)
        errors = await house.lines(manifest, "error")

    assert len(found["Patient"]) == 94
    assert reported(errors) == sorted(unreadable)
    assert sum(item["count"] for item in manifest["error"]) == 6
    assert json.loads(errors["OperationOutcome"][0])["issue"][0]["severity"] == "error"


async def test_a_type_that_cannot_be_read_at_all_is_all_report(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_house() as house:
        await patients(house, 5)
        unreadable = {f"Patient/p{number:03}" for number in range(5)}
        monkeypatch.setattr(house.resources, "pages", Holes(house, unreadable).pages)
        manifest = await house.export("/$export?_type=Patient")

        assert manifest["output"] == []
        assert reported(await house.lines(manifest, "error")) == sorted(unreadable)


async def test_stu4_counts_the_severities(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MF-12."""
    async with make_house(STU4) as house:
        await patients(house, 5)
        monkeypatch.setattr(house.resources, "pages", Holes(house, {"Patient/p001", "Patient/p003"}).pages)
        manifest = await house.export()

    (outcome,) = manifest["outcome"]
    assert outcome["countSeverity"] == [{"code": "error", "count": 2}]


async def test_a_name_that_is_no_json_cannot_break_the_report(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_house(STANDARD) as house:
        await patients(house, 1)

        async def pages(query: Query, after: str | None) -> AsyncIterator[Page]:
            del query, after
            yield Page(b"", 0, "end", unreadable=('Patient/"},\n{"',))

        monkeypatch.setattr(house.resources, "pages", pages)
        manifest = await house.export("/$export?_type=Patient")
        lines = (await house.lines(manifest, "error"))["OperationOutcome"]

    assert len(lines) == 1
    assert json.loads(lines[0])["issue"][0]["diagnostics"] == 'Patient/"},\n{" could not be exported.'
