"""Decodes the parameters of a kick-off, from a query string or a Parameters resource (sections 1.1 and 1.2)."""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from fhir_bulk_middleware.caps import PARAMETERS, check_body
from fhir_bulk_middleware.fhir.percent import check_encoded
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Parameter", "from_body", "from_query"]

_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as it was sent.

    Attributes:
        name: its name.
        value: its value as text.
        part: its place in the request, for error messages.
    """

    name: str
    value: str
    part: str


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class _Parameters(BaseModel):
    resourceType: Literal["Parameters"]  # noqa: N815 - FHIR's own name
    parameter: list[_Entry] = []


def from_query(query: bytes) -> list[Parameter]:
    """The parameters of a query string, decoded once (TF-10).

    Raises:
        Refused: `VALUE_MALFORMED`, if the query is not percent-encoded UTF-8; `TOO_MUCH`, if it has too many parameters.
    """
    if query.count(b"&") >= PARAMETERS:
        raise _too_many("http.query")
    try:
        text = query.decode("ascii")
        check_encoded(text)
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refused(
            Reason.VALUE_MALFORMED,
            "The query string must be percent-encoded UTF-8.",
            part="http.query",
        ) from None
    return [Parameter(name, value, f"http.{name[:_LONGEST_NAME]}") for name, value in pairs]


def from_body(body: bytes) -> list[Parameter]:
    """The parameters of a Parameters resource (KO-06). An empty body has none (KO-08).

    Raises:
        Refused: `BODY_MALFORMED`, if the body is not a Parameters resource in JSON; `VALUE_MALFORMED`, if a parameter does not
            have exactly one value with a text form; `TOO_MUCH`, if there are too many parameters, or parts.
    """
    if not body:
        return []
    check_body(body)
    try:
        parsed = from_json(body)
    except ValueError as error:
        detail = f"The body must be a FHIR Parameters resource in JSON: {error}."
        raise Refused(Reason.BODY_MALFORMED, detail, part="Parameters") from None
    entries = parsed.get("parameter") if isinstance(parsed, dict) else None
    if isinstance(entries, list) and len(entries) > PARAMETERS:  # before any of them is validated
        raise _too_many("Parameters.parameter")
    try:
        resource = _Parameters.model_validate(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        raise Refused(
            Reason.BODY_MALFORMED,
            f"The body must be a FHIR Parameters resource in JSON: {first['msg']}.",
            part=f"Parameters{where}",
        ) from None
    return [_from_entry(entry, f"Parameters.parameter[{number}]") for number, entry in enumerate(resource.parameter)]


def _too_many(part: str) -> Refused:
    detail = f"There may be {PARAMETERS:,} parameters; ask for a group instead of so many patients, or split the export."
    return Refused(Reason.TOO_MUCH, detail, part=part)


def _from_entry(entry: _Entry, part: str) -> Parameter:
    values = {key: value for key, value in (entry.model_extra or {}).items() if key.startswith("value")}
    if len(values) != 1 or {"part", "resource"} & (entry.model_extra or {}).keys():
        detail = f"The parameter {entry.name[:_LONGEST_NAME]} must have exactly one value[x]."
        raise Refused(Reason.VALUE_MALFORMED, detail, part=part)
    key, value = values.popitem()
    text = _text(value)
    if text is None:
        detail = f"The {key[:_LONGEST_NAME]} of the parameter {entry.name[:_LONGEST_NAME]} has no text form."
        raise Refused(Reason.VALUE_MALFORMED, detail, part=part)
    return Parameter(entry.name, text, part)


def _text(value: Any) -> str | None:
    """The text of a primitive, the `reference` of a Reference, the `code` of a Coding; None for other values."""
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
