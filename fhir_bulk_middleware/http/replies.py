"""From outcomes to HTTP responses; the only place where an OperationOutcome is made."""

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
"""RFC 6750, section 3: what a client needs to know to come back with a better token (SE-13)."""

_numbers = Random()  # noqa: S311 - to tell requests apart, not to be secret; the system's own randomness costs as much as a poll
os.register_at_fork(after_in_child=_numbers.seed)


class FileStatus(IntEnum):
    """How a file request that succeeds is answered; HTTP's own, in every dialect."""

    WHOLE = 200
    PARTIAL = 206
    UNCHANGED = 304


class Replies:
    """Makes responses in one dialect.

    Every response says that it must not be stored, since it depends on who asks and on when (ST-25), and has the headers of
    `fhir_bulk_middleware.http.protective`.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._request_ids = [name.lower().encode() for name in dialect.request_ids]

    def empty(self, status: int, headers: Mapping[str, str]) -> Response:
        """A response without a body."""
        return self._response(status, b"", headers)

    def json(self, status: int, document: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        """A manifest: `application/json`, not FHIR's media type (ST-20)."""
        return self._response(status, _dump(document), {"Content-Type": "application/json", **headers})

    def resource(self, status: int, resource: bytes, headers: Mapping[str, str]) -> Response:
        """A FHIR resource as JSON text."""
        return self._response(status, resource, {"Content-Type": _FHIR_JSON, **headers})

    def streamed(self, status: int, resource: AsyncIterator[bytes], headers: Mapping[str, str]) -> Response:
        """A FHIR resource as JSON text that is not all there at once."""
        return StreamingResponse(resource, status, {"Cache-Control": "no-store", "Content-Type": _FHIR_JSON, **headers})

    def document(self, document: Mapping[str, Any], media_type: str) -> Response:
        """A description of the mount, the same for everybody."""
        return self._response(HTTPStatus.OK, _dump(document), {"Content-Type": media_type})

    def told(self, answer: Answer, text: str) -> Response:
        """An OperationOutcome that is no refusal."""
        return self._response(answer.status, _dump(self.outcome(answer, text)), {"Content-Type": _FHIR_JSON})

    def separated(self, response: Response) -> Response:
        """The same answer to a poll, with the job's status in a header of its own (ST-02, ST-11, ST-21)."""
        status = HTTPStatus(response.status_code)
        response.headers["X-Export-Status"] = f"{status.value} {status.phrase}"
        response.status_code = self._dialect.completed
        return response

    def refusal(self, operation: Operation, refused: Refused) -> Response:
        """How the dialect tells this refusal."""
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
        return self._response(answer.status, _dump(outcome), headers)

    def outcome(self, answer: Answer, text: str, part: str | None = None) -> dict[str, Any]:
        """An OperationOutcome with one issue.

        Args:
            answer: severity and code.
            text: what was wrong and what would be right.
            part: the part of the request that it is about.
        """
        id_ = str(uuid.uuid4()) if answer.identified else None
        return operation_outcome(self._dialect.text, answer.severity, answer.code, text, part=part, id_=id_)

    def retry_after(self, seconds: int) -> str:
        """The value of a `Retry-After` header."""
        return str(seconds * self._dialect.retry_after.value)

    def new_request_id(self) -> str:
        """The id of a request and of its response, by which support and audit find it."""
        return f"{_numbers.getrandbits(128):032x}"

    def stamp(self, response: Response, request: Request, request_id: str) -> Response:
        """Give the response its protective headers and its id, and the client's own id back (RD-19)."""
        response.raw_headers += PROTECTIVE
        value = request_id.encode()
        response.raw_headers += [(name, value) for name in self._request_ids]
        theirs = next((value for name, value in request.scope["headers"] if name == b"x-request-id"), None)
        if theirs is not None and _CORRELATION.fullmatch(theirs):
            response.raw_headers.append((b"x-correlation-id", theirs))
        return response

    def _response(self, status: int, body: bytes, headers: Mapping[str, str]) -> Response:
        return _Reply(body, status, headers)


class _Reply(Response):
    """A response with headers of ours alone, so that nothing has to be looked for in them."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """As Starlette's, for what it does here."""
        self.raw_headers = [NOT_STORED]
        self.raw_headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
        if self.status_code != HTTPStatus.NO_CONTENT:
            self.raw_headers.append((b"content-length", b"%d" % len(self.body)))


def _echoed(refused: Refused) -> str:
    """What was wrong, for the client; never empty, for FHIR knows no empty text."""
    detail = refused.detail or f"The request was refused: {refused.reason.name.lower().replace('_', ' ')}."
    return one_line(detail)


def _dump(document: Mapping[str, Any]) -> bytes:
    return compact_json(document).encode()
