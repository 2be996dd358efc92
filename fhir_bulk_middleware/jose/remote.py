"""A key set at a URL, with caching and a limited rate of fetches."""

import logging
import math
from types import ModuleType
from urllib.parse import urlsplit

import anyio

from fhir_bulk_middleware.instant import Clock, Instant, seconds_between, system_clock
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.jose.missing import MissingKids
from fhir_bulk_middleware.jose.sources import LARGEST, unavailable
from fhir_bulk_middleware.loopback import is_loopback

__all__ = ["UrlKeys"]

_logger = logging.getLogger(__name__)


class UrlKeys:
    """A key set at a URL (`jwks_uri`).

    A process has at most one fetch in progress; all waiting callers share its result or failure.

    A fetch happens for the first token, when the set is older than `lifetime`, and for a `kid` that the set lacks. Clients can
    send any `kid`, so there is at most one fetch for unknown ones per `interval`, and one a minute for the same `kid`.

    While fetches fail the last good set stays valid for `keep` seconds. The limit prevents an attacker who blocks the URL from
    keeping a revoked key valid.

    Args:
        url: https, or http on a loopback address.
        lifetime: seconds after which the set is fetched again.
        keep: seconds for which a set stays valid while fetches fail.
        interval: minimum seconds between two fetches for unknown `kid`s, and after a failed fetch.
        timeout: seconds for a whole fetch.
        allow_http: whether http is allowed for other hosts; anyone on the network path can then forge tokens.
        clock: returns the current time.

    Raises:
        ValueError: the URL is not trustworthy.
        ImportError: httpx2 is not installed; the extra `smart` brings it.
    """

    def __init__(
        self,
        url: str,
        *,
        lifetime: float = 300,
        keep: float = 86_400,
        interval: float = 5,
        timeout: float = 5,
        allow_http: bool = False,
        clock: Clock = system_clock,
    ) -> None:
        self._url = _trusted(url, allow_http=allow_http)
        self._httpx2 = _httpx2()
        self._lifetime = lifetime
        self._keep = keep
        self._interval = interval
        self._timeout = timeout
        self._clock = clock
        self._lock = anyio.Lock()
        self._attempts = 0
        self._keys: KeySet | None = None
        self._fetched_at: Instant | None = None
        self._failed_at: Instant | None = None
        self._searched_at: Instant | None = None
        self._missing = MissingKids()

    def __str__(self) -> str:
        return f"the keys at {urlsplit(self._url)._replace(query='', fragment='').geturl()}"

    async def keys(self) -> KeySet:
        """The keys, at most `lifetime` old; at most `keep` while fetches fail."""
        settled = self._within(self._lifetime, self._fetched_at) or self._within(self._interval, self._failed_at)
        # The first caller that finds the set expired fetches it; meanwhile other callers use the old one.
        if not settled and not (self._lock.locked() and self._good()):
            await self._fetch()
        return self._current()

    async def keys_with(self, kid: str) -> KeySet:
        """The keys after a new fetch, unless one was made too recently or did not find this `kid`."""
        if self._lock.locked():
            await self._fetch()
        elif not self._in_vain(kid):
            self._searched_at = self._clock()
            await self._fetch()
            # Only after a fetch for this kid; any other may have been published meanwhile.
            if self._failed_at is None and kid not in self._current().kids:
                self._missing.add(kid, self._clock())
        return self._current()

    async def _fetch(self) -> None:
        """Fetch, or wait for the fetch in progress."""
        seen = self._attempts
        async with self._lock:
            if self._attempts != seen:
                return
            # Shielded from cancellation, because other callers wait for this fetch. The deadline ends it.
            with anyio.CancelScope(shield=True):
                await self._attempt()
            self._attempts += 1

    async def _attempt(self) -> None:
        httpx2 = self._httpx2
        try:
            with anyio.fail_after(self._timeout):
                keys = KeySet.from_json(await self._download())
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            self._failed_at = self._clock()
            _logger.warning("key set %s cannot be fetched: %s: %s", self._url, type(error).__name__, error)
            return
        self._failed_at = None
        self._fetched_at = self._clock()
        if keys != self._keys:
            self._keys = keys

    async def _download(self) -> bytes:
        # No redirects, since the operator trusts this URL only. No compression: the size is known only after unpacking.
        # A new HTTP client for each fetch: fetches are rare, and a client is bound to an event loop.
        data = bytearray()
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with (
            self._httpx2.AsyncClient(timeout=self._timeout, follow_redirects=False) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if not response.is_success or response.headers.get("Content-Encoding", "identity") != "identity":
                raise ValueError(f"answered {response.status_code}, or compressed")
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > LARGEST:
                    raise ValueError(f"larger than {LARGEST} bytes")
        return bytes(data)

    def _in_vain(self, kid: str) -> bool:
        return (
            self._within(self._interval, self._failed_at)
            or self._within(self._interval, self._searched_at)
            or self._missing.has(kid, self._clock())
        )

    def _good(self) -> bool:
        return self._keys is not None and self._within(self._keep, self._fetched_at)

    def _current(self) -> KeySet:
        if self._keys is None or not self._good():
            raise unavailable(retry_after=math.ceil(self._interval))
        return self._keys

    def _within(self, seconds: float, instant: Instant | None) -> bool:
        """Whether less than `seconds` have passed since the instant; False if the clock was set back before it."""
        return instant is not None and 0 <= seconds_between(instant, self._clock()) < seconds


def _trusted(url: str, *, allow_http: bool) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("a key set's URL needs a host, and neither user nor fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and (allow_http or is_loopback(parts.hostname))):
        raise ValueError("a key set's URL must be https, or http on a loopback address")
    return url


def _httpx2() -> ModuleType:
    try:
        import httpx2  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ImportError("key sets from a URL need httpx2: install fhir-bulk-middleware[smart]") from error
    return httpx2
