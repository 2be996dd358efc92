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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any
from zlib import crc32

from fhir_bulk_middleware.fhir.definitions import SearchParameter, TypedPath, definitions
from fhir_bulk_middleware.fhir.expression import Walk, compile_path, members
from fhir_bulk_middleware.fhir.prefix import Prefix
from fhir_bulk_middleware.fhir.search.criteria import Criterion
from fhir_bulk_middleware.fhir.search.spans import Span, element_span, read_span
from fhir_bulk_middleware.fhir.search.values import DateValue, ReferenceValue, TokenValue, TypedIdentifierValue, Value
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

__all__ = ["INDEXED", "Key", "KeyRange", "ParameterIndex", "indexed"]

Key = tuple[str, int]
"""The name of a search parameter, and a number that fits into 32 bits."""

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

_REFERENCE = re.compile(rf"(?:.*/)?[A-Z][A-Za-z]*/({RESOURCE_ID_PATTERN})(?:/_history/{RESOURCE_ID_PATTERN})?")
_FIRST_STEP = re.compile(r"\w+")

_NANOSECONDS = 86_400_000_000_000
_SHORT = 31
"""Days. An interval that is not longer has the key of its first day; a longer one has one of its last day too."""
_SLACK = 3
"""Days. A day is taken as written, and may be the one before or after it in UTC."""
_LEAST, _MOST = 0, 1 << 22
"""Before and after every day, which count from 1 for the first of the year 1."""
_ENDS = 1 << 23
"""What is added to the last day of a long interval, so that its key is none of a first day."""

_Numbers = Callable[[Any], Iterable[int]]
_Place = tuple[str, Walk, _Numbers]


def indexed(type_: str) -> tuple[str, ...]:
    """The names of the indexed parameters of a resource type, in any release."""
    return (*INDEXED.get(type_, ()), *_EVERY)


class ParameterIndex:
    """The index of one release.

    Args:
        version: The release that the resources are written in.
    """

    def __init__(self, version: FhirVersion) -> None:
        self.version = version
        self._definitions = definitions(version)
        self._places: dict[str, Mapping[str, Sequence[_Place]]] = {}

    def keys(self, resource: Mapping[str, Any]) -> tuple[Key, ...]:
        """The keys of a parsed resource, each once; none for a type that the release does not have."""
        type_ = resource.get("resourceType", "")
        places = self._places.get(type_)
        if places is None:
            if type_ not in self._definitions.resource_types:
                return ()
            places = self._places[type_] = self._places_of(type_)
        found: dict[Key, None] = {}
        for first in places.keys() & resource.keys():
            for name, walk, numbers in places[first]:
                for node in walk(resource):
                    for number in numbers(node):
                        found[name, number] = None
        return tuple(found)

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

    def _places_of(self, type_: str) -> Mapping[str, Sequence[_Place]]:
        """Where the values of a type stand, by the first step of the path, so that paths that a resource lacks cost nothing."""
        found: dict[str, list[_Place]] = {}
        for parameter in self._definitions.parameters(type_).values():
            for path in parameter.paths if _has(type_, parameter) else ():
                first = _FIRST_STEP.match(path.path)
                if first is not None:
                    found.setdefault(first[0], []).append((parameter.name, compile_path(path.path), _NUMBERS[path.type]))
        return found


def _has(type_: str, parameter: SearchParameter) -> bool:
    """Whether the index has a parameter: listed, and with values only of data types that it can read."""
    paths: Sequence[TypedPath] = parameter.paths
    return parameter.name in indexed(type_) and bool(paths) and all(path.type in _NUMBERS for path in paths)


def _ranges(modifier: str | None, value: Value, parameter: SearchParameter) -> Sequence[tuple[int, int]] | None:
    match value:
        case TokenValue(code=str(code)) if modifier is None:
            return _exactly(code)
        case TypedIdentifierValue():
            return _exactly(value.value)
        case ReferenceValue(url=str(url)):
            whole = {"canonical": _numbers_of_text, "Reference": _numbers_of_literal}
            return [(number, number) for path in parameter.paths for number in whole[path.type](url)]
        case ReferenceValue(id=str(id_)):
            return _exactly(id_)
        case DateValue():
            return _days(value)
        case _:
            return None


def _exactly(text: str) -> Sequence[tuple[int, int]]:
    return [(number, number) for number in _numbers_of_text(text)]


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


# --- The numbers of an element


def _numbers_of_text(text: Any) -> Iterable[int]:
    if not isinstance(text, str):
        return ()
    try:
        return (crc32(text.encode()) - (1 << 31),)
    except UnicodeEncodeError:  # a parser's mark of a number; no criterion means it
        return ()


def _numbers_of_coding(node: Any) -> Iterable[int]:
    return _numbers_of_text(node.get("code")) if isinstance(node, Mapping) else ()


def _numbers_of_concept(node: Any) -> Iterable[int]:
    return [number for coding in members(node, "coding") for number in _numbers_of_coding(coding)]


def _numbers_of_identifier(node: Any) -> Iterable[int]:
    return [number for text in members(node, "value") for number in _numbers_of_text(text)]


def _numbers_of_reference(node: Any) -> Iterable[int]:
    text = node.get("reference") if isinstance(node, Mapping) else None
    return _numbers_of_literal(text) if isinstance(text, str) else ()


def _numbers_of_literal(text: str) -> Iterable[int]:
    """By the id alone, whatever the server's base URLs; by the whole text of what has no id, such as a `urn:`."""
    found = _REFERENCE.fullmatch(text)
    return _numbers_of_text(text if found is None else found[1])


def _numbers_of_canonical(node: Any) -> Iterable[int]:
    """With its version and without."""
    if not isinstance(node, str):
        return ()
    return [number for text in {node, node.partition("|")[0]} for number in _numbers_of_text(text)]


def _numbers_of_date(node: Any) -> Iterable[int]:
    days = _day(node)
    return () if days is None else _numbers_of_days(*days)


def _numbers_of_period(node: Any) -> Iterable[int]:
    if not isinstance(node, Mapping):
        return ()
    start, end = node.get("start"), node.get("end")
    first = (_LEAST, _LEAST) if start is None else _day(start)
    last = (_MOST, _MOST) if end is None else _day(end)
    return () if first is None or last is None else _numbers_of_days(first[0], last[1])


def _numbers_of_timing(node: Any) -> Iterable[int]:
    span = element_span(node, "Timing")
    if span is None:
        return ()
    days = _of_span(Span(max(span.low, _LEAST), min(span.high, _MOST * _NANOSECONDS)))
    return _numbers_of_days(*days)


def _numbers_of_days(first: int, last: int) -> Iterator[int]:
    yield first
    if last < first:  # nonsense, which may be found by either
        yield last
    elif last - first > _SHORT:
        yield _ENDS + last


def _day(text: Any) -> tuple[int, int] | None:
    """The first and the last day of a date of any precision, as written; None if it is none."""
    if not isinstance(text, str):
        return None
    if len(text) < len("2000-01-01"):
        span = read_span(text)
        return None if span is None else _of_span(span)
    try:
        day = date.fromisoformat(text[:10]).toordinal()
    except ValueError:
        return None
    return day, day


def _of_span(span: Span) -> tuple[int, int]:
    return int(span.low // _NANOSECONDS), int(span.high // _NANOSECONDS)


_NUMBERS: Mapping[str, _Numbers] = {
    "CodeableConcept": _numbers_of_concept,
    "Coding": _numbers_of_coding,
    "Identifier": _numbers_of_identifier,
    "code": _numbers_of_text,
    "Reference": _numbers_of_reference,
    "canonical": _numbers_of_canonical,
    "date": _numbers_of_date,
    "dateTime": _numbers_of_date,
    "instant": _numbers_of_date,
    "Period": _numbers_of_period,
    "Timing": _numbers_of_timing,
}
"""By the data type of an element."""
