"""The parameters of a kick-off, from a query string or a Parameters resource, as typed values (section 1 of the requirements).

Nothing is ignored: a parameter that is unknown, unsupported, repeated or malformed refuses the kick-off and is named.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Asked", "Parameter", "asked", "from_body", "from_query"]

_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})  # KO-70
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}", re.ASCII)
_UNSUPPORTED = frozenset(
    {
        "_until",
        "_elements",
        "_typeFilter",
        "patient",
        "includeAssociatedData",
        "organizeOutputBy",
        "allowPartialManifests",
        "_minimumFileSize",
        "_maximumFileSize",
    }
)
_MOST = 1_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as it was sent.

    Attributes:
        name: its name.
        value: its value as text.
        part: where it stood, for error messages.
    """

    name: str
    value: str
    part: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a kick-off asks for.

    Attributes:
        types: `_type`, without repeats, as sent; None if there was none, which asks for all.
        since: `_since`.
    """

    types: tuple[str, ...] | None
    since: Instant | None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class _Parameters(BaseModel):
    resourceType: Literal["Parameters"]  # noqa: N815 - FHIR's own name
    parameter: list[_Entry] = []


def from_query(query: bytes) -> list[Parameter]:
    """The parameters of a query string, decoded once (TF-10).

    Raises:
        Refused: `VALUE_MALFORMED`, if it is not UTF-8 or has too many parameters.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST)
    except ValueError:
        raise Refused(
            Reason.VALUE_MALFORMED,
            f"The query string must be percent-encoded UTF-8 with at most {_MOST} parameters.",
            part="http.query",
        ) from None
    return [Parameter(name, value, f"http.{name}") for name, value in pairs]


def from_body(body: bytes) -> list[Parameter]:
    """The parameters of a Parameters resource (KO-06). An empty body has none (KO-08).

    Raises:
        Refused: `BODY_MALFORMED`, if it is not JSON or not a Parameters resource; `VALUE_MALFORMED`, if a parameter has not
            exactly one value that can be text.
    """
    if not body:
        return []
    try:
        resource = _Parameters.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        raise Refused(
            Reason.BODY_MALFORMED,
            f"The body must be a FHIR Parameters resource in JSON: {first['msg']}.",
            part=f"Parameters{where}",
        ) from None
    if len(resource.parameter) > _MOST:
        raise Refused(Reason.BODY_MALFORMED, f"At most {_MOST} parameters are read.", part="Parameters.parameter")
    return [_from_entry(entry, f"Parameters.parameter[{number}]") for number, entry in enumerate(resource.parameter)]


def _from_entry(entry: _Entry, part: str) -> Parameter:
    values = {key: value for key, value in (entry.model_extra or {}).items() if key.startswith("value")}
    if len(values) != 1 or {"part", "resource"} & (entry.model_extra or {}).keys():
        raise Refused(Reason.VALUE_MALFORMED, f"The parameter {entry.name} must have exactly one value[x].", part=part)
    key, value = values.popitem()
    text = _text(value)
    if text is None:
        raise Refused(Reason.VALUE_MALFORMED, f"The {key} of the parameter {entry.name} has no text form.", part=f"{part}.{key}")
    return Parameter(entry.name, text, f"{part}.{key}")


def _text(value: Any) -> str | None:
    """A primitive as its text, a Reference as what it refers to, a Coding as its code."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value
        case int():
            return str(value)
        case {"reference": str(reference)}:
            return reference
        case {"code": str(code)}:
            return code
    return None


def asked(parameters: Iterable[Parameter]) -> Asked:
    """What the parameters of a kick-off mean.

    Raises:
        Refused: the first parameter that is unknown, unsupported, repeated or malformed.
    """
    given: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        given.setdefault(parameter.name, []).append(parameter)
    for name, several in given.items():
        if name in _UNSUPPORTED:
            raise Refused(Reason.PARAMETER_UNSUPPORTED, f"This server does not support {name}.", part=several[0].part)
        if name not in {"_outputFormat", "_since", "_type"}:
            raise Refused(
                Reason.PARAMETER_UNKNOWN,
                "Bulk Data export has no such parameter; known here are _outputFormat, _since and _type.",
                part=several[0].part,
            )
    _check_format(_only(given.get("_outputFormat", ())))
    return Asked(types=_types(given.get("_type", ())), since=_instant(_only(given.get("_since", ()))))


def _only(several: Sequence[Parameter]) -> Parameter | None:
    """A parameter that may be given once (KO-63)."""
    if len(several) > 1:
        raise Refused(Reason.PARAMETER_REPEATED, f"{several[1].name} may be given once only.", part=several[1].part)
    return several[0] if several else None


def _check_format(parameter: Parameter | None) -> None:
    # A blank is a "+" that was not percent-encoded (KO-64).
    if parameter is not None and parameter.value.replace(" ", "+").lower() not in _FORMATS:
        raise Refused(
            Reason.FORMAT_UNSUPPORTED,
            "The output format must be application/fhir+ndjson (or application/ndjson, or ndjson).",
            part=parameter.part,
        )


def _types(parameters: Sequence[Parameter]) -> tuple[str, ...] | None:
    """The union of all values, each of which may be a comma list (KO-60)."""
    if not parameters:
        return None
    types: dict[str, None] = {}
    for parameter in parameters:
        for name in parameter.value.split(","):
            if _TYPE.fullmatch(name) is None:
                raise Refused(
                    Reason.VALUE_MALFORMED,
                    "_type must be a comma list of resource types, such as Patient,Observation.",
                    part=parameter.part,
                )
            types[name] = None
    return tuple(types)


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
