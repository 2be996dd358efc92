"""Which scopes a client gets: the part of those that it asks for which it may have."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fhir_bulk_middleware.scopes import Scope

__all__ = ["granted", "spelled"]

_ORDER = "cruds"
_EVERY_TYPE = "*"


class _Rows(NamedTuple):
    """What letters are about: a type or all of them, whole or as far as a query goes."""

    type: str
    query: str | None

    def within(self, other: "_Rows") -> bool:
        """Whether all that this is about, the other is about too."""
        return other.type in {_EVERY_TYPE, self.type} and other.query in {None, self.query}


def granted(asked: Iterable[str], allowed: Sequence[Scope], types: frozenset[str]) -> tuple[str, ...]:
    """What is granted, in the spelling in which it was asked for where that is all of it.

    A broad wish of a client with narrow rights gives the narrow rights: `system/*.rs` from one that may read patients gives
    `system/Patient.rs`. Two different queries on one type have no common part that a scope could say, so they give nothing.

    Args:
        asked: scopes as the client spells them; what is none, or none of ours, gives nothing.
        allowed: the client's `system/` scopes.
        types: the resource types that there are.
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
    # A query on all types and a whole type: the query on that type.
    if _EVERY_TYPE in {one.type, other.type} and None in {one.query, other.query}:
        type_ = other.type if one.type == _EVERY_TYPE else one.type
        return _Rows(type_, one.query or other.query)
    return None


def _implied(rows: _Rows, given: frozenset[str], letters: dict[_Rows, frozenset[str]]) -> bool:
    """Whether the others say it already."""
    return any(other != rows and rows.within(other) and given <= more for other, more in letters.items())


def _spelled(rows: _Rows, given: frozenset[str], wanted: dict[str, Scope]) -> str:
    for text, scope in wanted.items():
        if (scope.type, scope.query) == rows and scope.letters == given:
            return text
    return spelled(rows.type, given, rows.query)


def spelled(type_: str, letters: frozenset[str], query: str | None = None) -> str:
    """A `system/` scope as version 2 of SMART spells it (SE-07)."""
    text = f"system/{type_}.{''.join(letter for letter in _ORDER if letter in letters)}"
    return text if query is None else f"{text}?{query}"
