"""Changes pages between the firewall and the file.

Leaves out resources of others, applies filters and `_elements`, and makes attachment URLs absolute. A `Transform` is made once
for each type of a slice. If the request needs none of this, pages pass unparsed and unchanged.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import anyio.lowlevel

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.job import Options, Origin
from fhir_bulk_middleware.contract.query import Page, Rows
from fhir_bulk_middleware.export.attachments import absolute, may_attach
from fhir_bulk_middleware.export.cohort import Cohort
from fhir_bulk_middleware.export.element_selection import KeepElements, keep_elements_of
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.elements import ElementSelection

__all__ = ["Transform"]

_TURN = 0.005
"""Seconds of work on one page after which the event loop runs other tasks."""

_PORTION = 32 * 1024
"""Bytes of lines that `_elements` reduces at a time."""

_NOT_ONE = "a line of the storage is not one resource; see `Page`"


@dataclass(frozen=True, slots=True)
class Transform:
    """The changes to resources of one type.

    Attributes:
        cohort: leaves out resources of others (law 41).
        filters: drop resources that do not meet them.
        keep_elements: reduces lines to the elements of `_elements`; None to keep all.
        base_url: relative attachment URLs are made absolute below it; None to leave them.
    """

    cohort: Cohort
    filters: Filters
    keep_elements: KeepElements | None
    base_url: str | None

    @classmethod
    def of(cls, resource_type: str, rows: Rows, options: Options, origin: Origin = Origin.SELECTED) -> "Transform":
        """The transform for one type of a job."""
        base, version = options.base_url, options.version
        keys = None
        if options.elements and resource_type in definitions(version).resource_types:  # unknown types stay whole (EL-04)
            keys = ElementSelection(version, options.elements).keys(resource_type)
        return cls(
            cohort=(Cohort.of_entered if origin is Origin.ENTERED else Cohort)(resource_type, rows, options.base_urls),
            filters=Filters(rows.filters, resource_type, options.base_urls),
            keep_elements=None if keys is None else keep_elements_of(keys),
            base_url=base if may_attach(resource_type, version) else None,
        )

    async def apply(self, page: Page) -> Page:
        """The page as it goes into a file. It may be empty; its cursor still counts.

        Yields to the event loop within a page, since a filter can make each line costly (law 38).
        """
        lines, count = page.lines, page.count
        if count and (self.cohort or self.filters):
            kept = await self._kept(lines)
            lines, count = b"\n".join((*kept, b"")), len(kept)
        if count and self.keep_elements is not None:
            lines = await _reduced(lines, count, self.keep_elements)
        unreadable = tuple(filter(self.cohort.may_name, page.unreadable))
        if self.base_url is not None:
            lines = absolute(lines, self.base_url)
        if lines is page.lines and unreadable == page.unreadable:
            return page
        return replace(page, lines=lines, count=count, unreadable=unreadable)

    async def _kept(self, lines: bytes) -> list[bytes]:
        """The lines, without newlines, that the cohort and the filters let pass."""
        judge = self.filters.judge if self.filters else None
        admits = self.cohort.admits if self.cohort else None
        kept: list[bytes] = []
        since = perf_counter()
        for line in self.filters.candidates(lines) if self.filters else lines[:-1].split(b"\n"):
            if (judge is None or judge(line)) and (admits is None or admits(line)):
                kept.append(line)
            if perf_counter() - since > _TURN:
                await anyio.lowlevel.checkpoint()
                since = perf_counter()
        return kept

    def passes(self, line: bytes) -> bool:
        """Whether the resource of one line, without its newline, is exported."""
        return self.cohort.admits(line) and (not self.filters or self.filters.passes(line))

    def exported(self, line: bytes) -> bytes:
        """One line as it goes into a file."""
        if self.keep_elements is not None:
            lines, count = self.keep_elements(line + b"\n")
            if count != 1:
                raise ValueError(_NOT_ONE)
            line = lines[:-1]
        return line if self.base_url is None else absolute(line, self.base_url)


async def _reduced(lines: bytes, count: int, keep_elements: KeepElements) -> bytes:
    """So many lines, each reduced to the elements that are kept; some of them at a time.

    Raises:
        ValueError: a line is not one resource.
    """
    reduced: list[bytes] = []
    found, start, since = 0, 0, perf_counter()
    while start < len(lines):
        end = lines.find(b"\n", min(start + _PORTION, len(lines) - 1)) + 1
        some, number = keep_elements(lines[start:end])
        reduced.append(some)
        found, start = found + number, end
        if perf_counter() - since > _TURN:
            await anyio.lowlevel.checkpoint()
            since = perf_counter()
    if found != count:
        raise ValueError(_NOT_ONE)
    return b"".join(reduced)
