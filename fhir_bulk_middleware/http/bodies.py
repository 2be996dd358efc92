"""Bodies of requests, bounded in size and in the time that they may take to arrive (law 38)."""

import anyio
from starlette.requests import Request

from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["is_empty", "whole"]


async def whole(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request.

    Args:
        request: whose body.
        limit: bytes that it may have.
        seconds: in which all of it must arrive.

    Raises:
        Refused: `BODY_TOO_LARGE` as soon as it is, or `BODY_TOO_SLOW`.
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
    """Whether a request has no body; no more than the first chunk is waited for.

    Raises:
        Refused: `BODY_TOO_SLOW`, if neither a chunk nor the end came within the seconds.
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
