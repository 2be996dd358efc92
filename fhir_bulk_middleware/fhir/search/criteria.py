"""Search criteria on one resource type, from `_typeFilter`, a granular scope or a conditional delete.

A criterion that cannot be applied exactly raises a `CriteriaError`. It is never dropped, because that would export, show or
delete more than the client requested (TF-06, TF-07, TF-09; law 8).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fhir_bulk_middleware.caps import CRITERIA_CHARACTERS, CRITERIA_VALUES
from fhir_bulk_middleware.fhir.definitions import Definitions, SearchParameter, definitions
from fhir_bulk_middleware.fhir.percent import decoded
from fhir_bulk_middleware.fhir.search.escaping import split
from fhir_bulk_middleware.fhir.search.reading import BadValueError, leads_to, read_value
from fhir_bulk_middleware.fhir.search.values import Value
from fhir_bulk_middleware.fhir.version import FhirVersion

_MODIFIERS: Mapping[str, frozenset[str]] = {
    "token": frozenset({"missing", "not", "text", "of-type"}),
    "string": frozenset({"missing", "exact", "contains"}),
    "reference": frozenset({"missing", "identifier"}),
    "uri": frozenset({"missing", "above", "below"}),
    "date": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "composite": frozenset(),
}
_NEEDED_TYPES: Mapping[str, frozenset[str]] = {
    "text": frozenset({"CodeableConcept", "Coding", "Identifier"}),
    "of-type": frozenset({"Identifier"}),
    "identifier": frozenset({"Reference"}),
    "above": frozenset({"uri", "url"}),
    "below": frozenset({"uri", "url"}),
}
_RESULT = frozenset(
    {"_sort", "_count", "_include", "_revinclude", "_elements", "_summary", "_total", "_contained", "_containedType"}
    | {"_format", "_pretty", "_maxresults", "_score", "_graph"}
)
_ADVANCED = frozenset({"_has", "_filter", "_query", "_text", "_content", "_list", "_in", "_type"})
_LONGEST_NAME = 80


class CriteriaError(ValueError):
    """Criteria that cannot be applied exactly.

    The message names the parameter and the problem; it never repeats a value, which may identify a patient.

    Attributes:
        part: The parameter as written, with its modifier, or another part of the query; cut to 80 characters.
        malformed: Whether the query is invalid FHIR, as opposed to valid but not supported.
        excessive: Whether the query exceeds a cap (law 38).
    """

    def __init__(self, part: str, problem: str, *, malformed: bool = False, excessive: bool = False) -> None:
        self.part = part[:_LONGEST_NAME]
        self.malformed = malformed
        self.excessive = excessive
        super().__init__(f"{self.part}: {problem}")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of a query; one of its values must match.

    Attributes:
        name: The search parameter.
        modifier: The text after the colon (`not`, `exact`, a resource type), or None.
        values: The alternative values; empty for `:missing`.
        missing: For `:missing`, whether the element must be missing; else None.
    """

    name: str
    modifier: str | None
    values: tuple[Value, ...]
    missing: bool | None = None


@dataclass(frozen=True, slots=True)
class Criteria:
    """A query on one resource type. All of its criteria must match; there is at least one.

    Attributes:
        version: The FHIR release of the search parameters.
        type: The resource type.
        parameters: Decoded names and values as written; `to_json` keeps these.
        criteria: The parsed parameters.
    """

    version: FhirVersion
    type: str
    parameters: tuple[tuple[str, str], ...]
    criteria: tuple[Criterion, ...]

    @classmethod
    def of(cls, version: FhirVersion, type_: str, parameters: Iterable[tuple[str, str]]) -> Self:
        """Make criteria from decoded names and values, as frameworks parse a query string.

        Raises:
            CriteriaError: If the type is unknown, there are no parameters, or one cannot be applied exactly.
        """
        known = definitions(version)
        if type_ not in known.resource_types:
            raise CriteriaError(type_, f"is not a resource type of FHIR {version}")
        pairs = tuple((name, value) for name, value in parameters)
        if not pairs:
            raise CriteriaError(type_, "there are no criteria; an empty query would mean everything")
        _check_size(type_, pairs)
        found = cls(version, type_, pairs, tuple(_criterion(known, type_, name, value) for name, value in pairs))
        if found.size > CRITERIA_VALUES:
            raise CriteriaError(type_, f"there are more than {CRITERIA_VALUES:,} search values; ask for fewer", excessive=True)
        return found

    @property
    def size(self) -> int:
        """The number of search values; a criterion without values counts as one."""
        return sum(max(len(criterion.values), 1) for criterion in self.criteria)

    @classmethod
    def parse(cls, version: FhirVersion, type_: str, query: str) -> Self:
        """Parse a query as written in a URL: split it first, then decode each name and value (TF-10, law 39).

        An encoded comma separates search values, as a plain one does; an encoded ampersand is part of its value.

        Raises:
            CriteriaError: As `of`; and for a part without a name or an equals sign, or whose percent-encoding is broken.
        """
        pairs = []
        for part in query.split("&"):
            name, equals, value = part.partition("=")
            if not equals or not name:
                raise CriteriaError(name or type_, "every part of a query must be name=value", malformed=True)
            try:
                pairs.append((decoded(name), decoded(value)))
            except ValueError as error:
                raise CriteriaError(name, f"has {error}", malformed=True) from None
        return cls.of(version, type_, pairs)

    def to_json(self) -> dict[str, Any]:
        """The criteria as JSON, for storing them with a job."""
        return {"fhirVersion": str(self.version), "type": self.type, "parameters": [list(p) for p in self.parameters]}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read and check what `to_json` returned.

        Raises:
            CriteriaError: If this version of the package cannot apply them.
        """
        return cls.of(FhirVersion(kept["fhirVersion"]), kept["type"], ((name, value) for name, value in kept["parameters"]))


def _check_size(type_: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse excessive criteria before parsing them."""
    if sum(len(name) + len(value) for name, value in pairs) > CRITERIA_CHARACTERS:
        raise CriteriaError(
            type_, f"there are more than {CRITERIA_CHARACTERS:,} characters of criteria; ask for less", excessive=True
        )
    separators = sum(value.count(",") - value.count("\\,") for _, value in pairs)
    if len(pairs) + separators > CRITERIA_VALUES:
        raise CriteriaError(type_, f"there are more than {CRITERIA_VALUES:,} search values; ask for fewer", excessive=True)


def _criterion(known: Definitions, type_: str, written: str, text: str) -> Criterion:
    name, _, modifier = written.partition(":")
    parameter = _parameter(known, type_, written, name)
    _check_modifier(known, parameter, written, modifier)
    if modifier == "missing":
        if text not in {"true", "false"}:
            raise CriteriaError(written, "must be true or false", malformed=True)
        return Criterion(name, modifier, (), missing=text == "true")
    if name == "_id" and any(part and not part.strip(".") for part in text.split(",")):
        raise CriteriaError(written, "an id does not consist of dots", malformed=True)  # law 42: none reaches a storage
    return Criterion(name, modifier or None, _values(parameter, written, modifier or None, text))


def _parameter(known: Definitions, type_: str, written: str, name: str) -> SearchParameter:
    if name in _RESULT:
        raise CriteriaError(written, "shapes a result; only criteria can stand here")
    if name in _ADVANCED:
        raise CriteriaError(written, "is not supported")
    if "." in written:
        raise CriteriaError(written, "chained parameters are not supported")
    parameter = known.parameters(type_).get(name)
    if parameter is None:
        raise CriteriaError(written, f"{type_} has no such search parameter in FHIR {known.version}")
    if parameter.unsupported:
        raise CriteriaError(written, f"cannot be applied exactly: {parameter.unsupported}")
    return parameter


def _check_modifier(known: Definitions, parameter: SearchParameter, written: str, modifier: str) -> None:
    if not modifier:
        if written.endswith(":"):
            raise CriteriaError(written, "there is no modifier after the colon", malformed=True)
        return
    if modifier == "missing" and parameter.holds:
        raise CriteriaError(written, "this parameter always has a value")
    if parameter.type == "reference" and modifier in known.resource_types:
        if not leads_to(parameter, modifier):
            raise CriteriaError(written, "this parameter never leads to that type")
        return
    if modifier not in _MODIFIERS[parameter.type]:
        raise CriteriaError(written, f"the modifier is not supported for a {parameter.type} parameter")
    needed = _NEEDED_TYPES.get(modifier)
    if needed is not None and not all(path.type in needed for path in parameter.paths):
        raise CriteriaError(written, "the modifier does not apply to what this parameter leads to")


def _values(parameter: SearchParameter, written: str, modifier: str | None, text: str) -> tuple[Value, ...]:
    try:
        parts = split(text, ",")
    except ValueError as error:
        raise CriteriaError(written, f"the value has {error}", malformed=True) from error
    if modifier == "not" and len(parts) > 1:
        raise CriteriaError(written, "FHIR leaves open what several values mean here; repeat the parameter instead")
    values = []
    for number, part in enumerate(parts, 1):
        try:
            values.append(read_value(parameter, modifier, part))
        except BadValueError as problem:
            raise CriteriaError(written, f"value {number} {problem}", malformed=True) from problem
    return tuple(values)
