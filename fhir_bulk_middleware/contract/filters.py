"""Which lines of a page meet the filters of their type: `_typeFilter` and granular scopes, applied to canonical text."""

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.matching import Matcher

__all__ = ["Filters"]

_MOST_NEEDLES = 64
_ESCAPED = b"\\u00"  # how JSON could write a printable ASCII character otherwise than as itself


class Filters:
    """The filters of one resource type: all of them must hold, each by any of its alternatives (TF-02, SE-09).

    A storage adapter uses it where it has to filter by itself: `Target.filters`, `ProvenanceTarget.filters`.

    Most criteria have needles: bytes without which nothing can meet them. What has none of them is never parsed.

    Args:
        filters: of any types; those of other types are left out.
        type: the resource type.
        base_urls: under which an absolute reference leads to the exported storage.
    """

    def __init__(self, filters: Iterable[Filter], type: str, base_urls: Iterable[str] = ()) -> None:  # noqa: A002 - FHIR's word
        bases = tuple(base_urls)
        self._all = tuple(
            tuple(Matcher(criteria, bases) for criteria in filter_.alternatives) for filter_ in filters if filter_.type == type
        )
        self._needles = _most_telling(self._all)

    def __bool__(self) -> bool:
        """Whether there is anything to meet."""
        return bool(self._all)

    def passes(self, line: bytes) -> bool:
        """Whether one resource, as canonical text, meets all filters."""
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
        """The lines of a page that may meet all filters, without their newlines; whether they do, `passes` says."""
        needles = self._needles
        if needles is None or _escapes(page):
            return page[:-1].split(b"\n")
        return _lines_with(page, needles)


def _escapes(text: bytes) -> bool:
    """Whether a needle may be hidden behind an escape; for one byte memory is searched several times faster than for some."""
    return b"\\" in text and _ESCAPED in text


def _most_telling(filters: Iterable[tuple[Matcher, ...]]) -> tuple[bytes, ...] | None:
    """The needles of one filter, for all filters must hold: of which any must occur in a resource that meets it."""
    found: list[tuple[bytes, ...]] = []
    for alternatives in filters:
        needles = [needle for matcher in alternatives for needle in matcher.needles or ()]
        if all(matcher.needles is not None for matcher in alternatives) and len(needles) <= _MOST_NEEDLES:
            found.append(tuple(dict.fromkeys(needles)))
    return max(found, key=lambda needles: min(map(len, needles)), default=None)


def _lines_with(page: bytes, needles: tuple[bytes, ...]) -> Iterator[bytes]:
    """The lines that hold any of the needles, in their order, found without looking at the others one by one."""
    following = [page.find(needle) for needle in needles]
    while (at := min((place for place in following if place >= 0), default=-1)) >= 0:
        start, end = page.rfind(b"\n", 0, at) + 1, page.find(b"\n", at)
        yield page[start:end]
        following = [
            page.find(needle, end) if 0 <= place < end else place for needle, place in zip(needles, following, strict=True)
        ]


@cache
def _parser() -> Callable[[bytes], Any]:
    """JSON with its numbers as they are written: `Decimal` where there is a point or an exponent."""
    try:
        import msgspec  # noqa: PLC0415 - an optional extra
    except ImportError:
        return lambda line: json.loads(line, parse_float=Decimal)
    return msgspec.json.Decoder(float_hook=Decimal).decode
