"""Deletions as the lines of a `deleted` file: one transaction Bundle each (DR-03, DR-04)."""

import re
from collections.abc import AsyncIterator

from fhir_bulk_middleware.export.closing import closing
from fhir_bulk_middleware.export.firewall import FirewallBreach
from fhir_bulk_middleware.export.query import Deletions, Page

__all__ = ["deletion_pages"]

_BEFORE = b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"'
_AFTER = b'"}}]}\n'


async def deletion_pages(resource_type: str, deletions: AsyncIterator[Deletions]) -> AsyncIterator[Page]:
    """Pages of Bundles, one for each page of references.

    Raises:
        FirewallBreach: a reference is not `Type/id` of this type (law 17).
    """
    one_of_type = re.compile(rf"{re.escape(resource_type)}/[A-Za-z0-9.-]{{1,64}}", re.ASCII)
    async with closing(deletions) as pages:
        async for page in pages:
            if not all(map(one_of_type.fullmatch, page.references)):
                raise FirewallBreach(resource_type, "a deletion is not a reference to one resource of this type")
            lines = b"".join(_BEFORE + reference.encode() + _AFTER for reference in page.references)
            yield Page(lines, len(page.references), page.cursor)
