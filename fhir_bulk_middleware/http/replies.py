"""Makes the HTTP responses of one dialect: OperationOutcomes for refusals, JSON, resources, empty bodies."""

import os
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from enum import IntEnum
from http import HTTPStatus
from random import Random
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fhir_bulk_middleware.caps import REQUEST_ID
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.dialects.model import Answer, Dialect
from fhir_bulk_middleware.fhir.operation_outcome import one_line, operation_outcome
from fhir_bulk_middleware.http.protective import NOT_STORED, PROTECTIVE
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused

__all__ = ["FileStatus", "Replies"]

_FHIR_JSON = "application/fhir+json"
_CORRELATION = re.compile(rb"[\x21-\x7e]{1,%d}" % REQUEST_ID)
_CHALLENGES = {
    Reason.TOKEN_MISSING: "Bearer",
    Reason.TOKEN_INVALID: 'Bearer error="invalid_token"',
    Reason.SCOPE_MISSING: 'Bearer error="insufficient_scope"',
}
"""Challenges in `WWW-Authenticate`: what is wrong with the token (RFC 6750, section 3; SE-13)."""

_NO_CONTENT = HTTPStatus.NO_CONTENT.value
_numbers = Random()  # noqa: S311 - request ids are not secret, and the system's random numbers cost as much as a poll
os.register_at_fork(after_in_child=_numbers.seed)


class FileStatus(IntEnum):
    """The status of a file request that succeeds; the same in every dialect."""

    WHOLE = 200
    PARTIAL = 206
    UNCHANGED = 304


class Replies:
    """Makes the responses of one dialect.

    Each response forbids storing it (ST-25) and gets the headers of `fhir_bulk_middleware.http.protective`.

    Args:
        dialect: status codes, issue codes and header names.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._request_ids = [name.lower().encode() for name in dialect.request_ids]
        self._second = dialect.retry_after.value

    def empty(self, status: int, headers: Mapping[str, str]) -> Response:
        """A response without a body."""
        return _Reply(status, b"", headers)

    def json(self, status: int, document: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        """A response of type `application/json`, such as a manifest (ST-20)."""
        return _Reply(status, _dump(document), {"Content-Type": "application/json", **headers})

    def resource(self, status: int, resource: bytes, headers: Mapping[str, str]) -> Response:
        """A FHIR resource, given as JSON text."""
        return _Reply(status, resource, {"Content-Type": _FHIR_JSON, **headers})

    def streamed(self, status: int, resource: AsyncIterator[bytes], headers: Mapping[str, str]) -> Response:
        """A FHIR resource, given as chunks of JSON text."""
        return StreamingResponse(resource, status, {"Cache-Control": "no-store", "Content-Type": _FHIR_JSON, **headers})

    def document(self, document: Mapping[str, Any], media_type: str) -> Response:
        """A JSON document: of discovery, or the list of the caller's jobs."""
        return _Reply(HTTPStatus.OK, _dump(document), {"Content-Type": media_type})

    def health(self, document: Mapping[str, Any], *, ready: bool) -> Response:
        """The document of a health probe: 503 if requests should not come here."""
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _Reply(status, _dump(document), {"Content-Type": "application/health+json"})

    def told(self, answer: Answer, text: str) -> Response:
        """An OperationOutcome that reports success."""
        return _Reply(answer.status, _dump(self.outcome(answer, text)), {"Content-Type": _FHIR_JSON})

    def separated(self, response: Response) -> Response:
        """The response to a poll, changed to carry the job's status in `X-Export-Status` (ST-02, ST-11, ST-21)."""
        status = HTTPStatus(response.status_code)
        response.headers["X-Export-Status"] = f"{status.value} {status.phrase}"
        response.status_code = self._dialect.completed
        return response

    def refusal(self, operation: Operation, refused: Refused) -> Response:
        """The response to a refused request."""
        answer = self._dialect.answer(operation, refused.reason)
        headers = {"Content-Type": _FHIR_JSON}
        if challenge := _CHALLENGES.get(refused.reason):
            headers["WWW-Authenticate"] = challenge
        if refused.allow:
            headers["Allow"] = ", ".join(refused.allow)
        if refused.size is not None:
            headers["Content-Range"] = f"bytes */{refused.size}"
        if refused.retry_after is not None:
            headers["Retry-After"] = self.retry_after(refused.retry_after)
        outcome = self.outcome(answer, answer.text or _echoed(refused), None if answer.text else refused.part)
        return _Reply(answer.status, _dump(outcome), headers)

    def outcome(self, answer: Answer, text: str, part: str | None = None) -> dict[str, Any]:
        """An OperationOutcome with one issue.

        Args:
            answer: severity, code, and whether there is an id.
            text: what was wrong and what would be right.
            part: the part of the request that it is about.
        """
        id_ = str(uuid.uuid4()) if answer.identified else None
        return operation_outcome(self._dialect.text, answer.severity, answer.code, text, part=part, id_=id_)

    def retry_after(self, seconds: int) -> str:
        """The value of a `Retry-After` header, in the dialect's unit."""
        return str(seconds * self._second)

    def new_request_id(self) -> str:
        """A new id for a request and its response, for support and audit."""
        return _numbers.getrandbits(128).to_bytes(16, "big").hex()

    def stamp(self, response: Response, request: Request, request_id: str) -> Response:
        """Add the protective headers, the request id, and the id that the client sent (RD-19)."""
        headers, ours = response.raw_headers, request_id.encode()
        headers += PROTECTIVE
        headers += [(name, ours) for name in self._request_ids]
        theirs = [value for name, value in request.scope["headers"] if name == b"x-request-id"]
        if theirs and _CORRELATION.fullmatch(theirs[0]):
            headers.append((b"x-correlation-id", theirs[0]))
        return response


class _Reply(Response):
    """A response with these headers and its length alone, made without a search for Starlette's defaults."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [
            NOT_STORED,
            *[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        ]
        if status != _NO_CONTENT:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))


def _echoed(refused: Refused) -> str:
    """The detail of a refusal, or its reason if it has none: FHIR does not allow an empty text."""
    detail = refused.detail or f"The request was refused: {refused.reason.name.lower().replace('_', ' ')}."
    return one_line(detail)


def _dump(document: Mapping[str, Any]) -> bytes:
    return compact_json(document).encode()
