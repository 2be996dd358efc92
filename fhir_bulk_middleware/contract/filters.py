"""`Filters`: applies search criteria to resources as canonical text, for `_typeFilter`, granular scopes and deletes."""

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.matching import Matcher

__all__ = ["Filters"]

_MOST_NEEDLES = 64
_ESCAPED = b"\\u00"  # the other way to write a printable ASCII character in JSON


class Filters:
    """The filters of one resource type, ready to be applied: all must hold, each by any of its alternatives (TF-02, SE-09).

    A storage adapter uses it where it has to filter by itself, for `Target.filters` and `ProvenanceTarget.filters`:

        filters = Filters(target.filters, target.type)
        found = [row for row in rows if filters.passes(row.json)]

    Most criteria have needles: byte strings of which a matching resource contains at least one. A resource without any of them
    is not parsed.

    Args:
        filters: the filters; those of other types are ignored.
        type: the resource type.
        base_urls: the base URLs under which an absolute reference leads to the storage.
    """

    def __init__(self, filters: Iterable[Filter], type: str, base_urls: Iterable[str] = ()) -> None:  # noqa: A002 - FHIR's word
        bases = tuple(base_urls)
        self._all = tuple(
            tuple(Matcher(criteria, bases) for criteria in filter_.alternatives) for filter_ in filters if filter_.type == type
        )
        self._needles = _most_telling(self._all)

    def __bool__(self) -> bool:
        """Whether there is a filter."""
        return bool(self._all)

    def passes(self, line: bytes) -> bool:
        """Whether a resource, as canonical text, meets all filters."""
        escaped = _escapes(line)
        resource: Any = None
        for alternatives in self._all:
            for matcher in alternatives:
                if not escaped and matcher.needles is not None and not any(needle in line for needle in matcher.needles):
                    continue
                if resource is None:
                    resource = _parser()(line)
                if matcher.matches(resource):
                    break
            else:
                return False
        return True

    def candidates(self, page: bytes) -> Iterable[bytes]:
        """The lines of a page that can meet all filters, without newlines; `passes` decides whether they do."""
        needles = self._needles
        if needles is None or _escapes(page):
            return page[:-1].split(b"\n")
        return _lines_with(page, needles)


def _escapes(text: bytes) -> bool:
    """Whether an escape may hide a needle. A search for one byte comes first, since it is several times faster."""
    return b"\\" in text and _ESCAPED in text


def _most_telling(filters: Iterable[tuple[Matcher, ...]]) -> tuple[bytes, ...] | None:
    """The needles of the most selective filter, of which a line must contain one; None if no filter has needles."""
    found: list[tuple[bytes, ...]] = []
    for alternatives in filters:
        needles = [needle for matcher in alternatives for needle in matcher.needles or ()]
        if all(matcher.needles is not None for matcher in alternatives) and len(needles) <= _MOST_NEEDLES:
            found.append(tuple(dict.fromkeys(needles)))
    return max(found, key=lambda needles: min(map(len, needles)), default=None)


def _lines_with(page: bytes, needles: tuple[bytes, ...]) -> Iterator[bytes]:
    """The lines that contain any of the needles, in order, found without a loop over all lines."""
    following = [page.find(needle) for needle in needles]
    while (at := min((place for place in following if place >= 0), default=-1)) >= 0:
        start, end = page.rfind(b"\n", 0, at) + 1, page.find(b"\n", at)
        yield page[start:end]
        following = [
            page.find(needle, end) if 0 <= place < end else place for needle, place in zip(needles, following, strict=True)
        ]


@cache
def _parser() -> Callable[[bytes], Any]:
    """A JSON parser that keeps the digits of numbers: `Decimal` for a point or an exponent."""
    try:
        import msgspec  # noqa: PLC0415 - an optional extra
    except ImportError:
        return lambda line: json.loads(line, parse_float=Decimal)
    return msgspec.json.Decoder(float_hook=Decimal).decode
