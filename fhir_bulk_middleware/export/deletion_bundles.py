"""Deletions as the lines of a `deleted` file: one transaction Bundle each (DR-03, DR-04)."""

from collections.abc import AsyncIterator, Iterable

from fhir_bulk_middleware.contract.query import Deletions, Page, Query
from fhir_bulk_middleware.export.cohort import Cohort
from fhir_bulk_middleware.export.firewall import FirewallBreach
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["bundle_lines", "deletion_pages"]

_BEFORE = b'{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"'
_AFTER = b'"}}]}\n'


def bundle_lines(references: Iterable[str]) -> bytes:
    """One line for each reference."""
    return b"".join(_BEFORE + reference.encode() + _AFTER for reference in references)


async def deletion_pages(
    query: Query, deletions: AsyncIterator[Deletions], after: str | None, cohort: Cohort
) -> AsyncIterator[Page]:
    """Pages of Bundles, one for each page of deletions, of what the cohort may be told (law 41).

    Raises:
        FirewallBreach: a deletion is of another type (law 17).
        MalformedPage: a page breaks the rules of `Deletions`.
    """
    form, own = PageForm(f"deleted {query.type}", query.page_bytes, after), f"{query.type}/"
    async with closing(deletions) as pages:
        async for page in pages:
            form.check_deletions(page)
            if not all(reference.startswith(own) for reference in page.references):
                raise FirewallBreach(query.type, "a deletion is of another type")
            told = tuple(filter(cohort.tells_deletion, page.references))
            yield Page(bundle_lines(told), len(told), page.cursor)
