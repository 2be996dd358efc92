"""Responses of the demo host, which does not use the dialects."""

import uuid
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.instant import http_date
from fhir_bulk_middleware.stores.versioned import Stored

__all__ = ["FHIR_JSON", "Refusal", "outcome", "resource", "searchset"]

FHIR_JSON = "application/fhir+json"


class Refusal(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """A refused request.

    Args:
        status: the HTTP status.
        code: the issue code of the OperationOutcome.
        diagnostics: the text of the issue.
        headers: headers of the response.
    """

    def __init__(self, status: HTTPStatus, code: str, diagnostics: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(diagnostics)
        self.status = status
        self.code = code
        self.diagnostics = diagnostics
        self.headers = headers


def outcome(status: int, code: str, diagnostics: str, headers: Mapping[str, str] | None = None) -> Response:
    """An OperationOutcome with one issue; the text is in `details` and in `diagnostics`, since clients read one or the other."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in diagnostics)
    issue = {"severity": "error", "code": code, "details": {"text": text}, "diagnostics": text}
    return document({"resourceType": "OperationOutcome", "issue": [issue]}, status=status, headers=headers)


def document(content: Mapping[str, Any], *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """A response with a generated resource."""
    return _response(compact_json(content).encode(), status, headers)


def resource(stored: Stored, *, status: int = HTTPStatus.OK, location: str | None = None) -> Response:
    """A response with a stored resource, byte for byte."""
    headers = {"etag": f'W/"{stored.version}"', "last-modified": http_date(stored.last_updated)}
    if location is not None:
        headers["location"] = location
    return _response(stored.json, status, headers)


def searchset(base_url: str, type_: str, found: Iterable[Stored], links: Mapping[str, Mapping[str, str]]) -> Response:
    """A searchset Bundle with the stored bytes of the resources.

    Args:
        base_url: the host's base URL.
        type_: the resource type.
        found: the resources.
        links: the query of each link, by relation.
    """
    entries = b",".join(
        b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}'
        % (compact_json(f"{base_url}/{type_}/{stored.id}").encode(), stored.json)
        for stored in found
    )
    link = compact_json(
        [{"relation": relation, "url": _url(base_url, type_, query)} for relation, query in links.items()]
    ).encode()
    entry = b',"entry":[%b]' % entries if entries else b""
    body = b'{"resourceType":"Bundle","type":"searchset","link":%b%b}' % (link, entry)
    return _response(body)


def _response(body: bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """A response with a request id, as the middleware's responses have."""
    return Response(body, status, {"x-request-id": uuid.uuid4().hex, **(headers or {})}, media_type=FHIR_JSON)


def _url(base_url: str, type_: str, query: Mapping[str, str]) -> str:
    return f"{base_url}/{type_}" + (f"?{urlencode(query)}" if query else "")
