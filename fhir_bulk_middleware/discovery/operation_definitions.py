"""OperationDefinitions: what each kind of kick-off takes here, as resources that a client can read (KO-20 to KO-30)."""

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
"""HL7's own definitions, which a CapabilityStatement names (CS-04); ours constrain them."""

_PLACES: Mapping[Level, dict[str, Any]] = {
    Level.SYSTEM: {"system": True, "type": False, "instance": False},
    Level.PATIENT: {"resource": ["Patient"], "system": False, "type": True, "instance": False},
    Level.GROUP: {"resource": ["Group"], "system": False, "type": False, "instance": True},
}


def definition_id(level: Level) -> str:
    """The id of our definition: in a shape that only we use, since the path may be the host's too (law 14)."""
    return f"bulk.{CANONICAL[level].rpartition('/')[2]}"


def definition_path(level: Level) -> str:
    """Where it is read, below the mount."""
    return f"/OperationDefinition/{definition_id(level)}"


def definition(offer: Offer, level: Level, base_url: str) -> dict[str, Any]:
    """Our OperationDefinition for a level, under the mount's URL.

    An operation that GET may call must not affect state; so it is said to affect state just where POST is the only way (CS-09).
    """
    id_ = definition_id(level)
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
