"""Computes granted scopes: the intersection of the requested and the allowed scopes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fhir_bulk_middleware.scopes import Scope

__all__ = ["granted", "spelled"]

_ORDER = "cruds"
_EVERY_TYPE = "*"


class _Rows(NamedTuple):
    """The resources that a scope covers: one type or all, complete or restricted by a query."""

    type: str
    query: str | None

    def within(self, other: "_Rows") -> bool:
        """Whether the other covers all resources that this one covers."""
        return other.type in {_EVERY_TYPE, self.type} and other.query in {None, self.query}


def granted(asked: Iterable[str], allowed: Sequence[Scope], types: frozenset[str]) -> tuple[str, ...]:
    """The granted scopes; a scope that is granted completely keeps its spelling.

    A broad request of a client with narrow rights gets the narrow rights: `system/*.rs` requested by a client that may read
    patients gives `system/Patient.rs`. No scope can express the intersection of two different queries on a type, so they give
    nothing.

    Args:
        asked: the requested scopes; unknown ones are ignored.
        allowed: the client's `system/` scopes.
        types: the resource types of the FHIR version.
    """
    wanted = {text: scope for text in asked if (scope := Scope.parse(text)) is not None and _known(scope, types)}
    letters: dict[_Rows, frozenset[str]] = {}
    for scope in wanted.values():
        for right in allowed:
            rows = _common(_Rows(scope.type, scope.query), _Rows(right.type, right.query))
            if rows is not None and scope.letters & right.letters:
                letters[rows] = letters.get(rows, frozenset()) | (scope.letters & right.letters)
    return tuple(_spelled(rows, given, wanted) for rows, given in letters.items() if not _implied(rows, given, letters))


def _known(scope: Scope, types: frozenset[str]) -> bool:
    return scope.context == "system" and scope.type in types | {_EVERY_TYPE}


def _common(one: _Rows, other: _Rows) -> _Rows | None:
    if one.within(other):
        return one
    if other.within(one):
        return other
    # a query on all types, intersected with a whole type, is the query on that type
    if _EVERY_TYPE in {one.type, other.type} and None in {one.query, other.query}:
        type_ = other.type if one.type == _EVERY_TYPE else one.type
        return _Rows(type_, one.query or other.query)
    return None


def _implied(rows: _Rows, given: frozenset[str], letters: dict[_Rows, frozenset[str]]) -> bool:
    """Whether the other scopes already cover this one."""
    return any(other != rows and rows.within(other) and given <= more for other, more in letters.items())


def _spelled(rows: _Rows, given: frozenset[str], wanted: dict[str, Scope]) -> str:
    for text, scope in wanted.items():
        if (scope.type, scope.query) == rows and scope.letters == given:
            return text
    return spelled(rows.type, given, rows.query)


def spelled(type_: str, letters: frozenset[str], query: str | None = None) -> str:
    """A `system/` scope in the syntax of SMART version 2 (SE-07)."""
    text = f"system/{type_}.{''.join(letter for letter in _ORDER if letter in letters)}"
    return text if query is None else f"{text}?{query}"
