"""The parameters of a kick-off as they were sent, in a query string or a Parameters resource (sections 1.1 and 1.2)."""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError

from fhir_bulk_middleware.fhir.percent import check_encoded
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Parameter", "from_body", "from_query"]

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


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class _Parameters(BaseModel):
    resourceType: Literal["Parameters"]  # noqa: N815 - FHIR's own name
    parameter: list[_Entry] = []


def from_query(query: bytes) -> list[Parameter]:
    """The parameters of a query string, decoded once (TF-10).

    Raises:
        Refused: `VALUE_MALFORMED`, if it is not percent-encoded UTF-8 or has too many parameters.
    """
    try:
        text = query.decode("ascii")
        check_encoded(text)
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST)
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
        raise Refused(Reason.VALUE_MALFORMED, f"The {key} of the parameter {entry.name} has no text form.", part=part)
    return Parameter(entry.name, text, part)


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
