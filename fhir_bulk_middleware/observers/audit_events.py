"""Events as FHIR AuditEvent resources, for an adapter that keeps them."""

import json
from typing import Any, cast

from pydantic import JsonValue

from fhir_bulk_middleware.events import (
    Deleted,
    Event,
    Failed,
    FileServed,
    JobEvent,
    PartSealed,
    RequestRefused,
    name,
)
from fhir_bulk_middleware.export.recipes import as_json, from_json, make
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Precision, render
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.principal import Owner
from fhir_bulk_middleware.protocols import Recipe, SupportsAudit, SupportsWorkerProcess

__all__ = ["AuditEvents", "audit_event"]

_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_INTERACTION = "http://hl7.org/fhir/restful-interaction"
_EXPORT = {"system": _DICOM, "code": "110106", "display": "Export"}
_REST = {"system": _TYPE, "code": "rest", "display": "RESTful Operation"}
_OWN = "urn:fhir-bulk-middleware:"


class AuditEvents:
    """Hands AuditEvents to the storage adapter.

    Some events are left out, for a storage should not grow by what means nothing to an auditor: a part sealed, which no client
    has seen yet; polls that came too soon; and refusals of requests whose sender is not known, which anybody can cause in any
    number.

    Args:
        adapter: who keeps them.
        version: the FHIR release that they are written in.
    """

    def __init__(self, adapter: SupportsAudit, version: FhirVersion = FhirVersion.R4) -> None:
        self._adapter = adapter
        self._version = version

    def recipe(self) -> Recipe:
        """The same with an adapter made again.

        Raises:
            TypeError: the adapter cannot be made again; nor, then, is there a worker process to make it in.
        """
        if not isinstance(self._adapter, SupportsWorkerProcess):
            raise TypeError(f"{type(self._adapter).__name__} has no recipe")
        return Recipe(f"{__name__}:made_again", {"adapter": as_json(self._adapter.recipe()), "version": self._version.value})

    async def observe(self, event: Event) -> None:
        """Hand it over."""
        match event:
            case PartSealed() | RequestRefused(owner=None) | RequestRefused(reason=Reason.POLLED_TOO_OFTEN):
                return
        resource = audit_event(event, self._version)
        await self._adapter.record(json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode())


def made_again(adapter: JsonValue, version: str) -> AuditEvents:
    """The observer of a recipe."""
    return AuditEvents(cast("SupportsAudit", make(from_json(adapter))), FhirVersion(version))


def audit_event(event: Event, version: FhirVersion) -> dict[str, Any]:
    """The AuditEvent of an event: R4 and R4B have one form, R5 another."""
    export = isinstance(event, JobEvent)
    kind = _EXPORT if export else _REST
    interaction = {"system": _INTERACTION, "code": "delete" if isinstance(event, Deleted) else "operation"}
    own = {"system": f"{_OWN}event", "code": name(event)}
    outcome, action = _outcome(event), _action(event)
    recorded = render(event.at, Precision.MICROSECONDS)
    agent = {"who": _who(event.owner), "requestor": True}
    source = {"observer": {"display": "fhir-bulk-middleware", "identifier": {"system": f"{_OWN}mount", "value": event.mount}}}
    entities = _entities(event, r5=version is FhirVersion.R5)
    more: dict[str, Any] = {"entity": entities} if entities else {}
    if version is FhirVersion.R5:
        return {
            "resourceType": "AuditEvent",
            "category": [{"coding": [kind]}],
            "code": {"coding": [own, interaction]},
            "action": action,
            "recorded": recorded,
            "outcome": {"code": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-outcome", "code": outcome}},
            "agent": [agent],
            "source": source,
            **more,
        }
    return {
        "resourceType": "AuditEvent",
        "type": kind,
        "subtype": [own, interaction],
        "action": action,
        "recorded": recorded,
        "outcome": outcome,
        "agent": [agent],
        "source": source,
        **more,
    }


def _outcome(event: Event) -> str:
    match event:
        case Failed():
            return "8"
        case RequestRefused():
            return "4"
        case _:
            return "0"


def _action(event: Event) -> str:
    match event:
        case FileServed():
            return "R"
        case Deleted():
            return "D"
        case _:
            return "E"


def _who(owner: Owner | None) -> dict[str, Any]:
    if owner is None:
        return {"display": "unknown"}
    return {"identifier": {"system": owner.issuer, "value": owner.subject}}


def _entities(event: Event, *, r5: bool) -> list[dict[str, Any]]:
    """What the event is about: its job, with figures; or the resources that are gone."""
    match event:
        case Deleted():
            return [{"what": {"reference": reference}} for reference in event.references]
        case FileServed():
            figures = {"file": event.file_id, "type": event.type, "bytes": str(event.size)}
        case JobEvent():
            figures = {}
        case RequestRefused():
            figures = {"operation": event.operation.name, "reason": event.reason.name}
        case _:
            return []
    entity: dict[str, Any] = {}
    if isinstance(event, JobEvent):
        entity["what"] = {"identifier": {"system": f"{_OWN}job", "value": event.job_id}}
    if figures:
        entity["detail"] = [{"type": {"text": key} if r5 else key, "valueString": value} for key, value in figures.items()]
    return [entity]
