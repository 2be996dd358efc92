"""Reads the parameters of a kick-off (sections 1.4 to 1.6 of the requirements).

No parameter is ignored silently. An unknown or unsupported one refuses the kick-off or, with `handling=lenient`, is set aside and
reported with the result. A malformed or repeated one always refuses it (law 21).
"""

import re
from collections.abc import Iterable, Sequence

from fhir_bulk_middleware import caps, instant
from fhir_bulk_middleware.contract.job import Associated
from fhir_bulk_middleware.dialects.model import Lists
from fhir_bulk_middleware.export.kick_off import KickOffParameters, TypeQuery
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.files.format import FORMAT_NAMES
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["SHAPES", "ParametersReader"]

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}", re.ASCII)
_ELEMENT = re.compile(r"(?:[A-Z][A-Za-z]{1,63}\.)?[a-z][A-Za-z0-9]{0,63}(?:\[x\])?", re.ASCII)
_NEXT_QUERY = re.compile(r", *(?=[A-Z][A-Za-z]{1,63}\?)", re.ASCII)
_POSITIVE = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_ORGANISABLE = frozenset({"Patient"})  # law 22

SHAPES = {"_type": _TYPE, "_elements": _ELEMENT}
"""The syntax of one value of a parameter, for the OpenAPI document."""


class ParametersReader:
    """Reads parameters by the rules of one version of the standard.

    Args:
        known: the parameters that this version defines.
        lists: how a client gives several values of one parameter.
        base_urls: absolute references to patients are accepted below these.
    """

    def __init__(self, known: frozenset[str], lists: Lists, base_urls: Sequence[str] = ()) -> None:
        self._known = known
        self._lists = lists
        self._base_urls = tuple(base_urls)

    def read(self, parameters: Iterable[Parameter], leniency: Leniency) -> KickOffParameters:
        """Parse the parameters.

        Raises:
            Refused: for the first that is repeated, malformed, or (unless lenient) unknown or unsupported.
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
        """All values of a repeated parameter; each may be a comma list where the version allows that (KO-60, KO-61)."""
        if self._lists is Lists.REPETITION:
            return [(parameter.value, parameter) for parameter in parameters]
        return [(value, parameter) for parameter in parameters for value in parameter.value.split(",")]

    def _matching(self, parameters: Sequence[Parameter], shape: re.Pattern[str], example: str) -> tuple[str, ...]:
        """The values in their order, without repeats. Refuses one that does not match `shape`."""
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
        """The queries of all values; a comma before `Type?` separates two queries, as real clients send it (law 39, KO-62)."""
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
    """The one occurrence of a parameter that must not be repeated (KO-63)."""
    if len(several) > 1:
        raise Refused(Reason.PARAMETER_REPEATED, f"{several[1].name} may be given once only.", part=several[1].part)
    return several[0] if several else None


def _check_format(parameter: Parameter | None) -> None:
    # A blank stands for a "+" that the client did not percent-encode (KO-64).
    if parameter is not None and parameter.value.replace(" ", "+").lower() not in FORMAT_NAMES:
        raise Refused(
            Reason.FORMAT_UNSUPPORTED,
            f"The output format must be {FORMAT_NAMES[0]} (or {', or '.join(FORMAT_NAMES[1:])}).",
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
