"""Reads request bodies, with limits on their size and on the time until they have arrived (law 38)."""

import anyio
from starlette.requests import Request

from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["is_empty", "whole"]


async def whole(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request.

    Args:
        request: not read so far.
        limit: bytes.
        seconds: until all of it must have arrived.

    Raises:
        Refused: `BODY_TOO_LARGE`, as soon as the limit is passed, or `BODY_TOO_SLOW`.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise Refused(Reason.BODY_TOO_LARGE, f"The body may have {limit:,} bytes; split the request.")
                chunks.append(chunk)
    except TimeoutError:
        raise _too_slow(seconds) from None
    return b"".join(chunks)


async def is_empty(request: Request, seconds: float) -> bool:
    """Whether a request has no body. Reads up to the first chunk that is not empty.

    Raises:
        Refused: `BODY_TOO_SLOW`, if neither a chunk nor the end arrived within `seconds`.
    """
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                if chunk:
                    return False
    except TimeoutError:
        raise _too_slow(seconds) from None
    return True


def _too_slow(seconds: float) -> Refused:
    return Refused(Reason.BODY_TOO_SLOW, f"The body did not arrive within {seconds:g} seconds; send it again.")
