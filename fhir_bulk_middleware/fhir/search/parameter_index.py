"""`ParameterIndex`: the search parameters that our stores index, and the keys under which they find candidates.

A store keeps the keys of each version that it writes (`keys`). For a criterion it looks up ranges of keys (`ranges`). Each
resource that meets the criterion has a key in one of them. Others may have one too, since a key says less than the value: a
token's key has no system, a reference's no type and no server, a date's no time of day. So the index finds candidates, and the
criteria decide.

Indexed are the tokens and dates that the searches of US Core 8 need, as far as the base specification defines them; the
references that no other index of our stores has (those to patients are found by compartments, those to what no patient owns by
what a line names); and `identifier` of every type, for conditional deletes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any
from zlib import crc32

from fhir_bulk_middleware.fhir.definitions import SearchParameter, TypedPath, definitions
from fhir_bulk_middleware.fhir.expression import Walk, compile_path, first_key
from fhir_bulk_middleware.fhir.prefix import Prefix
from fhir_bulk_middleware.fhir.search.criteria import Criterion
from fhir_bulk_middleware.fhir.search.spans import Span, element_span, read_span
from fhir_bulk_middleware.fhir.search.values import DateValue, ReferenceValue, TokenValue, TypedIdentifierValue, Value
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

__all__ = ["INDEXED", "Key", "KeyRange", "ParameterIndex", "decoded", "indexed"]

Key = int
"""A parameter's place among those that are indexed of a resource type (`indexed`), and a signed number of 32 bits: one integer,
since millions of them are made in a load (`decoded`)."""

KeyRange = tuple[str, int, int]
"""The name of a search parameter, and the first and the last number."""

INDEXED: Mapping[str, tuple[str, ...]] = {
    "AllergyIntolerance": ("clinical-status",),
    "CarePlan": ("category", "date", "status"),
    "CareTeam": ("status",),
    "Condition": ("abatement-date", "category", "clinical-status", "code", "encounter", "onset-date", "recorded-date"),
    "Device": ("status", "type"),
    "DiagnosticReport": ("category", "code", "date", "status"),
    "DocumentReference": ("category", "date", "period", "status", "type"),
    "Encounter": ("class", "date", "status", "type"),
    "FamilyMemberHistory": ("code",),
    "Goal": ("lifecycle-status", "target-date"),
    "Immunization": ("date", "status"),
    "MedicationDispense": ("status", "type"),
    "MedicationRequest": ("authoredon", "encounter", "intent", "status"),
    "Observation": ("category", "code", "date", "status"),
    "Patient": ("birthdate", "death-date"),
    "PractitionerRole": ("specialty",),
    "Procedure": ("code", "date", "status"),
    "QuestionnaireResponse": ("authored", "questionnaire", "status"),
    "ServiceRequest": ("authored", "category", "code", "status"),
}
"""By resource type; `identifier`, of all types, is not repeated."""

_EVERY = ("identifier",)

_RELATIVE = rf"[A-Z][A-Za-z]*/({RESOURCE_ID_PATTERN})(?:/_history/{RESOURCE_ID_PATTERN})?"
_REFERENCE = re.compile(_RELATIVE), re.compile(rf".*/{_RELATIVE}")
"""The usual form, and the absolute one, which takes longer to look for."""

_BITS = 32
_SIGN = 1 << (_BITS - 1)
_NANOSECONDS = 86_400_000_000_000
_SHORT = 31
"""Days. An interval that is not longer has the key of its first day; a longer one has one of its last day too."""
_SLACK = 3
"""Days. A day is taken as written, and may be the one before or after it in UTC."""
_LEAST, _MOST = 0, 1 << 22
"""Before and after every day, which count from 1 for the first of the year 1."""
_ENDS = 1 << 23
"""What is added to the last day of a long interval, so that its key is none of a first day."""

_Read = Callable[[Any, Key, list[Key]], None]
"""Adds the keys of an element, or of a list of them; the second argument is the key of the parameter's number 0."""

_Place = tuple[Key, Walk | None, _Read]
"""The key of a parameter's number 0, the way to its elements, None for a member of the resource, and what reads them."""


def indexed(type_: str) -> tuple[str, ...]:
    """The names of the indexed parameters of a resource type, in any release."""
    return (*INDEXED.get(type_, ()), *_EVERY)


def decoded(key: Key) -> tuple[int, int]:
    """The parameter's place in `indexed`, and the number."""
    return key >> _BITS, (key & ((1 << _BITS) - 1)) - _SIGN


class ParameterIndex:
    """The index of one release.

    Args:
        version: the release that the resources are written in.
    """

    def __init__(self, version: FhirVersion) -> None:
        self.version = version
        self._definitions = definitions(version)
        self._places: dict[str, Sequence[tuple[str, Sequence[_Place]]]] = {}

    def keys(self, resource: Mapping[str, Any]) -> tuple[Key, ...]:
        """The keys of a parsed resource, each once; none for a type that the release does not have."""
        type_ = resource.get("resourceType", "")
        places = self._places.get(type_)
        if places is None:
            if type_ not in self._definitions.resource_types:
                return ()
            places = self._places[type_] = self._places_of(type_)
        found: list[Key] = []
        for first, several in places:
            if (value := resource.get(first)) is not None:
                for zero, walk, read in several:
                    read(value if walk is None else walk(resource), zero, found)
        return tuple(set(found))

    def ranges(self, criterion: Criterion, type_: str) -> tuple[KeyRange, ...] | None:
        """The ranges in which each resource that meets the criterion has a key.

        None if the index does not have the parameter, or says nothing about one of the values: `:missing`, `:not`, `:text` and
        `:identifier`, `system|` without a code, and dates with `ne`.
        """
        parameter = self._definitions.parameters(type_).get(criterion.name)
        if parameter is None or criterion.missing is not None or not _has(type_, parameter):
            return None
        found: set[KeyRange] = set()
        for value in criterion.values:
            ranges = _ranges(criterion.modifier, value, parameter)
            if ranges is None:
                return None
            found.update((parameter.name, first, last) for first, last in ranges)
        return tuple(sorted(found))

    def _places_of(self, type_: str) -> Sequence[tuple[str, Sequence[_Place]]]:
        """Where the values of a type stand, by the first step of the path, so that paths that a resource lacks cost nothing."""
        found: dict[str, list[_Place]] = {}
        parameters = self._definitions.parameters(type_)
        for place, name in enumerate(indexed(type_)):
            parameter = parameters.get(name)
            for path in parameter.paths if parameter is not None and _has(type_, parameter) else ():
                first = first_key(path.path)
                walk = None if first == path.path else compile_path(path.path)
                found.setdefault(first, []).append(((place << _BITS) + _SIGN, walk, _READ[path.type]))
        return tuple(found.items())


def _has(type_: str, parameter: SearchParameter) -> bool:
    """Whether the index has a parameter: listed, and with values only of data types that it can read."""
    paths: Sequence[TypedPath] = parameter.paths
    return parameter.name in indexed(type_) and bool(paths) and all(path.type in _READ for path in paths)


def _ranges(modifier: str | None, value: Value, parameter: SearchParameter) -> Sequence[tuple[int, int]] | None:
    match value:
        case TokenValue(code=str(code)) if modifier is None:
            return _exactly(code)
        case TypedIdentifierValue():
            return _exactly(value.value)
        case ReferenceValue(url=str(url)):
            texts = {url if path.type == "canonical" else _id_in(url) for path in parameter.paths}
            return [only for text in texts for only in _exactly(text)]
        case ReferenceValue(id=str(id_)):
            return _exactly(id_)
        case DateValue():
            return _days(value)
        case _:
            return None


def _exactly(text: str) -> Sequence[tuple[int, int]]:
    number = _number(text)
    return [] if number is None else [(number, number)]


def _days(value: DateValue) -> Sequence[tuple[int, int]] | None:
    """The days on which a matching interval can begin, and those on which a long one can end."""
    low = int(value.span.low // _NANOSECONDS) - _SLACK
    high = int(value.span.high // _NANOSECONDS) + _SLACK
    late = _ENDS + max(low, _LEAST), _ENDS + _MOST
    match value.prefix:
        case Prefix.EQ:
            return [(low, high)]
        case Prefix.GT | Prefix.GE:
            return [(low - _SHORT, _MOST), late]
        case Prefix.LT | Prefix.LE | Prefix.EB:
            return [(_LEAST, high)]
        case Prefix.SA:
            return [(low, _MOST)]
        case Prefix.AP:
            return [(low - _SHORT, high), late]
        case Prefix.NE:
            return None


# --- The keys of an element, or of a list of them: read for each resource that is written


def _elements(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else (value,)


def _number(text: str) -> int | None:
    try:
        return crc32(text.encode()) - _SIGN
    except UnicodeEncodeError:  # a parser's mark of a number; no criterion means it
        return None


_number_of_code = lru_cache(maxsize=4_096)(_number)
"""Codes come again and again."""


def _texts(texts: Iterable[Any], zero: Key, found: list[Key]) -> None:
    for text in texts:
        number = _number(text) if isinstance(text, str) else None
        if number is not None:
            found.append(zero + number)


def _codes(value: Any, zero: Key, found: list[Key]) -> None:
    for code in value if isinstance(value, list) else (value,):
        number = _number_of_code(code) if isinstance(code, str) else None
        if number is not None:
            found.append(zero + number)


def _codings(value: Any, zero: Key, found: list[Key]) -> None:
    for node in value if isinstance(value, list) else (value,):
        if isinstance(node, dict) and isinstance(code := node.get("code"), str):
            number = _number_of_code(code)
            if number is not None:
                found.append(zero + number)


def _concepts(value: Any, zero: Key, found: list[Key]) -> None:
    for node in value if isinstance(value, list) else (value,):
        if isinstance(node, dict) and (codings := node.get("coding")) is not None:
            _codings(codings, zero, found)


def _identifiers(value: Any, zero: Key, found: list[Key]) -> None:
    for node in _elements(value):
        if isinstance(node, dict):
            _texts(_elements(node.get("value")), zero, found)


def _references(value: Any, zero: Key, found: list[Key]) -> None:
    for node in _elements(value):
        if isinstance(node, dict) and isinstance(text := node.get("reference"), str):
            _texts((_id_in(text),), zero, found)


def _id_in(text: str) -> str:
    """The id of a literal reference, whatever the server's base URLs; the whole text of what has no id, such as a `urn:`."""
    relative, absolute = _REFERENCE
    found = relative.fullmatch(text) or absolute.fullmatch(text)
    return text if found is None else found[1]


def _canonicals(value: Any, zero: Key, found: list[Key]) -> None:
    """With its version and without."""
    for text in _elements(value):
        if isinstance(text, str):
            _texts((text, text.partition("|")[0]), zero, found)


def _dates(value: Any, zero: Key, found: list[Key]) -> None:
    for text in value if isinstance(value, list) else (value,):
        days = _day(text)
        if days is not None:
            _interval(*days, zero, found)


def _periods(value: Any, zero: Key, found: list[Key]) -> None:
    for node in _elements(value):
        if isinstance(node, dict):
            start, end = node.get("start"), node.get("end")
            first = (_LEAST, _LEAST) if start is None else _day(start)
            last = (_MOST, _MOST) if end is None else _day(end)
            if first is not None and last is not None:
                _interval(first[0], last[1], zero, found)


def _timings(value: Any, zero: Key, found: list[Key]) -> None:
    for node in _elements(value):
        span = element_span(node, "Timing")
        if span is not None:
            within = Span(max(span.low, _LEAST), min(span.high, _MOST * _NANOSECONDS))
            _interval(*_of_span(within), zero, found)


def _interval(first: int, last: int, zero: Key, found: list[Key]) -> None:
    found.append(zero + first)
    if last < first:
        found.append(zero + last)  # nonsense, which may be found by either
    elif last - first > _SHORT:
        found.append(zero + _ENDS + last)


def _day(text: Any) -> tuple[int, int] | None:
    """The first and the last day of a date of any precision, as written; None if it is none."""
    if not isinstance(text, str):
        return None
    if len(text) < len("2000-01-01"):
        span = read_span(text)
        return None if span is None else _of_span(span)
    return _whole_day(text[:10])


@lru_cache(maxsize=4_096)
def _whole_day(text: str) -> tuple[int, int] | None:
    try:
        day = date.fromisoformat(text).toordinal()
    except ValueError:
        return None
    return day, day


def _of_span(span: Span) -> tuple[int, int]:
    return int(span.low // _NANOSECONDS), int(span.high // _NANOSECONDS)


_READ: Mapping[str, _Read] = {
    "CodeableConcept": _concepts,
    "Coding": _codings,
    "Identifier": _identifiers,
    "code": _codes,
    "Reference": _references,
    "canonical": _canonicals,
    "date": _dates,
    "dateTime": _dates,
    "instant": _dates,
    "Period": _periods,
    "Timing": _timings,
}
"""By the data type of an element."""
