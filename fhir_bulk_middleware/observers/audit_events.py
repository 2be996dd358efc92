"""Observer that stores events as FHIR AuditEvent resources."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import JsonValue

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.events import (
    AuditGap,
    Cancelled,
    Completed,
    Deleted,
    DeleteIntended,
    Event,
    Failed,
    FileServed,
    JobEvent,
    KickedOff,
    NothingDeleted,
    PartSealed,
    RefusalsSummed,
    RequestRefused,
    UrlsSigned,
    name,
)
from fhir_bulk_middleware.contract.recipes import as_json, from_json, make
from fhir_bulk_middleware.contract.running import Recipe, SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import SupportsAudit
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Precision, render
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["AuditEvents", "audit_event"]

_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_INTERACTION = "http://hl7.org/fhir/restful-interaction"
_EXPORT = {"system": _DICOM, "code": "110106", "display": "Export"}
_REST = {"system": _TYPE, "code": "rest", "display": "RESTful Operation"}
_OUTCOME = "http://terminology.hl7.org/CodeSystem/audit-event-outcome"
_BALP = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
_OWN = "urn:fhir-bulk-middleware:"
_IP_ADDRESS = "2"


class AuditEvents:
    """Passes AuditEvents to the storage adapter; an `Audit`.

    Some events are skipped, because they mean nothing to an auditor: sealed parts, which no client has seen yet; throttled polls;
    and refusals of unauthenticated requests.

    Args:
        adapter: stores the AuditEvents.
        version: the FHIR release of the AuditEvents.
    """

    essential: Final = True

    def __init__(self, adapter: SupportsAudit, version: FhirVersion = FhirVersion.R4) -> None:
        self._adapter = adapter
        self._version = version

    def recipe(self) -> Recipe:
        """The recipe of this observer, with the recipe of its adapter.

        Raises:
            TypeError: the adapter has no recipe; then there are no worker processes either.
        """
        if not isinstance(self._adapter, SupportsWorkerProcess):
            raise TypeError(f"{type(self._adapter).__name__} has no recipe")
        return Recipe(f"{__name__}:made_again", {"adapter": as_json(self._adapter.recipe()), "version": self._version.value})

    async def observe(self, event: Event) -> None:
        """Store the event as an AuditEvent."""
        match event:
            case PartSealed() | RequestRefused(owner=None) | RefusalsSummed(owner=None):
                return
            case RequestRefused(reason=Reason.POLLED_TOO_OFTEN):
                return
        resource = audit_event(event, self._version)
        await self._adapter.record(compact_json(resource).encode())


def made_again(adapter: JsonValue, version: str) -> AuditEvents:
    """Make the observer from its recipe."""
    return AuditEvents(cast("SupportsAudit", make(from_json(adapter))), FhirVersion(version))


def audit_event(event: Event, version: FhirVersion) -> dict[str, Any]:
    """The AuditEvent of an event; R4 and R4B share one structure, R5 has another."""
    r5 = version is FhirVersion.R5
    export = isinstance(event, JobEvent)
    kind = _EXPORT if export else _REST
    deletes = isinstance(event, Deleted | DeleteIntended | NothingDeleted)
    interaction = {"system": _INTERACTION, "code": "delete" if deletes else "operation"}
    own = {"system": f"{_OWN}event", "code": name(event)}
    outcome = {"code": _outcome(event), "system": _OUTCOME}
    classified: dict[str, Any] = (
        {"category": [{"coding": [kind]}], "code": {"coding": [own, interaction]}, "outcome": {"code": outcome}}
        if r5
        else {"type": kind, "subtype": [own, interaction], "outcome": outcome["code"]}
    )
    entities = _entities(event, r5=r5)
    return {
        "resourceType": "AuditEvent",
        **classified,
        "action": _action(event),
        "recorded": render(event.at, Precision.MICROSECONDS),
        "agent": _agents(event, r5=r5),
        "source": {
            "observer": {"display": "fhir-bulk-middleware", "identifier": {"system": f"{_OWN}mount", "value": event.mount}}
        },
        **({"entity": entities} if entities else {}),
    }


def _outcome(event: Event) -> str:
    match event:
        case Failed() | AuditGap():
            return "8"
        case RequestRefused() | RefusalsSummed():
            return "4"
        case _:
            return "0"


def _action(event: Event) -> str:
    match event:
        case FileServed() | UrlsSigned():
            return "R"
        case Deleted() | DeleteIntended():
            return "D"
        case _:
            return "E"


def _agents(event: Event, *, r5: bool) -> list[dict[str, Any]]:
    """The requestor with address and client id; in R5 an agent has no element for the client id."""
    caller = event.caller or Caller()
    operator = event.operator if isinstance(event, Cancelled) else None
    if operator is not None:  # the owner of the job took no part
        who = {"identifier": {"system": f"{_OWN}operator", "value": operator}}
        return [{"who": who, "requestor": True}, {"who": _who(event.owner), "requestor": False}]
    agent = {"who": _who(event.owner), "requestor": True}
    if caller.address is not None:
        agent |= {"networkString": caller.address} if r5 else {"network": {"address": caller.address, "type": _IP_ADDRESS}}
    if caller.client_id is None:
        return [agent]
    if not r5:
        return [{**agent, "altId": caller.client_id}]
    return [agent, {"who": {"identifier": {"system": f"{_OWN}client", "value": caller.client_id}}, "requestor": False}]


def _who(owner: Owner | None) -> dict[str, Any]:
    if owner is None:
        return {"display": "unknown"}
    return {"identifier": {"system": owner.issuer, "value": owner.subject}}


def _entities(event: Event, *, r5: bool) -> list[dict[str, Any]]:
    """The entities of an event: job, resources, request parameters, figures, and request id."""
    found: list[dict[str, Any]] = []
    job_id = getattr(event, "job_id", None)
    figures = _details(_figures(event), r5=r5)
    if job_id is not None:
        found.append({"what": {"identifier": {"system": f"{_OWN}job", "value": job_id}}, **figures})
    elif figures:
        found.append(figures)
    found += [{"what": {"reference": reference}} for reference in getattr(event, "references", ())]
    # FHIR requires Base64 for a query.
    found += [{"query": b64encode(query.encode()).decode()} for query in getattr(event, "criteria", ())]
    if isinstance(event, KickedOff):
        if event.group is not None:
            found.append({"what": {"reference": f"Group/{event.group}"}})
        found += [
            {"what": {"reference": patient} if "/" in patient else {"identifier": {"system": f"{_OWN}digest", "value": patient}}}
            for patient in event.patients
        ]
    if event.caller is not None and event.caller.request_id is not None:
        found.append(_request_id(event.caller.request_id, r5=r5))
    return found


def _figures(event: Event) -> dict[str, str]:
    found: dict[str, str] = {}
    match event:
        case KickedOff():
            found = {"level": event.level.value, "kind": event.kind.value, "types": ",".join(event.types)}
        case FileServed() | UrlsSigned():
            found = _disclosed(event)
        case Completed():
            found = {"resources": str(event.resources)}
        case Failed():
            found = {"reason": event.reason.name}
        case RequestRefused():
            found = {"operation": event.operation.name, "reason": event.reason.name}
        case RefusalsSummed():
            found = {"count": str(event.count), **{reason: str(count) for reason, count in event.reasons.items()}}
        case AuditGap():
            first, last = (render(instant, Precision.MICROSECONDS) for instant in (event.first, event.last))
            found = {"count": str(event.count), "first": first, "last": last}
        case NothingDeleted():
            found = {"removal": event.removal.value, "type": event.type, "outcome": event.outcome.name}
        case Deleted() | DeleteIntended():
            found = {"removal": event.removal.value, "type": event.type, "count": str(len(event.references))}
    return found


def _disclosed(event: FileServed | UrlsSigned) -> dict[str, str]:
    if isinstance(event, FileServed):
        return {"file": event.file_id, "type": event.type, "bytes": str(event.size)}
    until = render(event.until, Precision.MICROSECONDS)
    return {"files": ",".join(event.file_ids), "types": ",".join(event.types), "until": until}


def _details(figures: Mapping[str, str], *, r5: bool) -> dict[str, Any]:
    found = [{"type": {"text": key} if r5 else key, "valueString": value} for key, value in figures.items() if value]
    return {"detail": found} if found else {}


def _request_id(request_id: str, *, r5: bool) -> dict[str, Any]:
    """The entity of the request id, as in IHE's Basic Audit Log Patterns; R4 uses `type`, R5 `role`."""
    coding = {"system": _BALP, "code": "XrequestId"}
    return {"what": {"identifier": {"value": request_id}}, **({"role": {"coding": [coding]}} if r5 else {"type": coding})}
