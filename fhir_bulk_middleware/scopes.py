"""Parses SMART scopes, versions 1 and 2, and answers what they permit (SE-06 to SE-09, law 8).

An unknown scope grants nothing and is no error, since a token may also carry scopes of other systems.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self

from fhir_bulk_middleware.caps import GRANULAR_SCOPES, SCOPES

__all__ = ["Scope", "Scopes"]

_EXPORTING = frozenset("rs")
_EVERY_TYPE = "*"
_SYSTEM = "system"

# Version 2 permissions are an in-order subset of "cruds" (SE-07); a query may hold every character that OAuth allows in a scope.
_SCOPE = re.compile(
    r"(?P<context>system|user|patient)/(?P<type>\*|[A-Z][A-Za-z]*)\."
    r"(?:(?P<v1>read|write|\*)|(?P<v2>(?=[cruds])c?r?u?d?s?)(?:\?(?P<query>[!#-\[\]-~]+))?)",
    re.ASCII,
)
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}  # SE-08


@dataclass(frozen=True, slots=True)
class Scope:
    """One parsed scope.

    Attributes:
        context: `system`, `user` or `patient`.
        type: a resource type, or `*` for all.
        letters: the permissions, of `cruds`: create, read, update, delete, search.
        query: the search criteria of a granular scope, percent-encoded as in the token; else None.
    """

    context: str
    type: str
    letters: frozenset[str]
    query: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The scope, None if `text` is not a well-formed SMART scope on resources."""
        match = _SCOPE.fullmatch(text)
        if match is None:
            return None
        letters = match["v2"] or _V1[match["v1"]]
        return cls(match["context"], match["type"], frozenset(letters), match["query"])

    @property
    def grants(self) -> bool:
        """Whether the scope grants whole types: only `system/` scopes without a query do (law 8)."""
        return self.context == _SYSTEM and self.query is None


@dataclass(frozen=True, slots=True)
class Scopes:
    """The permissions of all scopes of one token together.

    Permissions are a union per type: `system/Patient.r system/Patient.s` is `system/Patient.rs`, and `system/*.r` adds its `r` to
    every type. OAuth defines no order and no precedence among scopes, so any other reading would make the result depend on how an
    authorization server happens to write them. `user/` and `patient/` scopes neither add to the others nor take from them.

    Attributes:
        granted: permissions by resource type; `*` stands for all types.
        granular: `system/` scopes on part of a type; what they permit holds for the resources that their query finds.
    """

    granted: Mapping[str, frozenset[str]]
    granular: tuple[Scope, ...] = ()

    @classmethod
    def parse(cls, scopes: Iterable[str]) -> Self:
        """Parse a token's scopes, one string each. Other strings, and scopes beyond the caps (law 38), grant nothing."""
        granted: dict[str, frozenset[str]] = {}
        granular: list[Scope] = []
        for scope in filter(None, map(Scope.parse, islice(scopes, SCOPES))):
            if scope.grants:
                granted[scope.type] = granted.get(scope.type, frozenset()) | scope.letters
            elif scope.context == _SYSTEM and len(granular) < GRANULAR_SCOPES:
                granular.append(scope)
        return cls(granted, tuple(granular))

    @property
    def read_all(self) -> bool:
        """Whether all types may be exported: the usual case, for which each poll asks."""
        return self.granted.get(_EVERY_TYPE, frozenset()) >= _EXPORTING

    def readable(self, types: frozenset[str]) -> frozenset[str]:
        """Those of `types` that may be exported: an export finds resources and shows them, so it takes `r` and `s` (SE-07)."""
        if self.read_all:
            return types
        every = self.granted.get(_EVERY_TYPE, frozenset())
        return frozenset(type_ for type_ in types & self.granted.keys() if self.granted[type_] | every >= _EXPORTING)

    def exportable(self, types: frozenset[str]) -> frozenset[str]:
        """Those of `types` that may be exported, entirely or as far as granular scopes allow."""
        return self.readable(types) | {type_ for type_ in types if self.queries(type_)}

    def queries(self, type_: str) -> tuple[str, ...]:
        """The queries of granular scopes with `r` and `s` on the type, percent-encoded as in the token (SE-09)."""
        return tuple(
            scope.query
            for scope in self.granular
            if scope.query is not None and scope.type in {type_, _EVERY_TYPE} and scope.letters >= _EXPORTING
        )

    def may_read(self, type_: str) -> bool:
        """Whether the content of a resource of this type may be shown (law 24)."""
        return "r" in self._letters(type_)

    def restrictions(self, type_: str, letter: str) -> tuple[str, ...] | None:
        """The queries of granular scopes that restrict a permission on the type; None if it covers the whole type.

        They are percent-encoded as in the token. Empty if no scope gives the permission.
        """
        if letter in self._letters(type_):
            return None
        return tuple(
            scope.query
            for scope in self.granular
            if scope.query is not None and scope.type in {type_, _EVERY_TYPE} and letter in scope.letters
        )

    def _letters(self, type_: str) -> frozenset[str]:
        nothing: frozenset[str] = frozenset()
        return self.granted.get(type_, nothing) | self.granted.get(_EVERY_TYPE, nothing)
