"""The OpenAPI 3.1 document of a mount, derived from its route table and dialect."""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fhir_bulk_middleware.delete.policy import Shows
from fhir_bulk_middleware.discovery import requests, schemas
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.refusals import reasons
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.files.format import MEDIA_TYPE
from fhir_bulk_middleware.health.endpoints import HEALTH_MEDIA_TYPE, READY_PATH
from fhir_bulk_middleware.http.guard import Open
from fhir_bulk_middleware.http.replies import FileStatus
from fhir_bulk_middleware.http.routes import Row, has_head
from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation, Reason
from fhir_bulk_middleware.smart.configuration import SMART_PATH

__all__ = ["openapi"]

_FHIR_JSON = "application/fhir+json"
_SUMMARIES: Mapping[Operation, str] = {
    Operation.KICK_OFF: "Begin an export",
    Operation.STATUS: "Ask how an export stands, and for its manifest",
    Operation.JOBS: "List one's own jobs, newest first",
    Operation.CANCEL: "Cancel an export, or say that its files are no longer needed",
    Operation.FILE: "Fetch a file",
    Operation.DELETE: "Delete a resource",
    Operation.CONDITIONAL_DELETE: "Delete what meets search criteria",
    Operation.DISCOVERY: "What the mount says about itself",
    Operation.HEALTH: "Whether the server is well",
}
_OF_SEVERAL = frozenset(
    {DeleteOutcome.NO_MATCH, DeleteOutcome.SEVERAL_MATCHES, DeleteOutcome.ALL_DELETED, DeleteOutcome.TOO_MANY_MATCHES}
)
_NOT_A_WORD = re.compile(r"\W+", re.ASCII)
_CHALLENGED = frozenset({Reason.TOKEN_MISSING, Reason.TOKEN_INVALID, Reason.SCOPE_MISSING})
_ALLOWING = frozenset({Reason.METHOD_NOT_ALLOWED, Reason.TYPE_KEPT})
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_NUMBER: dict[str, Any] = {"schema": {"type": "integer", "minimum": 0}}

Responses = dict[str, dict[str, Any]]


def openapi(rows: Iterable[Row], offer: Offer) -> dict[str, Any]:
    """The document.

    Args:
        rows: all rows of the mount.
        offer: what it offers.
    """
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        path = paths.setdefault(urlsplit(row.path).path, {})
        path[row.method.lower()] = _operation(offer, row, head=False)
        if row.method == "GET" and has_head(row):
            path["head"] = _operation(offer, row, head=True)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"FHIR Bulk Data export ({offer.dialect.name})",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": offer.settings.public_base_url or "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "SMART `system/` scopes."}},
            "schemas": {
                "Manifest": schemas.manifest(offer.dialect),
                "OperationOutcome": schemas.operation_outcome(offer.dialect),
                "ResourceType": {"enum": sorted(definitions(offer.version).resource_types)},
            },
        },
    }


def _operation(offer: Offer, row: Row, *, head: bool) -> dict[str, Any]:
    method = "HEAD" if head else row.method
    operation: dict[str, Any] = {
        "operationId": _NOT_A_WORD.sub("-", f"{method}{row.path}").strip("-").lower(),
        "summary": _SUMMARIES.get(row.operation, row.operation.name),
        "parameters": requests.parameters(offer, row),
        "responses": _responses(offer, row),
    }
    if body := requests.body(offer, row):
        operation["requestBody"] = body
    if isinstance(row.endpoint, Open):
        operation["security"] = []
    if head:
        for response in operation["responses"].values():
            response.pop("content", None)
    return operation


def _responses(offer: Offer, row: Row) -> Responses:
    """The responses of a row by status; reasons with the same status share one entry."""
    responses: Responses = {}
    for success, response in _successes(offer, row):
        responses[str(int(success))] = response
    for reason in sorted(reasons(offer, row), key=lambda reason: reason.name):
        status = str(offer.dialect.answer(row.operation, reason).status)
        refusal = responses.setdefault(status, {"description": "", "content": {}})
        words = reason.name.lower().replace("_", " ")
        refusal["description"] = "; ".join(filter(None, (refusal["description"], words)))
        refusal.setdefault("content", {})[_FHIR_JSON] = {"schema": schemas.reference("OperationOutcome")}
        if reason in _ALLOWING:
            refusal.setdefault("headers", {})["Allow"] = _TEXT
        if reason in _CHALLENGED:
            refusal.setdefault("headers", {})["WWW-Authenticate"] = _TEXT
    for response in responses.values():
        response.setdefault("headers", {}).update({name: {**_TEXT, "required": True} for name in offer.dialect.request_ids})
    return dict(sorted(responses.items()))


def _successes(offer: Offer, row: Row) -> Iterator[tuple[int, dict[str, Any]]]:
    dialect = offer.dialect
    match row.operation:
        case Operation.KICK_OFF:
            location = {"Content-Location": {"required": True, "schema": {"type": "string", "format": "uri"}}}
            yield dialect.accepted, {"description": "accepted", "headers": location}
        case Operation.STATUS:
            yield from _status(offer)
        case Operation.JOBS:
            yield HTTPStatus.OK, {"description": "a Bundle of Tasks", "content": {_FHIR_JSON: {"schema": schemas.TASK_BUNDLE}}}
        case Operation.CANCEL if row.path != dialect.jobs_path:
            yield _cancelled(offer)
        case Operation.DELETE | Operation.CONDITIONAL_DELETE:
            yield from _deleted(offer, row)
        case Operation.FILE:
            yield from _file()
        case Operation.HEALTH:
            yield from _health(row)
        case Operation.DISCOVERY:
            media_type = "application/json" if row.path == SMART_PATH else _FHIR_JSON
            yield HTTPStatus.OK, {"description": "the document", "content": {media_type: {"schema": {"type": "object"}}}}


def _deleted(offer: Offer, row: Row) -> Iterator[tuple[int, dict[str, Any]]]:
    """The successful responses of a delete, by status, from the cells of its policy."""
    if offer.deletes is None:
        return
    cells = [*offer.deletes.cells.items(), *((None, cell) for cell in offer.deletes.preferred.values())]
    told: dict[int, dict[str, Any]] = {}
    for outcome, cell in cells:
        if row.operation is Operation.DELETE and outcome in _OF_SEVERAL:
            continue
        response = told.setdefault(cell.status, {"description": "", "headers": {"ETag": _TEXT, "Preference-Applied": _TEXT}})
        if outcome is not None:
            words = outcome.name.lower().replace("_", " ")
            response["description"] = "; ".join(filter(None, (response["description"], words)))
        if cell.shows is not Shows.NOTHING:
            response["content"] = {_FHIR_JSON: {"schema": {"type": "object"}}}
    yield from told.items()
    if row.operation is Operation.CONDITIONAL_DELETE and offer.remove_alls:
        location = {"Content-Location": {"required": True, "schema": {"type": "string", "format": "uri"}}}
        yield offer.dialect.accepted, {"description": "accepted", "headers": location}


def _status(offer: Offer) -> Iterator[tuple[int, dict[str, Any]]]:
    dialect = offer.dialect
    paced = {"Retry-After": _NUMBER, "X-Progress": {"schema": {"type": "string", "maxLength": 99}}}
    separate: dict[str, Any] = {"X-Export-Status": _TEXT} if dialect.separate_export_status else {}
    shown = {"application/json": {"schema": schemas.reference("Manifest")}}
    partial = {"content": shown} if "allowPartialManifests" in dialect.parameters else {}
    waited = {"Preference-Applied": _TEXT}
    yield dialect.in_progress, {"description": "in progress", "headers": {**paced, **waited}, **partial}
    if separate or offer.remove_alls:
        shown = {**shown, _FHIR_JSON: {"schema": schemas.reference("OperationOutcome")}}
    headers = {"Expires": _TEXT, **waited, **separate, **(paced if separate else {})}
    yield dialect.completed, {"description": "complete", "headers": headers, "content": shown}


def _cancelled(offer: Offer) -> tuple[int, dict[str, Any]]:
    told = offer.dialect.cancelled_answer
    if told is None and not offer.remove_alls:
        return offer.dialect.cancelled, {"description": "cancelled"}
    return offer.dialect.cancelled if told is None else told.status, {
        "description": "cancelled",
        "content": {_FHIR_JSON: {"schema": schemas.reference("OperationOutcome")}},
    }


def _health(row: Row) -> Iterator[tuple[int, dict[str, Any]]]:
    content = {HEALTH_MEDIA_TYPE: {"schema": schemas.HEALTH}}
    yield HTTPStatus.OK, {"description": "the checks", "content": dict(content)}
    if row.path == READY_PATH:
        yield HTTPStatus.SERVICE_UNAVAILABLE, {"description": "not ready", "content": dict(content)}


def _file() -> Iterator[tuple[int, dict[str, Any]]]:
    headers = {"ETag": {**_TEXT, "required": True}, "Accept-Ranges": _TEXT, "Content-Encoding": _TEXT}
    content = {MEDIA_TYPE: {"schema": {"type": "string"}}}
    yield FileStatus.WHOLE, {"description": "the file", "headers": dict(headers), "content": content}
    several = {"multipart/byteranges": {"schema": {"type": "string"}}}
    yield FileStatus.PARTIAL, {"description": "a part of it", "headers": dict(headers), "content": {**content, **several}}
    yield FileStatus.UNCHANGED, {"description": "the client has it", "headers": dict(headers)}
