"""What the parameters of a kick-off mean (sections 1.4 to 1.6 of the requirements).

Nothing is silently ignored. A parameter that is unknown or unsupported refuses the kick-off, or, where the client asked for
`handling=lenient`, is set aside and reported with the result; a malformed or repeated one is refused always (law 21).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fhir_bulk_middleware import caps, instant
from fhir_bulk_middleware.contract.job import Associated, Ignored
from fhir_bulk_middleware.dialects.model import Lists
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import LONGEST_DETAIL, LONGEST_PART, Reason, Refused

__all__ = ["FORMATS", "SHAPES", "KickOffParameters", "Leniency", "ParametersReader", "TypeQuery"]

FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
"""Values of `_outputFormat` (KO-70)."""

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}", re.ASCII)
_ELEMENT = re.compile(r"(?:[A-Z][A-Za-z]{1,63}\.)?[a-z][A-Za-z0-9]{0,63}(?:\[x\])?", re.ASCII)
_NEXT_QUERY = re.compile(r", *(?=[A-Z][A-Za-z]{1,63}\?)", re.ASCII)
_POSITIVE = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_LONGEST_NAME = 80
_ORGANISABLE = frozenset({"Patient"})  # law 22

SHAPES = {"_type": _TYPE, "_elements": _ELEMENT}
"""What one value of a parameter looks like, whatever the resource types there are."""


@dataclass(frozen=True, slots=True)
class TypeQuery:
    """One `_typeFilter` query, split at its question mark (TF-01, TF-07).

    Attributes:
        type: the resource type before it.
        query: what follows it, its names and values percent-encoded (law 39).
        part: where it stood.
    """

    type: str
    query: str
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KickOffParameters:
    """What a kick-off asks for.

    Attributes:
        types: `_type`, without repeats, as sent; None if there was none, which asks for all.
        since: `_since`.
        until: `_until`.
        elements: entries of `_elements`.
        filters: queries of `_typeFilter`.
        patients: `patient` as `Patient/id`; None if there was none.
        associated: the least restrictive of `includeAssociatedData` (KO-90).
        organised_by: `organizeOutputBy`.
        partial_manifests: `allowPartialManifests`.
        smallest_file: `_minimumFileSize` in bytes.
        largest_file: `_maximumFileSize` in bytes.
        places: where each parameter stood first, by its name.
    """

    types: tuple[str, ...] | None = None
    since: Instant | None = None
    until: Instant | None = None
    elements: tuple[str, ...] = ()
    filters: tuple[TypeQuery, ...] = ()
    patients: frozenset[str] | None = None
    associated: Associated | None = None
    organised_by: str | None = None
    partial_manifests: bool = False
    smallest_file: int | None = None
    largest_file: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """Where a parameter stood; of one that was not sent, where it would stand in a query string."""
        return self.places.get(name, f"http.{name}")


class Leniency:
    """What to do about a parameter that cannot be used: refuse, or set it aside for the report.

    There is one report for each parameter name, of its first value that could not be used, and it says how many more there were.

    Args:
        lenient: whether the client asked for the latter.
    """

    def __init__(self, *, lenient: bool) -> None:
        self._lenient = lenient
        self._ignored: dict[str, Ignored] = {}
        self._more: dict[str, int] = {}

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """What was set aside so far: a report for each parameter name."""
        return tuple(self._reported(name, item) for name, item in self._ignored.items())

    def unusable(self, reason: Reason, name: str, problem: str, part: str) -> None:
        """Refuse a parameter, or remember that it was ignored; both name it, for a place in a body alone does not (KO-102).

        Args:
            reason: in the domain's words.
            name: of the parameter.
            problem: why it cannot be used, a sentence.
            part: where it stood.

        Raises:
            Refused: if the client did not ask for leniency, or too many names could not be used (`TOO_MUCH`).
        """
        detail = f"{name[:_LONGEST_NAME]}: {problem}"
        if not self._lenient:
            raise Refused(reason, detail, part=part)
        if name in self._ignored:
            self._more[name] = self._more.get(name, 0) + 1
            return
        if len(self._ignored) >= caps.REPORTS:
            refusal = f"More than {caps.REPORTS} parameters cannot be used; leave out those that this server does not know."
            raise Refused(Reason.TOO_MUCH, refusal, part=part)
        self._ignored[name] = Ignored(reason, detail[:LONGEST_DETAIL], part[:LONGEST_PART])

    def _reported(self, name: str, item: Ignored) -> Ignored:
        more = self._more.get(name)
        detail = item.detail if more is None else f"{item.detail} {more} more of its values could not be used."
        return replace(item, detail=detail)


class ParametersReader:
    """Reads parameters by the rules of one version of the standard.

    Args:
        known: the parameters that it defines.
        lists: how several values of one parameter are given.
        base_urls: under which an absolute reference to a patient is one of ours.
    """

    def __init__(self, known: frozenset[str], lists: Lists, base_urls: Sequence[str] = ()) -> None:
        self._known = known
        self._lists = lists
        self._base_urls = tuple(base_urls)

    def read(self, parameters: Iterable[Parameter], leniency: Leniency) -> KickOffParameters:
        """What the parameters mean.

        Raises:
            Refused: the first that is repeated, malformed, or (unless lenient) unknown or unsupported.
        """
        given: dict[str, list[Parameter]] = {}
        for parameter in parameters:
            given.setdefault(parameter.name, []).append(parameter)
        for name, several in given.items():
            if name in {"_type", "_elements", "includeAssociatedData"}:
                caps.check_values(name, (parameter.value for parameter in several), several[0].part)
        for name in [name for name in given if name not in self._known]:
            self._unknown(given.pop(name)[0], leniency)
        _check_format(_only(given.get("_outputFormat", ())))
        since, until = _instant(_only(given.get("_since", ()))), _instant(_only(given.get("_until", ())))
        if since is not None and until is not None and until <= since:
            raise Refused(Reason.VALUE_MALFORMED, "_until must be later than _since.", part=given["_until"][0].part)
        smallest, largest = _size(_only(given.get("_minimumFileSize", ()))), _size(_only(given.get("_maximumFileSize", ())))
        if smallest is not None and largest is not None and largest <= smallest:
            detail = "_maximumFileSize must be greater than _minimumFileSize."
            raise Refused(Reason.VALUE_MALFORMED, detail, part=given["_maximumFileSize"][0].part)
        return KickOffParameters(
            types=self._types(given.get("_type", ())),
            since=since,
            until=until,
            elements=self._elements(given.get("_elements", ())),
            filters=self._filters(given.get("_typeFilter", ())),
            patients=self._patients(given.get("patient", ())),
            associated=self._associated(given.get("includeAssociatedData", ()), leniency),
            organised_by=_organised(_only(given.get("organizeOutputBy", ())), leniency),
            partial_manifests=_flag(_only(given.get("allowPartialManifests", ()))),
            smallest_file=smallest,
            largest_file=largest,
            places={name: several[0].part for name, several in given.items()},
        )

    def _unknown(self, parameter: Parameter, leniency: Leniency) -> None:
        known = ", ".join(sorted(self._known))
        problem = f"There is no such export parameter here; known are {known}."
        leniency.unusable(Reason.PARAMETER_UNKNOWN, parameter.name, problem, parameter.part)

    def _values(self, parameters: Sequence[Parameter]) -> list[tuple[str, Parameter]]:
        """The union of all values, each of which may be a comma list where the version has those (KO-60, KO-61)."""
        if self._lists is Lists.REPETITION:
            return [(parameter.value, parameter) for parameter in parameters]
        return [(value, parameter) for parameter in parameters for value in parameter.value.split(",")]

    def _matching(self, parameters: Sequence[Parameter], shape: re.Pattern[str], example: str) -> tuple[str, ...]:
        """Values of one shape, without repeats, in their order."""
        found: dict[str, None] = {}
        for value, parameter in self._values(parameters):
            if shape.fullmatch(value) is None:
                how = "repeated, one value each" if self._lists is Lists.REPETITION else "a comma list"
                detail = f"{parameter.name} must be {how}, such as {example}."
                raise Refused(Reason.VALUE_MALFORMED, detail, part=parameter.part)
            found[value] = None
        return tuple(found)

    def _types(self, parameters: Sequence[Parameter]) -> tuple[str, ...] | None:
        return self._matching(parameters, _TYPE, "Patient or Observation") if parameters else None

    def _elements(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        return self._matching(parameters, _ELEMENT, "id or Patient.name (root elements only)")

    def _filters(self, parameters: Sequence[Parameter]) -> tuple[TypeQuery, ...]:
        """The queries of all values; a comma that another query follows separates, as real clients send it (law 39, KO-62)."""
        if parameters:
            caps.check_type_filters((parameter.value for parameter in parameters), parameters[0].part)
        queries: list[TypeQuery] = []
        for parameter in parameters:
            texts = _NEXT_QUERY.split(parameter.value)
            if len(texts) > 1 and self._lists is Lists.REPETITION:
                detail = "_typeFilter must be repeated, one query each; a comma before a type and ? is written %2C."
                raise Refused(Reason.VALUE_MALFORMED, detail, part=parameter.part)
            for text in texts:
                type_, mark, query = text.partition("?")
                if not mark or not query or _TYPE.fullmatch(type_) is None:
                    detail = "_typeFilter must be a resource type and a query, such as Observation?status=final."
                    raise Refused(Reason.VALUE_MALFORMED, detail, part=parameter.part)
                queries.append(TypeQuery(type_, query, parameter.part))
        if len(queries) > caps.TYPE_FILTERS:
            detail = f"There may be {caps.TYPE_FILTERS} queries in _typeFilter; put several values in one, or split the export."
            raise Refused(Reason.TOO_MUCH, detail, part=parameters[0].part)
        return tuple(queries)

    def _patients(self, parameters: Sequence[Parameter]) -> frozenset[str] | None:
        if not parameters:
            return None
        references: set[str] = set()
        for parameter in parameters:
            value = parameter.value
            for base in self._base_urls:
                value = value.removeprefix(f"{base}/")
            type_, _, id_ = value.partition("/")
            if type_ != "Patient" or not is_resource_id(id_):
                raise Refused(Reason.VALUE_MALFORMED, "patient must be a reference such as Patient/123.", part=parameter.part)
            references.add(value)
        return frozenset(references)

    def _associated(self, parameters: Sequence[Parameter], leniency: Leniency) -> Associated | None:
        wanted: set[Associated] = set()
        for value, parameter in self._values(parameters):
            try:
                wanted.add(Associated(value))
            except ValueError:
                problem = f"Known here are {', '.join(Associated)}."
                leniency.unusable(Reason.PARAMETER_UNSUPPORTED, parameter.name, problem, parameter.part)
        if Associated.RELEVANT_PROVENANCE in wanted:
            return Associated.RELEVANT_PROVENANCE
        return Associated.LATEST_PROVENANCE if wanted else None


def _only(several: Sequence[Parameter]) -> Parameter | None:
    """A parameter that may be given once (KO-63)."""
    if len(several) > 1:
        raise Refused(Reason.PARAMETER_REPEATED, f"{several[1].name} may be given once only.", part=several[1].part)
    return several[0] if several else None


def _check_format(parameter: Parameter | None) -> None:
    # A blank is a "+" that was not percent-encoded (KO-64).
    if parameter is not None and parameter.value.replace(" ", "+").lower() not in FORMATS:
        raise Refused(
            Reason.FORMAT_UNSUPPORTED,
            "The output format must be application/fhir+ndjson (or application/ndjson, or ndjson).",
            part=parameter.part,
        )


def _instant(parameter: Parameter | None) -> Instant | None:
    if parameter is None:
        return None
    try:
        return instant.parse(parameter.value)
    except ValueError:
        raise Refused(
            Reason.VALUE_MALFORMED,
            f"{parameter.name} must be a FHIR instant with seconds and an offset, such as 2026-01-31T09:30:00Z.",
            part=parameter.part,
        ) from None


def _size(parameter: Parameter | None) -> int | None:
    if parameter is None:
        return None
    if _POSITIVE.fullmatch(parameter.value) is None:
        raise Refused(Reason.VALUE_MALFORMED, f"{parameter.name} must be a number of bytes, 1 or more.", part=parameter.part)
    return int(parameter.value)


def _flag(parameter: Parameter | None) -> bool:
    if parameter is None:
        return False
    if parameter.value not in {"true", "false"}:
        raise Refused(Reason.VALUE_MALFORMED, f"{parameter.name} must be true or false.", part=parameter.part)
    return parameter.value == "true"


def _organised(parameter: Parameter | None, leniency: Leniency) -> str | None:
    if parameter is None:
        return None
    if parameter.value not in _ORGANISABLE:
        leniency.unusable(Reason.PARAMETER_UNSUPPORTED, parameter.name, "Only Patient is known here.", parameter.part)
        return None
    return parameter.value
