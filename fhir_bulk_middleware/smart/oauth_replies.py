"""What the token endpoint answers: OAuth's own words and HTTP's (RFC 6749, sections 5.1 and 5.2)."""

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

__all__ = ["OAuthError", "OAuthRefused", "document", "elsewhere", "refusal", "token"]

_NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Enum):
    """Why there is no token, as OAuth calls it, and the status that goes with it."""

    INVALID_REQUEST = ("invalid_request", HTTPStatus.BAD_REQUEST)
    INVALID_CLIENT = ("invalid_client", HTTPStatus.BAD_REQUEST)
    CLIENT_BY_HEADER = ("invalid_client", HTTPStatus.UNAUTHORIZED)
    """The client tried to show who it is in an `Authorization` header, which OAuth wants answered in kind."""
    INVALID_SCOPE = ("invalid_scope", HTTPStatus.BAD_REQUEST)
    UNSUPPORTED_GRANT_TYPE = ("unsupported_grant_type", HTTPStatus.BAD_REQUEST)
    TEMPORARILY_UNAVAILABLE = ("temporarily_unavailable", HTTPStatus.SERVICE_UNAVAILABLE)
    SERVER_ERROR = ("server_error", HTTPStatus.INTERNAL_SERVER_ERROR)


class OAuthRefused(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """A token request that is refused.

    Attributes:
        error: why.
        description: what was wrong and what would be right; never which check of an assertion failed.
        reason: which check failed, for our log only; the description where that says all there is.
        retry_after: seconds after which the same request may succeed, where that is known.
    """

    def __init__(self, error: OAuthError, description: str, *, reason: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(error.name, description)
        self.error = error
        self.description = description
        self.reason = description if reason is None else reason
        self.retry_after = retry_after


def token(response: Mapping[str, Any]) -> Response:
    """A token."""
    return JSONResponse(dict(response), headers=_NOT_STORED)


def refusal(refused: OAuthRefused) -> Response:
    """No token."""
    code, status = refused.error.value
    headers = dict(_NOT_STORED)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="token"'
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    return JSONResponse({"error": code, "error_description": refused.description}, status, headers)


def elsewhere(status: int, description: str, headers: Mapping[str, str]) -> Response:
    """There is nothing here for that path or method; a 405 says in `Allow` what there is."""
    content = {"error": "invalid_request", "error_description": f"{description}."}
    return JSONResponse(content, status, {**_NOT_STORED, **headers})


def document(content: Mapping[str, Any]) -> Response:
    """A public document, such as a key set."""
    return JSONResponse(dict(content), headers={"Cache-Control": "max-age=300"})
