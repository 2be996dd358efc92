"""What the suites of a storage adapter are made of: resources, queries, and ways to read all of one."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from fhir_bulk_middleware.export.query import Compartments, Everything, Page, Query, Rows, Selection, Window
from fhir_bulk_middleware.instant import Instant, Precision, after, parse, system_clock
from fhir_bulk_middleware.principal import Owner, Principal
from fhir_bulk_middleware.protocols import SupportsDeletions, SupportsExport, SupportsSlices, SupportsSnapshot
from fhir_bulk_middleware.testing.job_values import Suite

__all__ = [
    "Reader",
    "StorageSuite",
    "Writer",
    "condition",
    "members_of",
    "needs",
    "observation",
    "organization",
    "patient",
]


class Writer(Protocol):
    """Changes the storage from the side, as the host's own users do."""

    async def put(self, *resources: str) -> None:
        """Keep these resources, JSON text each, under their ids; at one `lastUpdated`, if the storage can do that."""
        ...

    async def delete(self, type_: str, id_: str) -> None:
        """Delete a resource."""
        ...


def needs(store: object, protocol: type) -> None:
    """Skip the test where the adapter does not have the capability."""
    if not isinstance(store, protocol):
        pytest.skip(f"{protocol.__name__} is not implemented")


def patient(id_: str, text: str = "") -> str:
    """A patient."""
    return json.dumps({"resourceType": "Patient", "id": id_, "name": [{"text": text or f"of {id_}"}]})


def observation(id_: str, subject: str, text: str = "", **more: Any) -> str:
    """An observation on a subject such as `Patient/1`."""
    content = {"subject": {"reference": subject}, "code": {"text": text or f"of {id_}"}, **more}
    return json.dumps({"resourceType": "Observation", "id": id_, "status": "final", **content})


def condition(id_: str, subject: str) -> str:
    """A condition of a patient."""
    return json.dumps({"resourceType": "Condition", "id": id_, "subject": {"reference": subject}})


def organization(id_: str) -> str:
    """A resource that is in no patient's compartment."""
    return json.dumps({"resourceType": "Organization", "id": id_, "name": f"of {id_}"})


def members_of(*references: str) -> Compartments:
    """What lies in these compartments."""
    return Compartments(frozenset(references))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what an adapter exports, and sees on the way that each page is as a page must be."""

    store: SupportsExport
    principal: Principal

    async def query(
        self,
        type_: str,
        selection: Selection | None = None,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        as_of: Instant | None = None,
        range_: str = "",
        page_bytes: int = 256 * 1024,
    ) -> Query:
        """A query as of now, or as of a cut."""
        if as_of is None:
            as_of = await self.cut()
        return Query(
            type=type_,
            rows=Rows(selection or Everything(), (await self.store.authorise(self.principal)).rights),
            window=Window(since, until),
            as_of=as_of,
            range=range_,
            page_bytes=page_bytes,
        )

    async def cut(self, precision: Precision = Precision.MICROSECONDS) -> Instant | None:
        """A cut, None where the storage has none."""
        return await self.store.cut(precision) if isinstance(self.store, SupportsSnapshot) else None

    async def pages(self, query: Query, cursor: str | None = None) -> list[Page]:
        """The pages of a query."""
        pages = [page async for page in self.store.pages(query, cursor)]
        for page in pages:
            assert page.count > 0, "a page is never empty"
            assert page.lines.endswith(b"\n"), "a page ends with a newline"
            assert page.lines.count(b"\n") == page.count, "a page has as many lines as it says"
            assert len(page.lines) <= query.page_bytes or page.count == 1, (
                "a page is no larger than asked, but for a single resource"
            )
            for line in page.lines.split(b"\n")[:-1]:
                assert line.startswith(f'{{"resourceType":"{query.type}","id":"'.encode()), (
                    "each line begins with its type and id, in canonical form"
                )
        return pages

    async def lines(self, query: Query, cursor: str | None = None) -> list[bytes]:
        """The lines of a query."""
        return [line for page in await self.pages(query, cursor) for line in page.lines.split(b"\n")[:-1]]

    async def ids(self, query: Query) -> list[str]:
        """The ids of a query's resources, in order."""
        return [json.loads(line)["id"] for line in await self.lines(query)]

    async def texts(self, query: Query) -> dict[str, str]:
        """What `observation` or `patient` gave a query's resources as their text, by id."""
        found = {}
        for line in await self.lines(query):
            content = json.loads(line)
            found[content["id"]] = (content.get("code") or content["name"][0])["text"]
        return found

    async def instants(self, query: Query) -> dict[str, Instant]:
        """The `lastUpdated` of a query's resources, by id."""
        found = map(json.loads, await self.lines(query))
        return {content["id"]: parse(content["meta"]["lastUpdated"]) for content in found}

    async def gone(self, query: Query, cursor: str | None = None) -> list[str]:
        """The deletions of a query; none where the storage does not know them."""
        if not isinstance(self.store, SupportsDeletions):
            return []
        found: list[str] = []
        async for some in _some(self.store, query, cursor):
            found.extend(some)
        return found

    async def sliced(self, query: Query, target_bytes: int) -> Sequence[str]:
        """The ranges of a query."""
        assert isinstance(self.store, SupportsSlices)
        ranges = await self.store.slices(query, target_bytes)
        for found in ranges:
            assert len(found.range.encode()) <= 4096, "a range is at most 4 kB"
            assert found.estimate >= 0, "an estimate is not negative"
        return [found.range for found in ranges]


async def _some(store: SupportsDeletions, query: Query, cursor: str | None) -> AsyncIterator[tuple[str, ...]]:
    async for page in store.deletions(query, cursor):
        assert page.references, "a page of deletions is never empty"
        yield page.references


class StorageSuite(Suite):
    """What the suites of a storage adapter share. Override `store` and `writer`, and `principal` where it matters who asks."""

    @pytest.fixture
    def principal(self) -> Principal:
        """Who exports; may see everything."""
        return Principal(
            owner=Owner("https://issuer.example", "exporter"), scopes=("system/*.read",), expires_at=after(system_clock(), 3600)
        )

    @pytest.fixture
    def set_clock(self) -> Callable[[float], None] | None:
        """Sets the clock that the storage stamps its writes by, in seconds from the machine's; None where that cannot be done."""
        return None

    @pytest.fixture
    def reader(self, store: SupportsExport, principal: Principal) -> Reader:
        """Reads the adapter's exports."""
        return Reader(store, principal)
