"""Reads the resources that references name, and lets those pass that are context of the job."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, NoPatient, Page, Query, Rows, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsContext
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.firewall import FirewallBreach
from fhir_bulk_middleware.export.page_form import MalformedPage, PageForm, line_fault
from fhir_bulk_middleware.export.transform import Transform
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Belonging", "ContextReader", "NamedPage", "named_lines"]

_PATIENT = "Patient"


@dataclass(frozen=True, slots=True)
class NamedPage:
    """Context resources, as they are exported.

    Attributes:
        ids: their ids, in ascending order.
        page: their lines, transformed.
        last: the last id that was read, whether or not it is context.
    """

    ids: tuple[str, ...]
    page: Page
    last: str


class Belonging:
    """Whether a resource belongs to a job's cohort, or may be its context (laws 40 and 41).

    Args:
        job: the job.
        rows: its rows; the selection is that at the cut.
    """

    def __init__(self, job: Job, rows: Rows) -> None:
        options = job.request.options
        self._compartments = CompartmentMembership(options.version, options.base_urls)
        self._selection: Selection = rows.selection
        self._patients = ReferenceScan((_PATIENT,), options.base_urls)
        kinds = {_PATIENT}
        if isinstance(rows.selection, Compartments):
            kinds |= {reference.partition("/")[0] for reference in rows.selection.references}
        self._kinds = tuple(kind for kind in MEMBER_KINDS if kind in kinds)

    def is_selected(self, resource: dict[str, Any]) -> bool:
        """Whether the resource lies in the selection."""
        owners = self._compartments.of(resource, self._kinds)
        if isinstance(self._selection, Compartments):
            return not owners.isdisjoint(self._selection.references)
        return isinstance(self._selection, EveryPatient) and bool(owners)

    def may_be_context(self, line: bytes, resource: dict[str, Any]) -> bool:
        """Whether the resource lies in nobody's compartment and names no patient who is not the job's."""
        if self._compartments.of(resource, (_PATIENT,)) or self.is_selected(resource):
            return False
        if not isinstance(self._selection, Compartments):
            return True
        return {reference.decode() for reference in self._patients.of(line)} <= self._selection.references


@dataclass(frozen=True, slots=True)
class ContextReader:
    """Reads context by its references.

    Attributes:
        resources: the storage adapter.
        job: the job.
        rows: its rows.
        page_bytes: the size of pages.
    """

    resources: SupportsContext
    job: Job
    rows: Rows
    page_bytes: int
    belonging: Belonging = field(init=False)
    _transforms: dict[str, Transform] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "belonging", Belonging(self.job, self.rows))

    async def read(self, type_: str, ids: Sequence[str], as_of: Instant | None) -> AsyncIterator[NamedPage]:
        """The context among the resources of a type with these ids, as of an instant.

        Args:
            type_: the type.
            ids: in ascending order, at most 1,000.
            as_of: the instant; None for storages without snapshots.

        Raises:
            FirewallBreach: while iterating; the adapter returned a resource that it was not asked for.
            MalformedPage: while iterating; a page breaks its protocol.
        """
        form = PageForm(type_, self.page_bytes, None, cursors=False)
        waiting = iter(ids)
        async with closing(self.resources.named(self._query(type_, as_of), ids)) as pages:
            async for page in pages:
                form.check(page)
                found, last = dict[str, bytes](), ""
                for line, resource in named_lines(page, type_):
                    last = resource["id"]
                    if last not in waiting:  # moves on to that id, so the order is checked too
                        raise FirewallBreach(type_, "a resource was not asked for, or stands in another order")
                    if self.admits(line, resource):
                        found[last] = self.transform(type_).exported(line)
                lines = b"\n".join((*found.values(), b""))
                yield NamedPage(tuple(found), replace(page, lines=lines, count=len(found)), last)

    def admits(self, line: bytes, resource: dict[str, Any]) -> bool:
        """Whether a resource is context of the job if an exported line names it."""
        return self.belonging.may_be_context(line, resource) and self.transform(resource["resourceType"]).passes(line)

    def transform(self, type_: str) -> Transform:
        """What context of a type goes through: filters that are rights, and no others (TF-01)."""
        if type_ not in self._transforms:
            granted = replace(self.rows, filters=tuple(each for each in self.rows.filters if each.granted))
            self._transforms[type_] = Transform.of(type_, granted, self.job.request.options)
        return self._transforms[type_]

    def _query(self, type_: str, as_of: Instant | None) -> Query:
        return Query(
            type=type_,
            selection=NoPatient(),
            rights=self.rows.rights,
            window=Window(),
            as_of=as_of,
            page_bytes=self.page_bytes,
        )


def named_lines(page: Page, type_: str | None = None) -> list[tuple[bytes, dict[str, Any]]]:
    """Line and content of each resource of a page.

    Args:
        page: as the adapter returned it.
        type_: the type that all lines must have; None for any.

    Raises:
        FirewallBreach: a line is of another type.
        MalformedPage: a line is not canonical, or `count` is wrong.
    """
    begin = b'{"resourceType":"' + (b"" if type_ is None else f'{type_}",'.encode())
    found, start = list[tuple[bytes, dict[str, Any]]](), 0
    while start < len(page.lines):
        end = page.lines.find(b"\n", start)
        line = page.lines[start : end if end >= 0 else len(page.lines)]
        if end < 0 or not line.startswith(begin) or not line.endswith(b"}"):
            raise line_fault(page.lines, start, type_ or "") or FirewallBreach(type_ or "context", "a line is of another type")
        try:
            resource: dict[str, Any] = json.loads(line)
        except (ValueError, RecursionError):
            raise MalformedPage(f"a page of {type_ or 'context'}", "a line is not JSON", "line") from None
        found.append((line, {"id": "", **resource}))
        start = end + 1
    if len(found) != page.count:
        raise MalformedPage(f"a page of {type_ or 'context'}", f"it has {len(found)} lines and says that there are {page.count}")
    return found
