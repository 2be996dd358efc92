"""The parts of the suites for storage adapters: a writer, queries, and a reader of all that a query gives."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.query import Compartments, Everything, Page, Query, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport, SupportsSlices, SupportsSnapshot
from fhir_bulk_middleware.instant import Instant, Precision, after, system_clock
from fhir_bulk_middleware.testing.job_values import Suite
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.samples import Samples, condition, observation, organization, patient

__all__ = [
    "Reader",
    "Samples",
    "StorageSuite",
    "Writer",
    "condition",
    "members_of",
    "needs",
    "observation",
    "organization",
    "patient",
    "put",
]


class Writer(Protocol):
    """Changes the storage directly, as the host's own users do."""

    async def put(self, *resources: str) -> None:
        """Store these resources (JSON texts) under their ids; with one `lastUpdated`, if the storage can do that."""
        ...

    async def delete(self, type_: str, id_: str) -> None:
        """Delete a resource."""
        ...


async def put(writer: Writer, *resources: str | None) -> None:
    """Store those of the resources that are not None, together (see `Samples`)."""
    await writer.put(*(resource for resource in resources if resource is not None))


def needs(store: object, protocol: type) -> None:
    """Skip the test if the adapter lacks the capability."""
    if not isinstance(store, protocol):
        pytest.skip(f"{protocol.__name__} is not implemented")


def members_of(*references: str) -> Compartments:
    """The selection of these compartments."""
    return Compartments(frozenset(references))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what an adapter exports, and checks the form of each page."""

    store: SupportsExport
    principal: Principal
    samples: Samples

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
        """A query as of a new cut, or of the given one."""
        if as_of is None:
            as_of = await self.cut()
        return Query(
            type=type_,
            selection=selection or Everything(),
            rights=(await self.store.authorise(self.principal)).rights,
            window=Window(since, until),
            as_of=as_of,
            range=range_,
            page_bytes=page_bytes,
        )

    async def cut(self, precision: Precision | None = None) -> Instant | None:
        """A new cut, by default at the storage's precision; None if the storage has no snapshots."""
        return await self.store.cut(precision or self.samples.precision) if isinstance(self.store, SupportsSnapshot) else None

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
        """The texts of a query's resources (`Samples.text_of`), by id."""
        return {content["id"]: self.samples.text_of(content) for content in map(json.loads, await self.lines(query))}

    async def instants(self, query: Query) -> dict[str, Instant]:
        """The `lastUpdated` of a query's resources, by id."""
        return {content["id"]: self.samples.changed(content) for content in map(json.loads, await self.lines(query))}

    async def gone(self, query: Query, cursor: str | None = None) -> list[str]:
        """The deletions of a query; none if the storage is no `SupportsDeletions`."""
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
    """The fixtures of all suites for storage adapters.

    Override `store` and `writer`; `principal` if the adapter has row rights; `samples` if the storage does not keep any JSON.
    """

    @pytest.fixture
    def samples(self) -> Samples:
        """The resources that the tests write."""
        return Samples()

    @pytest.fixture
    def principal(self) -> Principal:
        """The client of the exports; may see everything."""
        return Principal(
            owner=Owner("https://issuer.example", "exporter"), scopes=("system/*.read",), expires_at=after(system_clock(), 3600)
        )

    @pytest.fixture
    def set_clock(self) -> Callable[[float], None] | None:
        """Sets the storage's clock, in seconds from the machine's; None if that is not possible."""
        return None

    @pytest.fixture
    def reader(self, store: SupportsExport, principal: Principal, samples: Samples) -> Reader:
        """The reader of the adapter's exports."""
        return Reader(store, principal, samples)
