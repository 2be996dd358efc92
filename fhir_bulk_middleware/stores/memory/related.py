"""Reads that follow references: Provenance by its targets, blocks by patient, and what names a resource."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.paging import PageMaker
from fhir_bulk_middleware.contract.query import Block, Compartments, Everything, Page, ProvenanceTarget, Query, Window
from fhir_bulk_middleware.fhir.provenance import targets as targets_of
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.stores.versioned import Stored

__all__ = ["Chosen", "blocks", "naming", "paged", "provenance"]


class OwnedVersion(Protocol):
    """A version with its compartments."""

    @property
    def stored(self) -> Stored:
        """The version."""
        ...

    @property
    def owners(self) -> frozenset[str]:
        """The compartments."""
        ...


Chosen = Callable[[Query], Iterable[tuple[int, OwnedVersion]]]
"""The versions of a query with their positions, in one fixed order."""


def paged(found: Iterable[tuple[int, bytes]], page_bytes: int) -> Iterator[Page]:
    """Pages of lines; the cursor of each page is the position of its last line."""
    pages = PageMaker(page_bytes)
    for position, line in found:
        if (page := pages.add(line, str(position))) is not None:
            yield page
    if (page := pages.last()) is not None:
        yield page


def provenance(
    chosen: Chosen,
    query: Query,
    targets: Sequence[ProvenanceTarget],
    base_urls: Collection[str],
    after: str | None,
    *,
    latest: bool,
) -> Iterator[Page]:
    """See `SupportsProvenance`."""
    parse = References(base_urls).parse
    selected: set[tuple[str, str]] = set()
    for target in targets:
        type_, filters = target.query.type, Filters(target.filters, target.query.type, base_urls)
        found = {(type_, v.stored.id) for _, v in chosen(target.query) if not filters or filters.passes(v.stored.json)}
        selected |= found - _selected_before(chosen, target) if target.entered else found
    whole = replace(query, selection=Everything())
    every = [(at, v.stored.json, targets_of(json.loads(v.stored.json), parse) & selected) for at, v in chosen(whole)]
    newest = {target: at for at, _, about in every for target in about}
    start = -1 if after is None else int(after)
    wanted = (
        (at, line) for at, line, about in every if at > start and any(not latest or newest[target] == at for target in about)
    )
    return paged(wanted, query.page_bytes)


def _selected_before(chosen: Chosen, target: ProvenanceTarget) -> set[tuple[str, str]]:
    """What lived and lay in the selection of a target when its window began."""
    since = target.query.window.since
    if since is None:
        return set()
    before = target.query.selection if target.before is None else target.before
    then = replace(target.query, selection=before, window=Window(), as_of=since)
    return {(then.type, version.stored.id) for _, version in chosen(then)}


def naming(chosen: Chosen, queries: Sequence[Query], reference: str, base_urls: Collection[str]) -> Iterator[Page]:
    """See `SupportsNaming`. Looks at each line."""
    named, text = References(base_urls).named, reference.encode()
    for query in queries:
        found = ((at, version.stored.json) for at, version in chosen(query) if text in named(version.stored.json))
        yield from paged(found, query.page_bytes)


def blocks(chosen: Chosen, queries: Sequence[Query], after: str | None) -> Iterator[Block]:
    """See `SupportsOrganising`. Patients come in the order of their references; the Patient first, then type by type."""
    order = sorted(queries, key=lambda query: (query.type != "Patient", query.type))
    held: dict[str, dict[int, list[tuple[int, bytes]]]] = {}
    for place, query in enumerate(order):
        selection = query.selection
        for position, version in chosen(query):
            for owner in version.owners:
                if owner.startswith("Patient/") and (not isinstance(selection, Compartments) or owner in selection.references):
                    held.setdefault(owner, {}).setdefault(place, []).append((position, version.stored.json))
    begin = ("", -1, -1) if after is None else _place(after)
    for owner, by_type in sorted(held.items()):
        for place, found in sorted(by_type.items()):
            rest = [(position, line) for position, line in found if (owner, place, position) > begin]
            for page in paged(rest, order[place].page_bytes):
                yield Block(owner, order[place].type, page, json.dumps([owner, place, int(page.cursor)]))


def _place(cursor: str) -> tuple[str, int, int]:
    owner, place, position = json.loads(cursor)
    return owner, place, position
