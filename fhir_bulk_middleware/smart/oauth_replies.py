"""Responses of the token endpoint (RFC 6749, sections 5.1 and 5.2)."""

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

__all__ = ["OAuthError", "OAuthRefused", "document", "elsewhere", "refusal", "token"]

_NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Enum):
    """An OAuth error code and its HTTP status."""

    INVALID_REQUEST = ("invalid_request", HTTPStatus.BAD_REQUEST)
    INVALID_CLIENT = ("invalid_client", HTTPStatus.BAD_REQUEST)
    CLIENT_BY_HEADER = ("invalid_client", HTTPStatus.UNAUTHORIZED)
    """The client authenticated with an `Authorization` header; OAuth then requires 401 with `WWW-Authenticate`."""
    INVALID_SCOPE = ("invalid_scope", HTTPStatus.BAD_REQUEST)
    UNSUPPORTED_GRANT_TYPE = ("unsupported_grant_type", HTTPStatus.BAD_REQUEST)
    TEMPORARILY_UNAVAILABLE = ("temporarily_unavailable", HTTPStatus.SERVICE_UNAVAILABLE)
    SERVER_ERROR = ("server_error", HTTPStatus.INTERNAL_SERVER_ERROR)


class OAuthRefused(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """A refused token request.

    Attributes:
        error: the OAuth error.
        description: text for the client; it never says which check of an assertion failed.
        reason: the failed check, for the log only; by default the description.
        retry_after: seconds after which the request may succeed, or None.
    """

    def __init__(self, error: OAuthError, description: str, *, reason: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(error.name, description)
        self.error = error
        self.description = description
        self.reason = description if reason is None else reason
        self.retry_after = retry_after


def token(response: Mapping[str, Any]) -> Response:
    """The response with a token."""
    return JSONResponse(dict(response), headers=_NOT_STORED)


def refusal(refused: OAuthRefused) -> Response:
    """The response to a refused request."""
    code, status = refused.error.value
    headers = dict(_NOT_STORED)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="token"'
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    return JSONResponse({"error": code, "error_description": refused.description}, status, headers)


def elsewhere(status: int, description: str, headers: Mapping[str, str]) -> Response:
    """A 404 or 405 response; the latter has `Allow`."""
    content = {"error": "invalid_request", "error_description": f"{description}."}
    return JSONResponse(content, status, {**_NOT_STORED, **headers})


def document(content: Mapping[str, Any]) -> Response:
    """The response with a public document, such as a key set."""
    return JSONResponse(dict(content), headers={"Cache-Control": "max-age=300"})
