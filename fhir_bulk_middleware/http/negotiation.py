"""Checks the `Accept` and `Prefer` headers as the dialect requires."""

from dataclasses import dataclass
from functools import lru_cache

from starlette.requests import Request

from fhir_bulk_middleware.dialects.model import Dialect, RequiredHeader
from fhir_bulk_middleware.http.preferences import Preferences
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Negotiation", "media_type", "wait"]

_ANYTHING = frozenset({"application/*", "*/*"})
_JSON = frozenset({"application/fhir+json", "application/json"}) | _ANYTHING


class Negotiation:
    """Checks the headers of kick-offs, polls and cancels.

    Args:
        dialect: says which headers are required.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._kick_off_accept = _Accept(_JSON, required=RequiredHeader.ACCEPT in dialect.required_headers)
        self._kick_off_prefers = RequiredHeader.PREFER in dialect.required_headers
        self._status_accept = _Accept(
            dialect.status_accept and dialect.status_accept | _ANYTHING, required=RequiredHeader.ACCEPT in dialect.status_requires
        )
        self._status_prefers = RequiredHeader.PREFER in dialect.status_requires

    def kick_off(self, request: Request) -> Preferences:
        """The preferences of a kick-off.

        Raises:
            Refused: a header is missing, malformed, or accepts no JSON.
        """
        preferences = _preferences(request)
        self._kick_off_accept.check(request)
        if self._kick_off_prefers and not preferences.respond_async:
            raise Refused(Reason.HEADER_MISSING, "Send Prefer: respond-async.", part="http.Prefer")
        return preferences

    def check_status(self, request: Request) -> None:
        """Check a poll or a cancel. Only required headers can make it invalid.

        Raises:
            Refused: as `kick_off`.
        """
        self._status_accept.check(request)
        if self._status_prefers and not _preferences(request).respond_async:
            raise Refused(Reason.HEADER_MISSING, "Send Prefer: respond-async.", part="http.Prefer")


def wait(request: Request) -> int | None:
    """How many seconds a poll may be held open (ST-09); None unless the client says so.

    A `Prefer` header that a kick-off would refuse is ignored, since polls need none (DL-12).
    """
    lines = [value for name, value in request.scope["headers"] if name == b"prefer"]
    return _wait(tuple(lines)) if lines else None


def media_type(item: str) -> str:
    """The media type of a header's item, without its parameters and in lower case."""
    return item.partition(";")[0].strip().lower()


def _preferences(request: Request) -> Preferences:
    try:
        return Preferences.parse(request.headers.getlist("prefer"))
    except ValueError as error:
        raise Refused(Reason.HEADER_INVALID, f"Prefer: {error}.", part="http.Prefer") from None


@dataclass(frozen=True, slots=True)
class _Accept:
    """What the `Accept` header of a request may say.

    Attributes:
        acceptable: the media types of which it must accept one; empty to allow all.
        required: whether it must be there.
    """

    acceptable: frozenset[str]
    required: bool

    def check(self, request: Request) -> None:
        if not self.acceptable and not self.required:
            return
        accept = tuple(value for name, value in request.scope["headers"] if name == b"accept")
        if self.required and not accept:
            raise Refused(Reason.HEADER_MISSING, "Send Accept: application/fhir+json.", part="http.Accept")
        if self.acceptable and accept and self.acceptable.isdisjoint(_accepted(accept)):
            raise Refused(Reason.ACCEPT_UNUSABLE, "Answers here are application/fhir+json; accept that.", part="http.Accept")


@lru_cache(maxsize=64)
def _wait(lines: tuple[bytes, ...]) -> int | None:
    """The preference in `Prefer` headers. Cached, as `_accepted`."""
    try:
        return Preferences.parse(line.decode("latin-1") for line in lines).wait
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _accepted(lines: tuple[bytes, ...]) -> frozenset[str]:
    """The media types of `Accept` headers. Cached, since clients repeat the same headers with every poll."""
    return frozenset(media_type(item) for line in lines for item in line.decode("latin-1").split(","))
