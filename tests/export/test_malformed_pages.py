"""What operator and client are told of malformed pages, and of pages that hold what must not leave (law 43)."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from house import House

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Block, Deletions, Page, ProvenanceTarget, Query
from fhir_bulk_middleware.instant import Instant, Precision, floor, parse

pytestmark = pytest.mark.anyio

MALFORMED = "The export was stopped because this server's storage handed over data that is malformed; its operator is told how."
BREACH = "The export was stopped because it would have held data that was not asked for. None of it was published."
SINCE = "/$export?_since=2020-01-01T00:00:00Z"


def patient(id_: str, separators: tuple[str, str] = (",", ":"), **more: Any) -> str:
    return json.dumps({"resourceType": "Patient", "id": id_, **more}, separators=separators)


def page(*lines: str, cursor: str = "end") -> Page:
    return Page("".join(f"{line}\n" for line in lines).encode(), len(lines), cursor)


class Handing:
    """Hands over what it is given: once, or for ever."""

    def __init__(self, *, pages: Any = (), deletions: Any = (), blocks: Any = (), extra: Any = ()) -> None:
        self._pages, self._deletions, self._blocks, self._provenance = pages, deletions, blocks, extra

    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(frozenset({"Patient", "Provenance"} if self._provenance else {"Patient"}))

    async def now(self) -> Instant:
        return parse("2026-03-01T12:00:00Z")

    async def cut(self, precision: Precision) -> Instant:
        return floor(await self.now(), precision)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        del query, after
        for each in _each(self._pages):
            yield each

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        del query, after
        for each in _each(self._deletions):
            yield each

    async def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        del queries, after
        for each in _each(self._blocks):
            yield each

    async def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        del query, targets, after, latest
        for each in _each(self._provenance):
            yield each


def _each(given: Any) -> Iterator[Any]:
    yield from given() if callable(given) else given


def for_ever(make: Callable[[int], object]) -> Callable[[], Iterator[object]]:
    def several() -> Iterator[object]:
        number = 0
        while True:
            yield make(number)
            number += 1

    return several


ONE = patient("1")
PHOTO = patient("photo", text={"div": "x" * 3_000_000})
EXPORT, BLOCKS, OF_PATIENTS = "/$export", "/Patient/$export?organizeOutputBy=Patient", "/Patient/$export"
LINES = page(ONE).lines
ROUND = "its cursor is one that an earlier page had, so that reading would never end"


def block(number: int) -> Block:
    return Block(f"Patient/{number}", "Patient", page(patient(str(number))), "same")


def handing(given: Any, path: str) -> Handing:
    """An adapter that hands over these where the path leads to."""
    places = {EXPORT: "pages", SINCE: "deletions", BLOCKS: "blocks", OF_PATIENTS: "extra"}
    return Handing(**{places[path]: given})


CASES: dict[str, tuple[Any, str, str]] = {
    "blanks": ([page(ONE, cursor="1"), page(patient("2", (", ", ": ")))], EXPORT, 'json.dumps needs separators=(",", ":")'),
    "CRLF": ([page(ONE + "\r")], EXPORT, "line 1 of a page of Patient is malformed: it ends with a carriage return"),
    "BOM": ([page("\ufeff" + ONE)], EXPORT, "it begins with a byte order mark"),
    "no final newline": ([Page(ONE.encode(), 1, "end")], EXPORT, "line 1 of a page of Patient is malformed: it does not end"),
    "several lines": ([Page(ONE.replace(",", ",\n").encode() + b"\n", 1, "end")], EXPORT, "written on several lines"),
    "miscounted": ([Page(LINES, 7, "end")], EXPORT, "it has 1 lines and says that there are 7"),
    "counted as none": ([Page(LINES, 0, "end")], EXPORT, "it has 1 lines and says that there are 0"),
    "text for bytes": ([Page(LINES.decode(), 1, "end")], EXPORT, "lines must be bytes, not a str"),  # type: ignore[arg-type]
    "a dict for a page": ([{"lines": b""}], EXPORT, "page 1 of Patient is malformed: it is a dict and no Page"),
    "a number for a cursor": ([Page(LINES, 1, 7)], EXPORT, "cursor must be a str, not a int"),  # type: ignore[arg-type]
    "a long cursor": ([page(ONE, cursor="x" * 9_999)], EXPORT, "its cursor has 9999 characters, and may have 4096"),
    "2 MB": (
        [page(*(patient(f"p{number}", text="x" * 2_000) for number in range(1_000)))],
        EXPORT,
        "bytes in 1000 resources; a page of several resources may have Query.page_bytes, and is refused above 1048576",
    ),
    "a cursor that stands still": (for_ever(lambda number: page(patient(str(number)), cursor="same")), EXPORT, ROUND),
    "a cursor that goes round": (for_ever(lambda number: page(patient(str(number)), cursor=str(number % 500))), EXPORT, ROUND),
    "empty pages without end": (for_ever(lambda number: Page(b"", 0, str(number))), EXPORT, "pages before it were empty, too"),
    "a border that comes twice": (
        [page(ONE, patient("2"), cursor="2"), page(patient("2"), patient("3"), cursor="3")],
        EXPORT,
        "page 2 of Patient is malformed: it begins with the resource that the page before ends with",
    ),
    "a deletion without type": (
        [Deletions(("1",), "1")],
        SINCE,
        "page 1 of deleted Patient is malformed: reference 1 is not Type/id",
    ),
    "a deletion twice": ([Deletions(("Patient/1",) * 2, "1")], SINCE, "a reference stands in it twice"),
    "text for deletions": ([Deletions("Patient/1", "1")], SINCE, "references must be a tuple of str, not a str"),  # type: ignore[arg-type]
    "deletions without end": (for_ever(lambda number: Deletions((f"Patient/{number}",), "same")), SINCE, ROUND),
    "a block that is a page": ([page(ONE)], BLOCKS, "it is a Page and no Block with a Page"),
    "blocks without end": (for_ever(block), BLOCKS, ROUND),
    "Provenance with blanks": (
        [page('{"resourceType": "Provenance", "id": "v"}')],
        OF_PATIENTS,
        "line 1 of a page of Provenance is malformed",
    ),
}
OBSERVATION = page('{"resourceType":"Observation","id":"o"}')
BREACHES: dict[str, tuple[Any, str, str]] = {
    "another type": ([OBSERVATION], EXPORT, "a line is a resource of another type"),
    "a deletion of another type": ([Deletions(("Observation/1",), "1")], SINCE, "a deletion is of another type"),
    "a block of another type": (
        [Block("Patient/1", "Observation", OBSERVATION, "1")],
        BLOCKS,
        "a block is of a type that was not asked for",
    ),
}


async def ended(house: House, path: str) -> tuple[int, str]:
    """The answer to a poll of an export that ran as far as it could."""
    location = await house.kick_off(path)
    await house.runner.finish()
    response = await house.ask("GET", location)
    return response.status_code, response.json()["issue"][0]["diagnostics"]


@pytest.mark.parametrize(("pages", "path", "said"), CASES.values(), ids=CASES.keys())
async def test_malformed_pages_are_told_as_malformed_once_and_never_as_a_breach(
    make_house: Any, caplog: pytest.LogCaptureFixture, pages: Any, path: str, said: str
) -> None:
    async with make_house(parts={"resources": handing(pages, path)}) as house:
        caplog.set_level(logging.WARNING, "fhir_bulk_middleware")
        caplog.clear()
        status, detail = await ended(house, path)

    assert (status, detail) == (500, MALFORMED)
    [record] = caplog.records
    assert said in record.getMessage()
    assert "see " in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(("pages", "path", "said"), BREACHES.values(), ids=BREACHES.keys())
async def test_what_must_not_leave_is_still_told_as_a_breach(
    make_house: Any, caplog: pytest.LogCaptureFixture, pages: Any, path: str, said: str
) -> None:
    async with make_house(parts={"resources": handing(pages, path)}) as house:
        status, detail = await ended(house, path)

    assert (status, detail) == (500, BREACH)
    assert said in caplog.text


async def test_one_large_resource_beside_others_is_a_page_that_passes(make_house: Any) -> None:
    """Law 16: an adapter that stops when a page is full goes past it by one resource."""
    async with make_house(parts={"resources": Handing(pages=[page(ONE, PHOTO, cursor="2"), page(patient("3"))])}) as house:
        manifest = await house.export()

    assert [item["count"] for item in manifest["output"]] == [3]
