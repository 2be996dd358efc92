"""Client assertions: a JWT by which a client shows that it has its private key (SE-23; RFC 7523).

Whatever is wrong with one, the client is told only that; the reason is for our log.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fhir_bulk_middleware.instant import Clock, Instant, after
from fhir_bulk_middleware.jose.claims import moment, name_in
from fhir_bulk_middleware.jose.token import LONGEST, UnverifiedToken
from fhir_bulk_middleware.principal import TokenRejected
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import ReplayLog

__all__ = ["ALGORITHMS", "Assertions"]

ALGORITHMS: Final = ("RS384", "ES384")
"""What an assertion may be signed with: those that SMART names."""

_TYPES: Final = frozenset({"jwt", "client-authentication+jwt"})  # an access token calls itself otherwise, and is none
_LIFETIME: Final = 300
_LEEWAY: Final = 60


class Assertions:
    """Checks client assertions; each is good once.

    Args:
        clients: who is registered.
        audience: what `aud` must be: the URL of the token endpoint, character by character.
        replay: which were used.
        clock: what time it is.
    """

    def __init__(self, clients: Iterable[Client], audience: str, replay: ReplayLog, clock: Clock) -> None:
        self._clients = {client.id: client for client in clients}
        self._audience = audience
        self._replay = replay
        self._clock = clock

    async def client(self, assertion: str, client_id: str | None) -> Client:
        """Whose assertion it is.

        Args:
            assertion: as it came.
            client_id: what the request says beside it, which must agree.

        Raises:
            TokenRejected: it is not good, for whatever reason; the message quotes nothing of it.
            Refused: `BUSY`, if the client's keys are not to be had just now, or too many assertions of its are in use.
        """
        if len(assertion) > LONGEST or not assertion.isascii():
            raise TokenRejected("longer than an assertion may be, or not ASCII")
        token = UnverifiedToken.parse(assertion, _TYPES)
        claims = token.claims()  # not believed before the signature is checked; they say only whose keys to check it with
        client = self._clients.get(name_in(claims, "iss"))
        if client is None:
            raise TokenRejected("its iss is no client of ours")
        await _check_signature(token, client)
        if name_in(claims, "sub") != client.id or client_id not in {None, client.id}:
            raise TokenRejected("its iss, its sub and client_id are not the same")
        now = self._clock()
        until = self._check_claims(claims, now)
        if not await self._replay.first_use(client.id, name_in(claims, "jti"), until, now):
            raise TokenRejected("it was used before")
        return client

    def _check_claims(self, claims: Mapping[str, Any], now: Instant) -> Instant:
        """Until when the assertion would be good again."""
        # One audience, and that is us: an assertion for several could be carried from one to the other.
        if claims.get("aud") not in (self._audience, [self._audience]):
            raise TokenRejected("its aud is not the token endpoint alone")
        expires_at = moment(claims, "exp")
        if expires_at is None:
            raise TokenRejected("it has no exp")
        until = after(expires_at, _LEEWAY)
        if now >= until:
            raise TokenRejected("it has expired")
        if expires_at > after(now, _LIFETIME + _LEEWAY):
            raise TokenRejected(f"its exp lies more than {_LIFETIME} seconds ahead")
        for name in ("nbf", "iat"):
            begin = moment(claims, name)
            if begin is not None and now < after(begin, -_LEEWAY):
                raise TokenRejected(f"its {name} lies ahead")
        return until


async def _check_signature(token: UnverifiedToken, client: Client) -> None:
    if token.algorithm not in ALGORITHMS:
        raise TokenRejected("its alg is not allowed")
    if token.kid is None:
        raise TokenRejected("it has no kid")
    if token.key_url is not None and token.key_url != client.jwks_url:
        raise TokenRejected("its jku is not the registered one")
    keys = await client.keys.keys()
    if token.kid not in keys.kids:
        keys = await client.keys.keys_with(token.kid)
    if not keys.choose(token.algorithm, token.kid).verifies(token.algorithm, token.signed, token.signature):
        raise TokenRejected("its signature is not good")
