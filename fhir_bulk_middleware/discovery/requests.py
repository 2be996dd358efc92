"""OpenAPI descriptions of requests: parameters, headers and bodies."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fhir_bulk_middleware.dialects.model import Lists, RequiredHeader
from fhir_bulk_middleware.discovery import schemas
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.openapi_parameters import ExportParameter
from fhir_bulk_middleware.http.routes import ONE_PATIENT_PATH, Row, level_of
from fhir_bulk_middleware.identifiers import FILE_ID_PATTERN, JOB_ID_PATTERN, RESOURCE_ID_PATTERN
from fhir_bulk_middleware.jobs.list_request import COUNT, CURSOR
from fhir_bulk_middleware.outcomes import Operation

__all__ = ["body", "parameters"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}", re.ASCII)
_PLACES = {
    "job": f"^{JOB_ID_PATTERN}$",
    "file": f"^{FILE_ID_PATTERN}$",
    "page": "^[1-9][0-9]{0,5}$",
    "group": f"^{RESOURCE_ID_PATTERN}$",
}
_ANY_ID = f"^{RESOURCE_ID_PATTERN}$"


def parameters(offer: Offer, row: Row) -> list[dict[str, Any]]:
    """Path parameters, query parameters and headers of a row."""
    return [*_places(row), *_query(offer, row), *_headers(offer, row)]


def body(offer: Offer, row: Row) -> dict[str, Any] | None:
    """The optional body of a kick-off by POST; None for other rows (KO-08)."""
    if level_of(row.path) is None or row.method != "POST":
        return None
    schema = schemas.parameters(_taken(offer, row), offer.dialect)
    example = {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Patient"}]}
    content = {"application/fhir+json": {"schema": schema, "example": example}}
    return {"required": False, "content": content}


def _taken(offer: Offer, row: Row) -> Iterator[ExportParameter]:
    """The parameters of a kick-off row; none for other rows. Where the path names the patient, there is no `patient`."""
    level = level_of(row.path)
    for parameter in () if level is None else offer.parameters(level, [row.method]):
        if parameter.name != "patient" or row.path != ONE_PATIENT_PATH:
            yield parameter


def _places(row: Row) -> Iterator[dict[str, Any]]:
    split = urlsplit(row.path)
    for name in _PLACEHOLDER.findall(split.path):
        schema = schemas.reference("ResourceType") if name == "type" else _id(name)
        yield _parameter("path", name, schema, required=True)
    for name, value in parse_qsl(split.query):
        if match := _PLACEHOLDER.fullmatch(value):
            yield _parameter("query", name, _id(match[1]), required=True)


def _id(placeholder: str) -> dict[str, Any]:
    return {"type": "string", "pattern": _PLACES.get(placeholder, _ANY_ID)}


def _query(offer: Offer, row: Row) -> Iterator[dict[str, Any]]:
    if row.method == "GET":
        for parameter in _taken(offer, row):
            if parameter.name not in offer.dialect.post_only:
                schema = _schema(parameter, offer.dialect.lists)
                yield _parameter("query", parameter.name, schema, description=parameter.meaning) | _example(parameter)
    if row.operation is Operation.JOBS:
        yield _parameter("query", COUNT, {"type": "integer", "minimum": 1, "maximum": 999_999_999}) | {"example": 50}
        cursor = _parameter("query", CURSOR, {"type": "string"}, description="From a `next` link.")
        yield cursor
    if row.operation in {Operation.DELETE, Operation.CONDITIONAL_DELETE} and offer.deletes is not None:
        for name in filter(None, (offer.deletes.no_content_parameter, offer.deletes.dry_run_parameter)):
            yield _parameter("query", name, {"type": "boolean"})


def _schema(parameter: ExportParameter, lists: Lists) -> dict[str, Any]:
    schema = schemas.value(parameter, lists)
    return {"type": "array", "items": schema} if parameter.many else schema


def _example(parameter: ExportParameter) -> dict[str, Any]:
    """The serialisation of several values, and an example."""
    if parameter.many:
        return {"style": "form", "explode": True, "example": [parameter.example]}
    example: Any = parameter.example
    match parameter.type:
        case "boolean":
            example = example == "true"
        case "positiveInt":
            example = int(example)
    return {"example": example}


def _headers(offer: Offer, row: Row) -> Iterator[dict[str, Any]]:
    dialect = offer.dialect
    match row.operation:
        case Operation.KICK_OFF:
            yield _prefer(required=RequiredHeader.PREFER in dialect.required_headers)
            key = {"type": "string", "minLength": 1, "maxLength": 255}
            yield _parameter("header", "Idempotency-Key", key)
        case Operation.DELETE | Operation.CONDITIONAL_DELETE:
            yield _parameter("header", "If-Match", {"type": "string"}) | {"example": 'W/"3"'}
            yield _parameter("header", "Prefer", {"type": "string"}) | {"example": "return=minimal"}
            if row.operation is Operation.CONDITIONAL_DELETE and offer.deletes and offer.deletes.remove_all_header:
                name, value = offer.deletes.remove_all_header
                yield _parameter("header", name, {"type": "string", "enum": [value]})
        case Operation.STATUS | Operation.JOBS | Operation.CANCEL if RequiredHeader.PREFER in dialect.status_requires:
            yield _prefer(required=True)
        case Operation.STATUS:
            yield _parameter("header", "Prefer", {"type": "string"}) | {"example": "wait=20"}
        case Operation.FILE:
            for name in ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since"):
                yield _parameter("header", name, {"type": "string"})


def _prefer(*, required: bool) -> dict[str, Any]:
    """The `Prefer` header. Where it is optional, unknown preferences are ignored, so it has no pattern (KO-48)."""
    shape = {"pattern": "(^|, *)respond-async($|[,;])"} if required else {}
    parameter = _parameter("header", "Prefer", {"type": "string", **shape}, required=required)
    return parameter | {"example": "respond-async, handling=lenient"}


def _parameter(
    place: str, name: str, schema: Mapping[str, Any], *, required: bool = False, description: str = ""
) -> dict[str, Any]:
    described = {"description": description} if description else {}
    return {"in": place, "name": name, "required": required, **described, "schema": schema}
