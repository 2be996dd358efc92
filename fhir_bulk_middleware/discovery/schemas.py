"""JSON schemas of requests and responses for the OpenAPI document."""

import re
from collections.abc import Iterable
from typing import Any

from fhir_bulk_middleware.dialects.model import Dialect, Lists, ManifestShape
from fhir_bulk_middleware.discovery.openapi_parameters import ExportParameter
from fhir_bulk_middleware.export.parameter_reading import SHAPES
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.files.format import FORMAT_NAMES, MEDIA_TYPE

__all__ = ["HEALTH", "TASK_BUNDLE", "VALUES", "manifest", "operation_outcome", "parameters", "reference", "value"]

_URL: dict[str, Any] = {"type": "string", "format": "uri"}
_WORDS: dict[str, list[str]] = {"_outputFormat": sorted(FORMAT_NAMES)}  # not those that a lenient kick-off ignores (law 21)
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
VALUES: dict[str, dict[str, Any]] = {
    "string": {"type": "string", "minLength": 1},
    "instant": {"type": "string", "format": "date-time"},
    "boolean": {"type": "boolean"},
    "positiveInt": {"type": "integer", "minimum": 1},
    "Reference": {"type": "object", "required": ["reference"], "properties": {"reference": {"type": "string"}}},
    "Coding": {"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}},
}
"""JSON schemas of FHIR types; `code` is missing and treated as `string`."""

_CHECK: dict[str, Any] = {
    "type": "object",
    "required": ["status"],
    "additionalProperties": False,
    "properties": {
        "status": {"enum": ["pass", "warn", "fail"]},
        "observedValue": {"type": "number", "minimum": 0},
        "observedUnit": {"type": "string"},
        "output": {"type": "string"},
    },
}
HEALTH: dict[str, Any] = {
    "type": "object",
    "required": ["status", "checks"],
    "additionalProperties": False,
    "properties": {
        "status": {"enum": ["pass", "warn", "fail"]},
        "checks": {
            "type": "object",
            "required": ["engine:running", "jobs:reachable", "outputs:reachable"],
            "additionalProperties": {"type": "array", "minItems": 1, "maxItems": 1, "items": _CHECK},
        },
    },
}
"""The schema of the document of a health probe."""

TASK_BUNDLE: dict[str, Any] = {
    "type": "object",
    "required": ["resourceType", "type", "link"],
    "properties": {
        "resourceType": {"const": "Bundle"},
        "type": {"const": "searchset"},
        "link": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "object", "required": ["relation", "url"]}},
        "entry": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["fullUrl", "resource", "search"]}},
    },
}
"""The schema of the list of one's jobs. HL7's definitions describe the Tasks in it."""


def reference(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def operation_outcome(dialect: Dialect) -> dict[str, Any]:
    """The schema of an OperationOutcome, the body of each refusal."""
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
    """The schema of a manifest (section 2.4)."""
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
        required |= {"manifestType": _URL, "outputFormat": {"const": MEDIA_TYPE}}
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


def value(parameter: ExportParameter, lists: Lists) -> dict[str, Any]:
    """The schema of one value of an export parameter as text; the kick-off's parser accepts the same syntax.

    Args:
        parameter: the parameter.
        lists: whether a value can be a comma list.
    """
    words = _WORDS.get(parameter.name)
    shape = SHAPES[parameter.name].pattern if parameter.name in SHAPES else "|".join(map(re.escape, words or ()))
    if parameter.name == "_typeFilter":
        return {"type": "string", "pattern": rf"^{SHAPES['_type'].pattern}\?[\s\S]+$"}
    if shape and parameter.many and lists is Lists.COMMA:
        return {"type": "string", "pattern": f"^(?:{shape})(?:,(?:{shape}))*$"}
    if words:
        return {"type": "string", "enum": words}
    return {"type": "string", "pattern": f"^(?:{shape})$"} if shape else VALUES.get(parameter.type, VALUES["string"])


def parameters(taken: Iterable[ExportParameter], dialect: Dialect) -> dict[str, Any]:
    """The schema of a kick-off body, a FHIR Parameters resource.

    Args:
        taken: the supported parameters.
        dialect: defines which values are a Coding, and the form of several values.
    """
    entries = []
    for parameter in taken:
        coded = parameter.name in dialect.codings
        schema = value(parameter, dialect.lists)
        if coded:
            schema = {**VALUES["Coding"], "properties": {"code": schema}}
        type_ = "Coding" if coded else parameter.type
        entries.append(_object({"name": {"const": parameter.name}, f"value{type_[0].upper()}{type_[1:]}": schema}))
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
    """The schema of an object with these members only."""
    return {
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }
