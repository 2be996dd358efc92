"""Reads the `Idempotency-Key` header (law 12)."""

from starlette.requests import Request

from fhir_bulk_middleware.caps import IDEMPOTENCY_KEY
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["idempotency_key"]


def idempotency_key(request: Request) -> str | None:
    """The client's key, any string; None if it sent none.

    Raises:
        Refused: `HEADER_INVALID`, for several keys, or one that is empty or too long.
    """
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1 or not 0 < len(values[0]) <= IDEMPOTENCY_KEY:
        detail = f"Idempotency-Key must be one string of at most {IDEMPOTENCY_KEY} characters."
        raise Refused(Reason.HEADER_INVALID, detail, part="http.Idempotency-Key")
    return values[0]
