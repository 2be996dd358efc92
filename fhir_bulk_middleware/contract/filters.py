"""`Filters`: applies search criteria to resources as canonical text, for `_typeFilter`, granular scopes and deletes."""

import json
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypedDict

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
    is not parsed. Of the others only the members that the criteria read are parsed, if msgspec is installed.

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
        self._parse = _parser(frozenset().union(*(matcher.members for several in self._all for matcher in several)))

    def __bool__(self) -> bool:
        """Whether there is a filter."""
        return bool(self._all)

    def passes(self, line: bytes) -> bool:
        """Whether a resource, as canonical text, meets all filters."""
        needles = self._needles
        if needles is not None and not _has_any(line, needles) and not _escapes(line):
            return False
        return not self._all or self.judge(line)

    def candidates(self, page: bytes) -> Collection[bytes]:
        """The lines of a page that can meet all filters, without newlines; `judge` decides whether they do."""
        lines, needles = page[:-1].split(b"\n"), self._needles
        if needles is None:
            return lines
        hidden = b"\\" in page  # most pages have no escape at all
        if len(needles) == 1:
            needle = needles[0]
            return [line for line in lines if needle in line or (hidden and _escapes(line))]
        return [line for line in lines if _has_any(line, needles) or (hidden and _escapes(line))]

    def judge(self, line: bytes) -> bool:
        """As `passes`, for a line of `candidates`: parses it in any case."""
        resource = self._parse(line)
        for alternatives in self._all:
            for matcher in alternatives:
                if matcher.matches(resource):
                    break
            else:
                return False
        return True


def _has_any(line: bytes, needles: Iterable[bytes]) -> bool:
    return any(map(line.__contains__, needles))


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


@lru_cache(maxsize=256)
def _parser(members: frozenset[str]) -> Callable[[bytes], Any]:
    """A JSON parser of a resource, or of these members alone if it can leave out others.

    It keeps the digits of numbers: `Decimal` for a point or an exponent.
    """
    try:
        import msgspec  # noqa: PLC0415 - an optional extra
    except ImportError:
        return lambda line: json.loads(line, parse_float=Decimal)
    fields: Any = dict.fromkeys(members, Any)
    return msgspec.json.Decoder(TypedDict("Members", fields, total=False), float_hook=Decimal).decode  # type: ignore[operator] # fields of its own
