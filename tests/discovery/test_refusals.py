"""The refusals of the OpenAPI document are those that the source raises, operation by operation."""

from typing import Any

from mounts import SMART, mount
from raised import Place, raised

from fhir_bulk_middleware.delete.policy import AIDBOX, FHIR_R4, FHIR_R6_DRAFT
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.discovery.refusals import reasons
from fhir_bulk_middleware.http.guard import Open
from fhir_bulk_middleware.outcomes import Operation, Reason

GUARD = Place("fhir_bulk_middleware.http.guard", "Guard", "respond")
OF_ROUTES = {Reason.METHOD_NOT_ALLOWED, Reason.PATH_UNKNOWN}
"""Raised where no row matches."""

OF_THE_DOOR = {Reason.TOKEN_MISSING, Reason.TOKEN_INVALID, Reason.REQUESTS_TOO_MANY}
OF_HOSTS = {Reason.SERVICE_INACTIVE}
"""Raised by adapters, when they authorise (law 29)."""

REPORTED = {Reason.RESOURCE_UNREADABLE}
"""Written into files of an export, and never raised."""


def place(endpoint: Any) -> Place:
    """Where an endpoint is written: a method, a function, or the `__call__` of an object."""
    function = endpoint if hasattr(endpoint, "__qualname__") else type(endpoint).__call__
    owner, _, name = function.__qualname__.partition(".<locals>")[0].rpartition(".")
    return Place(function.__module__, owner or None, name)


def test_the_document_names_what_the_source_raises() -> None:
    listed: dict[Operation, set[Reason]] = {}
    starts: dict[Operation, set[Place]] = {}
    for dialect in DIALECTS.values():
        for policy in (AIDBOX, FHIR_R4, FHIR_R6_DRAFT):
            bulk = mount(dialect, deletes=policy, smart=SMART, health=True)
            for row in bulk.table:
                listed.setdefault(row.operation, set()).update(reasons(bulk.offer, row))
                endpoint = row.endpoint.respond if isinstance(row.endpoint, Open) else row.endpoint
                starts.setdefault(row.operation, set()).add(place(endpoint))

    assert listed.keys() == {*Operation} - {Operation.NONE}
    for operation, found in listed.items():
        derived = raised({GUARD, *starts[operation]})
        wanted = {Reason[name] for name in derived} - REPORTED
        wanted -= OF_THE_DOOR if operation in {Operation.DISCOVERY, Operation.HEALTH} else set()
        missing = {f"{reason.name}: {derived[reason.name]}" for reason in wanted - found}
        assert not missing, f"{operation}: raised, and not in the document"
        unraised = {reason.name for reason in found - wanted - OF_ROUTES - OF_HOSTS}
        assert not unraised, f"{operation}: in the document, and not raised"
