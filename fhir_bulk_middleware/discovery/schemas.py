"""JSON schemas of what goes over the wire, for the OpenAPI document."""

from collections.abc import Container, Iterable
from typing import Any

from fhir_bulk_middleware.dialects.model import Dialect, ManifestShape, TextElement
from fhir_bulk_middleware.discovery.parameters import ExportParameter

__all__ = ["VALUES", "manifest", "operation_outcome", "parameters", "reference"]

_URL: dict[str, Any] = {"type": "string", "format": "uri"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
VALUES: dict[str, dict[str, Any]] = {
    "string": {"type": "string", "minLength": 1},
    "instant": {"type": "string", "format": "date-time"},
    "boolean": {"type": "boolean"},
    "positiveInt": {"type": "integer", "minimum": 1},
    "Reference": {"type": "object", "required": ["reference"], "properties": {"reference": {"type": "string"}}},
    "Coding": {"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}},
}
"""FHIR types as they stand in JSON; `code` is as `string`."""


def reference(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def operation_outcome(dialect: Dialect) -> dict[str, Any]:
    """The body of every refusal."""
    texts: dict[str, Any] = {}
    if dialect.text is not TextElement.DIAGNOSTICS:
        texts["details"] = _object({"text": {"type": "string"}})
    if dialect.text is not TextElement.DETAILS:
        texts["diagnostics"] = {"type": "string"}
    severities = {answer.severity for answer in (*dialect.answers.values(), *dialect.exceptions.values())}
    if dialect.cancelled_answer is not None:
        severities.add(dialect.cancelled_answer.severity)
    issue = _object(
        {"severity": {"enum": sorted(severities)}, "code": {"type": "string"}, **texts},
        {"expression": {"type": "array", "items": {"type": "string"}}},
    )
    return _object(
        {"resourceType": {"const": "OperationOutcome"}, "issue": {"type": "array", "minItems": 1, "items": issue}},
        {"id": {"type": "string"}},
    )


def manifest(dialect: Dialect) -> dict[str, Any]:
    """The body of a poll that carries files (section 2.4)."""
    shape, organises = dialect.manifest, "organizeOutputBy" in dialect.parameters
    extension = {"type": "array", "minItems": 1} if shape.extension_array else {"type": "object"}
    item = _item(shape, extension, typed=not organises)
    reports = {"type": "array", "items": _item(shape, extension, typed=shape.typed_items, severity=shape.file_size)}
    required: dict[str, Any] = {
        "transactionTime": {"type": "string", "format": "date-time"},
        "requiresAccessToken": {"type": "boolean"},
        "output": {"type": "array", "items": item},
        shape.errors: reports,
    }
    if shape.request:
        required["request"] = _URL
    if shape.manifest_type:
        required |= {"manifestType": _URL, "outputFormat": {"const": "application/fhir+ndjson"}}
    link = _object({"relation": {"const": "next"}, "url": _URL})
    optional: dict[str, Any] = {"link": {"type": "array", "maxItems": 1, "items": link}, "extension": extension}
    if shape.deleted:
        optional["deleted"] = reports
    if shape.empty_message is not None:
        optional["message"] = {"type": "string"}
    if not organises:
        return _object(required, optional)
    item["properties"] |= {"type": {"type": "string"}, "continuesInFile": _URL}
    optional["outputOrganizedBy"] = {"const": "Patient"}
    # Files of whole patients have no type, all others have one (MF-05).
    typed = {"properties": {"output": {"items": {"required": ["type"]}}}}
    return {**_object(required, optional), "if": {"required": ["outputOrganizedBy"]}, "then": {}, "else": typed}


def parameters(taken: Iterable[ExportParameter], codings: Container[str]) -> dict[str, Any]:
    """The body of a kick-off: a FHIR Parameters resource.

    Args:
        taken: the parameters that may be in it.
        codings: names of those whose value is a Coding.
    """
    entries = []
    for parameter in taken:
        type_ = "Coding" if parameter.name in codings else parameter.type
        value = f"value{type_[0].upper()}{type_[1:]}"
        entries.append(_object({"name": {"const": parameter.name}, value: VALUES.get(type_, VALUES["string"])}))
    return {
        "type": "object",
        "required": ["resourceType"],
        "properties": {
            "resourceType": {"const": "Parameters"},
            "parameter": {"type": "array", "items": {"oneOf": entries}},
        },
    }


def _item(shape: ManifestShape, extension: dict[str, Any], *, typed: bool, severity: bool = False) -> dict[str, Any]:
    required: dict[str, Any] = {"url": _URL, "count": _COUNT, "extension": extension}
    optional: dict[str, Any] = {}
    if typed:
        required["type"] = {"type": "string"}
    if shape.file_size:
        required["fileSize"] = _COUNT
    if severity:
        counted = _object({"code": {"type": "string"}, "count": _COUNT})
        optional["countSeverity"] = {"type": "array", "minItems": 1, "items": counted}
    return _object(required, optional)


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these members and no others."""
    return {
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }
