"""Tells whether a resource is or was in an export of the job's cohort, by looking at what names it (laws 34 and 40)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel

from fhir_bulk_middleware.contract.query import Everything, NoPatient, Page, Query, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsContext, SupportsNaming
from fhir_bulk_middleware.export.context.context_reader import ContextReader, named_lines
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.transform import Transform
from fhir_bulk_middleware.fhir.provenance import targets
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["CohortHistory"]

_PROVENANCE = "Provenance"
_PAGE_BYTES = 16 * 1024
"""Small, because reading stops at the first line that counts."""
_KNOWN_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class CohortHistory:
    """The cohort of a job and its context, as of any instant.

    Attributes:
        resources: reads resources by their ids.
        naming: finds the resources that name one.
        reader: reads and judges context.
        cohort_types: the types of which resources lie in the cohort.
        context_types: the types of which resources can be context.
        by_target: whether Provenance is in the cohort by its targets, and not by its compartment (KO-86).
    """

    resources: SupportsContext
    naming: SupportsNaming
    reader: ContextReader
    cohort_types: Sequence[str]
    context_types: Sequence[str]
    by_target: bool
    _known: dict[tuple[str, Instant], bool] = field(default_factory=dict, init=False)
    _transforms: dict[str, Transform] = field(default_factory=dict, init=False)

    async def context_at(self, type_: str, ids: Sequence[str], instant: Instant) -> AsyncIterator[str]:
        """Those of the resources, as references, that were context of the cohort at an instant."""
        async with closing(self.reader.read(type_, ids, instant)) as pages:
            async for page in pages:
                for id_ in page.ids:
                    if await self.is_named(f"{type_}/{id_}", instant):
                        yield f"{type_}/{id_}"

    async def provenance_at(self, ids: Sequence[str], instant: Instant) -> AsyncIterator[str]:
        """Those Provenance resources, as references, that belonged to the cohort by their targets at an instant.

        Args:
            ids: in ascending order, at most 1,000.
            instant: the instant.
        """
        async with closing(self.resources.named(self._query(_PROVENANCE, Everything(), instant), ids)) as pages:
            async for page in pages:
                for line, resource in named_lines(page, _PROVENANCE):
                    if self._transform(_PROVENANCE).passes(line) and await self._about_cohort(resource, instant):
                        yield f"{_PROVENANCE}/{resource['id']}"

    async def provenance_of(self, reference: str, instant: Instant) -> frozenset[str]:
        """The ids of all Provenance that names a resource at an instant."""
        found = set[str]()
        async with closing(self.naming.naming([self._query(_PROVENANCE, Everything(), instant)], reference)) as pages:
            async for page in pages:
                found.update(resource["id"] for _, resource in named_lines(page, _PROVENANCE))
        return frozenset(found)

    async def selected_at(self, type_: str, ids: Sequence[str], instant: Instant) -> AsyncIterator[str]:
        """Those of the resources, as references, that the cohort held at an instant because they lay in the selection.

        Args:
            type_: their type.
            ids: in ascending order, at most 1,000.
            instant: the instant.
        """
        async with closing(self.resources.named(self._query(type_, Everything(), instant), ids)) as pages:
            async for page in pages:
                for line, resource in named_lines(page, type_):
                    if self.reader.belonging.is_selected(resource) and self._transform(type_).passes(line):
                        yield f"{type_}/{resource['id']}"

    def refused(self, page: Page, type_: str) -> list[str]:
        """The resources of a page, as references, that are not exported although they lie in the selection."""
        transform = self._transform(type_)
        return [f"{type_}/{resource['id']}" for line, resource in named_lines(page, type_) if not transform.passes(line)]

    async def lives(self, reference: str, instant: Instant) -> bool:
        """Whether the resource exists at an instant."""
        type_, _, id_ = reference.partition("/")
        async with closing(self.resources.named(self._query(type_, Everything(), instant), [id_])) as pages:
            return any([page.count async for page in pages])

    async def is_selected(self, reference: str, instant: Instant) -> bool:
        """Whether the resource lay in the selection at an instant."""
        type_, _, id_ = reference.partition("/")
        async with closing(self.resources.named(self._query(type_, Everything(), instant), [id_])) as pages:
            async for page in pages:
                if any(self.reader.belonging.is_selected(resource) for _, resource in named_lines(page, type_)):
                    return True
        return False

    async def is_named(self, reference: str, instant: Instant) -> bool:
        """Whether a line of the cohort names the resource at an instant, itself or through context."""
        known = self._known.get((reference, instant))
        if known is not None:
            return known
        seen, waiting, found = {reference}, [reference], False
        while waiting and not found:
            name = waiting.pop()
            await anyio.lowlevel.checkpoint()  # a long search can be cancelled, and lets a server answer
            found = self._known.get((name, instant), False) or await self._cohort_names(name, instant)
            if not found:
                namers = await self._context_that_names(name, instant)
                waiting += sorted(namers - seen)
                seen |= namers
        if len(self._known) + len(seen) > _KNOWN_AT_MOST:
            self._known.clear()
        # If nothing in the cohort was found, nothing on the way is named by it either.
        self._known.update({(each, instant): False for each in seen} if not found else {(reference, instant): True})
        return found

    async def _cohort_names(self, reference: str, instant: Instant) -> bool:
        """Whether an exported line of the cohort names the resource."""
        types = [type_ for type_ in self.cohort_types if not (self.by_target and type_ == _PROVENANCE)]
        queries = [self._query(type_, self.reader.rows.selection, instant) for type_ in types]
        async with closing(self._lines(queries, reference)) as lines:
            async for _ in lines:
                return True
        if self.by_target and _PROVENANCE in self.cohort_types:
            async with closing(self._lines([self._query(_PROVENANCE, Everything(), instant)], reference)) as lines:
                async for provenance in lines:
                    if await self._about_cohort(provenance, instant):
                        return True
        return False

    async def _context_that_names(self, reference: str, instant: Instant) -> frozenset[str]:
        """The resources in nobody's compartment that name the resource and could be context themselves."""
        found = set[str]()
        queries = [self._query(type_, NoPatient(), instant) for type_ in self.context_types]
        async with closing(self.naming.naming(queries, reference)) as pages:
            async for page in pages:
                for line, resource in named_lines(page):
                    type_ = resource["resourceType"]
                    if self.reader.admits(line, resource) and self._names(self.reader.transform(type_).exported(line), reference):
                        found.add(f"{type_}/{resource['id']}")
        return frozenset(found)

    async def _lines(self, queries: Sequence[Query], reference: str) -> AsyncIterator[dict[str, Any]]:
        """The exported resources of the queries that name the resource."""
        async with closing(self.naming.naming(queries, reference)) as pages:
            async for page in pages:
                for line, resource in named_lines(page):
                    transform = self._transform(resource["resourceType"])
                    if transform.passes(line) and self._names(transform.exported(line), reference):
                        yield resource

    def _transform(self, type_: str) -> Transform:
        if type_ not in self._transforms:
            self._transforms[type_] = Transform.of(type_, self.reader.rows, self.reader.job.request.options)
        return self._transforms[type_]

    def _names(self, exported: bytes, reference: str) -> bool:
        """Whether an exported line names the resource."""
        scan = ReferenceScan((reference.partition("/")[0],), self.reader.job.request.options.base_urls)
        return reference.encode() in scan.of(exported)

    async def _about_cohort(self, provenance: dict[str, Any], instant: Instant) -> bool:
        """Whether a target of the Provenance lies in the cohort."""
        parse = References(self.reader.job.request.options.base_urls).parse
        for type_, id_ in sorted(targets(provenance, parse)):
            if await self.is_selected(f"{type_}/{id_}", instant):
                return True
        return False

    def _query(self, type_: str, selection: Selection, instant: Instant) -> Query:
        return Query(
            type=type_,
            selection=selection,
            rights=self.reader.rows.rights,
            window=Window(),
            as_of=instant,
            page_bytes=_PAGE_BYTES,
        )
