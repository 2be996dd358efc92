"""OperationDefinitions of the kick-offs: their parameters as FHIR resources (KO-20 to KO-30)."""

from collections.abc import Mapping
from typing import Any

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.openapi_parameters import ExportParameter

__all__ = ["CANONICAL", "definition", "definition_id", "definition_path"]

CANONICAL: Mapping[Level, str] = {
    Level.SYSTEM: "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export",
    Level.PATIENT: "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export",
    Level.GROUP: "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export",
}
"""URLs of HL7's OperationDefinitions, which a CapabilityStatement names (CS-04); ours are based on them."""

_PLACES: Mapping[Level, dict[str, Any]] = {
    Level.SYSTEM: {"system": True, "type": False, "instance": False},
    Level.PATIENT: {"resource": ["Patient"], "system": False, "type": True, "instance": False},
    Level.GROUP: {"resource": ["Group"], "system": False, "type": False, "instance": True},
}


def definition_id(level: Level) -> str:
    """The id of our definition. It has a reserved shape, since the host may serve the same path (law 14)."""
    return f"bulk.{CANONICAL[level].rpartition('/')[2]}"


def definition_path(level: Level) -> str:
    """The path of the definition, below the mount."""
    return f"/OperationDefinition/{definition_id(level)}"


def definition(offer: Offer, level: Level, base_url: str) -> dict[str, Any]:
    """Our OperationDefinition for a level, with the mount's URL.

    `affectsState` is true only where POST is the only method, because an operation with GET must not affect state (CS-09).
    """
    id_ = definition_id(level)
    of_instances = {"instance": True} if level is Level.PATIENT and offer.one_patient else {}
    return {
        "resourceType": "OperationDefinition",
        "id": id_,
        "url": f"{base_url}{definition_path(level)}",
        "name": "".join(word.capitalize() for word in id_.replace(".", "-").split("-")),
        "title": f"Bulk data export at {level} level",
        "status": "active",
        "kind": "operation",
        "affectsState": "GET" not in offer.kick_off[level],
        "code": "export",
        "base": CANONICAL[level],
        **_PLACES[level],
        **of_instances,
        "parameter": [_parameter(offer, parameter) for parameter in offer.parameters(level)],
    }


def _parameter(offer: Offer, parameter: ExportParameter) -> dict[str, Any]:
    coded = parameter.name in offer.dialect.codings
    profile = {"targetProfile": ["http://hl7.org/fhir/StructureDefinition/Patient"]} if parameter.type == "Reference" else {}
    return {
        "name": parameter.name,
        "use": "in",
        "min": 0,
        "max": "*" if parameter.many else "1",
        "documentation": parameter.meaning,
        "type": "Coding" if coded else parameter.type,
        **profile,
    }
