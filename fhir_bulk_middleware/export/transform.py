"""What a page goes through between the firewall and the file: filters, `_elements`, absolute attachment URLs.

It is made once for a slice. Where a request asks for none of it, pages go through untouched, and nothing looks at a resource.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import anyio.lowlevel

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.job import Options
from fhir_bulk_middleware.contract.query import Page, Rows
from fhir_bulk_middleware.export.attachments import absolute, may_attach
from fhir_bulk_middleware.export.element_selection import KeepElements, keep_elements_of
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.elements import ElementSelection

__all__ = ["Transform"]

_TURN = 0.005
"""Seconds after which others have their turn."""


@dataclass(frozen=True, slots=True)
class Transform:
    """What is to be done to the resources of one type.

    Attributes:
        filters: what they must meet.
        keep_elements: how a line is made of its kept elements; None to keep all.
        base_url: where relative attachment URLs belong; None to leave them.
    """

    filters: Filters
    keep_elements: KeepElements | None
    base_url: str | None

    @classmethod
    def of(cls, resource_type: str, rows: Rows, options: Options) -> "Transform":
        """What a job asks of a type."""
        base, version = options.base_url, options.version
        keys = None
        if options.elements and resource_type in definitions(version).resource_types:  # of others it may be more (EL-04)
            keys = ElementSelection(version, options.elements).keys(resource_type)
        return cls(
            filters=Filters(rows.filters, resource_type, options.base_urls),
            keep_elements=None if keys is None else keep_elements_of(keys),
            base_url=base if may_attach(resource_type, version) else None,
        )

    async def apply(self, page: Page) -> Page:
        """The page as it goes into a file; it may have become empty, and then only its cursor counts.

        Others have their turn within a page too: what is asked for may make each line of it costly (law 38).
        """
        lines, count = page.lines, page.count
        if self.filters or self.keep_elements:
            kept: list[bytes] = []
            since = perf_counter()
            for line in self.filters.candidates(lines) if self.filters else lines[:-1].split(b"\n"):
                if not self.filters or self.filters.passes(line):
                    kept.append(line if self.keep_elements is None else self.keep_elements(line))
                if perf_counter() - since > _TURN:
                    await anyio.lowlevel.checkpoint()
                    since = perf_counter()
            count = len(kept)
            lines = b"\n".join((*kept, b""))
        if self.base_url is not None:
            lines = absolute(lines, self.base_url)
        return page if lines is page.lines else replace(page, lines=lines, count=count)
