"""Parses requests to the demo host: body, version and query."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request

from fhir_bulk_middleware.demo.fhir_responses import FHIR_JSON, Refusal
from fhir_bulk_middleware.fhir.canonical import DEPTH
from fhir_bulk_middleware.fhir.nesting import deeper_than
from fhir_bulk_middleware.http import bodies
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["after_of", "body_of", "count_of", "if_match_of", "query_of"]

_COUNT: Final = 50
_LARGEST_COUNT: Final = 1000
_BODY_BYTES: Final = 16 * 1024 * 1024
_BODY_SECONDS: Final = 30.0
_LONGEST_NUMBER: Final = 18
_PARAMETERS: Final = frozenset({"_id", "_count", "_after"})
_PLACE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_ETAG: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"', re.ASCII)
_JSON_TYPES: Final = frozenset({FHIR_JSON, "application/json", "application/json+fhir"})


async def body_of(request: Request, type_: str) -> tuple[bytes, dict[str, Any]]:
    """The resource in the body: its bytes, which the store needs because a parser loses digits, and its parsed content."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _JSON_TYPES:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-supported", f"the body must be {FHIR_JSON}")
    try:
        body = await bodies.whole(request, _BODY_BYTES, _BODY_SECONDS)
    except Refused as refused:
        slow = refused.reason is Reason.BODY_TOO_SLOW
        status, code = (HTTPStatus.REQUEST_TIMEOUT, "timeout") if slow else (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-long")
        raise Refusal(status, code, refused.detail) from None
    try:
        text = body.decode()
        if deeper_than(text, DEPTH):
            raise Refusal(HTTPStatus.BAD_REQUEST, "structure", f"the body is nested deeper than {DEPTH}")
        content = json.loads(text)
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "structure", "the body is not JSON") from error
    if not isinstance(content, dict) or content.get("resourceType") != type_:
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", f"the body must be a resource of type {type_}")
    return body, content


def if_match_of(request: Request) -> int | None:
    """The version in `If-Match`, or None without the header.

    Raises:
        Refusal: `If-Match` is not a version.
    """
    given = request.headers.get("if-match")
    if given is None:
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", 'If-Match: a version as W/"3" is required')
    return int(match[1])


def query_of(request: Request) -> dict[str, str]:
    """The parameters of a search.

    Raises:
        Refusal: a parameter is unknown; ignoring it would find too much.
    """
    query = dict(request.query_params)
    unknown = sorted(set(query) - _PARAMETERS)
    if unknown:
        raise Refusal(HTTPStatus.BAD_REQUEST, "not-supported", f"searching knows only {', '.join(sorted(_PARAMETERS))}")
    return query


def count_of(query: Mapping[str, str]) -> int:
    """The maximum number of resources on a page.

    Raises:
        Refusal: `_count` is not a positive number.
    """
    given = query.get("_count", str(_COUNT))
    if not given.isascii() or not given.isdecimal() or len(given) > _LONGEST_NUMBER or int(given) < 1:
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", "_count: a positive number is required")
    return min(int(given), _LARGEST_COUNT)


def after_of(query: Mapping[str, str]) -> str | None:
    """The position in a `next` link, or None."""
    given = query.get("_after")
    if given is not None and _PLACE.fullmatch(given) is None:
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", "_after: take it from a page's next link")
    return given
