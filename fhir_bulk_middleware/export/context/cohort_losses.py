"""What a mirror of a cohort has to drop: deleted context, and what lives but left (laws 34 and 40)."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import anyio.lowlevel

from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.query import Deletions, Everything, NoPatient, Page, Query, Rows, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport, SupportsLeft
from fhir_bulk_middleware.export.changed_types import changed_types
from fhir_bulk_middleware.export.context.closure import Closure
from fhir_bulk_middleware.export.context.cohort_history import CohortHistory
from fhir_bulk_middleware.export.context.context_reader import named_lines
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["BATCH", "CohortLosses", "changes", "types_in_window", "window_query"]

BATCH = 500
"""References that are read at once."""

_PATIENT, _PROVENANCE = "Patient", "Provenance"
_BY_CONTENT = frozenset({"List", "Group"})
"""Types of which not everything in the selection is exported (law 41), so what left it may never have been."""


def window_query(job: Job, rows: Rows, type_: str, selection: Selection, as_of: Instant | None) -> Query:
    """The query for what changed in the window of a planned job."""
    window, cut = _window(job, as_of)
    return Query(type=type_, selection=selection, rights=rows.rights, window=window, as_of=cut)


async def types_in_window(
    resources: SupportsExport, job: Job, rows: Rows, types: Iterable[str], as_of: Instant | None
) -> frozenset[str]:
    """Those of the types of which something may have changed in the window of a planned job."""
    window, cut = _window(job, as_of)
    return await changed_types(resources, types, window, as_of=cut, rights=rows.rights)


def _window(job: Job, as_of: Instant | None) -> tuple[Window, Instant | None]:
    window = job.request.window
    return Window(window.since, as_of or window.until), None if as_of is None else job.cut


async def changes(resources: SupportsExport, query: Query) -> AsyncIterator[Page]:
    """The pages of a query, each checked for its form.

    Raises:
        MalformedPage: while iterating; a page breaks its protocol.
    """
    form = PageForm(query.type, query.page_bytes, None)
    async with closing(resources.pages(query, None)) as pages:
        async for page in pages:
            form.check(page)
            await anyio.lowlevel.checkpoint()  # long reading can be cancelled, and lets a server answer
            yield page


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortLosses:
    """Finds what a mirror has to drop.

    Attributes:
        resources: the storage adapter.
        deletions: the source of deletions, None without one.
        history: what the cohort held at other instants; None if the storage cannot tell.
        job: the job; its export has `_since`.
        rows: its rows.
        since: the beginning of the window.
        as_of: the instant of context.
        target_types: the types of which Provenance is exported at this level, whether or not they are exported themselves.
        changed: those of all these types of which something may have changed in the window; others are not read.
    """

    resources: SupportsExport
    deletions: SupportsDeletions | None
    history: CohortHistory | None
    job: Job
    rows: Rows
    since: Instant
    as_of: Instant | None
    target_types: Sequence[str]
    changed: frozenset[str]

    async def find_deleted(self, gone: Closure) -> None:
        """Add the deletions of context and Provenance. What the cohort's own deletions tell already is not told twice."""
        history, deletions = self.history, self.deletions
        if history is None or deletions is None:
            return
        for type_ in (type_ for type_ in self._types() if self._may_be_deleted(type_)):
            found, by_target = False, history.by_target and type_ == _PROVENANCE
            query = self._query(type_, Everything() if by_target else NoPatient())
            async for references in self._told(type_, deletions.deletions(query, None)):
                async for reference in self._were_beside(history, type_, references):
                    gone.keep(reference)
                    found = True
            if found:
                async for references in self._told(type_, deletions.deletions(self._query(type_, self.rows.selection), None)):
                    for reference in references:
                        gone.drop(reference)

    async def find_left(self, context: Closure, left: Closure) -> None:
        """Add what lives but left the cohort, unless it is in its context now; and what left the context."""
        if not isinstance(self.resources, SupportsLeft):
            return
        for type_ in self._types():
            if self.history is not None and self.history.by_target and type_ == _PROVENANCE:
                found = self._left_provenance(self.history, self.resources)
            elif type_ in self.changed:
                found = self._left(type_, context, self.resources)
            else:
                continue
            async for reference in found:
                left.keep(reference)

    async def _left(self, type_: str, context: Closure, resources: SupportsLeft) -> AsyncIterator[str]:
        async for references in self._told(type_, resources.left(self._query(type_, self.rows.selection), None)):
            gone = [reference for reference in references if not context.holds(reference)]
            async for reference in self._were_exported(type_, gone):
                yield reference
        history = self.history
        if history is None:
            return
        if type_ in _BY_CONTENT:  # what lies in the selection still, and is not exported any more
            async for page in changes(self.resources, self._query(type_, self.rows.selection)):
                async for reference in self._were_exported(type_, history.refused(page, type_)):
                    yield reference
        async for references in self._no_context_now(type_, history, resources):
            async for reference in self._were_beside(history, type_, references):
                yield reference

    async def _no_context_now(self, type_: str, history: CohortHistory, resources: SupportsLeft) -> AsyncIterator[Sequence[str]]:
        """Resources that lay in nobody's compartment, changed in the window, and now belong to a stranger or name one."""
        query = self._query(type_, NoPatient())
        async for references in self._told(type_, resources.left(query, None)):
            yield [reference for reference in references if not await history.is_selected(reference, self._cut)]
        async for page in changes(self.resources, query):
            lines = named_lines(page, type_)
            yield [f"{type_}/{resource['id']}" for line, resource in lines if not history.reader.admits(line, resource)]

    async def _left_provenance(self, history: CohortHistory, resources: SupportsLeft) -> AsyncIterator[str]:
        """Provenance that lives and has no target in the cohort any more: it changed, or its target left or was deleted."""
        with Closure() as candidates:
            async for page in changes(self.resources, self._query(_PROVENANCE, Everything())):
                candidates.add(f"{_PROVENANCE}/{resource['id']}" for _, resource in named_lines(page, _PROVENANCE))
            async for reference in self._lost_targets(resources):
                ids = await history.provenance_of(reference, self._cut)
                candidates.add(f"{_PROVENANCE}/{id_}" for id_ in ids)
            while (unread := candidates.unread(BATCH)) is not None:
                _, some = unread
                now = {reference async for reference in history.provenance_at(some, self._cut)}
                async for reference in history.provenance_at(some, self.since):
                    if reference not in now and await history.lives(reference, self._cut):
                        yield reference
                candidates.settle(_PROVENANCE, some, ())

    async def _lost_targets(self, resources: SupportsLeft) -> AsyncIterator[str]:
        """What left the selection or was deleted, of all types."""
        for type_ in self.target_types:
            query = self._query(type_, self.rows.selection)
            if type_ in self.changed:
                async for references in self._told(type_, resources.left(query, None)):
                    for reference in references:
                        yield reference
            if self.deletions is not None and self._may_be_deleted(type_):
                async for references in self._told(type_, self.deletions.deletions(query, None)):
                    for reference in references:
                        yield reference

    async def _were_exported(self, type_: str, references: Iterable[str]) -> AsyncIterator[str]:
        """Those that the cohort held when the window began."""
        if type_ not in _BY_CONTENT:
            for reference in references:
                yield reference
        elif self.history is not None:
            for some in _batches(references):
                async with closing(self.history.selected_at(type_, some, self.since)) as found:
                    async for reference in found:
                        yield reference

    async def _were_beside(self, history: CohortHistory, type_: str, references: Iterable[str]) -> AsyncIterator[str]:
        """Those that were the cohort's context, or its Provenance, when the window began."""
        for some in _batches(references):
            if history.by_target and type_ == _PROVENANCE:
                were = history.provenance_at(some, self.since)
            else:
                were = history.context_at(type_, some, self.since)
            async with closing(were) as found:
                async for reference in found:
                    yield reference

    async def _told(self, type_: str, pages: AsyncIterator[Deletions]) -> AsyncIterator[Sequence[str]]:
        form = PageForm(type_, self._query(type_, Everything()).page_bytes, None)
        async with closing(pages) as source:
            async for page in source:
                form.check_deletions(page)
                await anyio.lowlevel.checkpoint()  # as above
                yield page.references

    def _types(self) -> list[str]:
        """The types whose losses are told: not those under a granular scope, since the content that decides is gone (law 27).

        A Patient is selected by its own id, which does not change (law 41).
        """
        restricted = {type_ for type_, _ in self.job.request.granular}
        return [type_ for type_ in self.job.request.types if type_ not in restricted and type_ != _PATIENT]

    def _may_be_deleted(self, type_: str) -> bool:
        """Whether a resource of the type may have been deleted; our own log of deletes is asked for each type."""
        source: object = self.deletions
        return source is not self.resources or type_ in self.changed

    @property
    def _cut(self) -> Instant:
        return self.job.cut or self.job.created_at

    def _query(self, type_: str, selection: Selection) -> Query:
        return window_query(self.job, self.rows, type_, selection, self.as_of)


def _batches(references: Iterable[str]) -> Iterable[list[str]]:
    """The ids of the references in ascending order, some at a time."""
    ids = sorted({reference.partition("/")[2] for reference in references})
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
