"""Client assertions: JWTs that prove possession of a client's private key (SE-23; RFC 7523).

Every invalid assertion gets the same answer; the reason is logged. The check does the same work for registered and unknown
clients, so that its time does not reveal which client ids exist.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Final

from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.instant import Clock, Instant, after
from fhir_bulk_middleware.jose.access_token import LONGEST, UnverifiedToken
from fhir_bulk_middleware.jose.claims import moment, name_in
from fhir_bulk_middleware.jose.encoding import to_base64url
from fhir_bulk_middleware.jose.keys import KeySet, VerificationKey
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.jose.sources import FixedKeys
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import ReplayLog

__all__ = ["ALGORITHMS", "ASSERTION_LIFETIME", "Assertions"]

ALGORITHMS: Final = ("RS384", "ES384")
"""The signature algorithms that SMART allows for assertions."""

_TYPES: Final = frozenset({"jwt", "client-authentication+jwt"})  # an access token has another `typ` and is not an assertion
ASSERTION_LIFETIME: Final = 300
"""Seconds from now that the `exp` of an assertion may lie ahead (SE-23)."""

_LEEWAY: Final = 60
_RSA_BITS: Final = 2048


class Assertions:
    """Verifier of client assertions; each is accepted once.

    Args:
        clients: the registered clients.
        audience: the required `aud`, compared exactly: the URL of the token endpoint.
        replay: the log of used assertions.
        clock: returns the current time.
    """

    def __init__(self, clients: Iterable[Client], audience: str, replay: ReplayLog, clock: Clock) -> None:
        self._clients = {client.id: client for client in clients}
        self._stand_ins = tuple(self._clients.values()) or (Client("", FixedKeys(_decoys()), ()),)
        self._secret = secrets.token_bytes(16)
        self._audience = audience
        self._replay = replay
        self._clock = clock

    async def client(self, assertion: str, client_id: str | None) -> Client:
        """Verify an assertion and return its client.

        Args:
            assertion: the compact JWT.
            client_id: the `client_id` of the request, which must agree; None if it has none.

        Raises:
            TokenRejected: the assertion is invalid; the message quotes nothing of it.
            Refused: `BUSY`, if the client's keys are not available, or it has too many unexpired assertions.
        """
        if len(assertion) > LONGEST or not assertion.isascii():
            raise TokenRejected("longer than an assertion may be, or not ASCII")
        token = UnverifiedToken.parse(assertion, _TYPES)
        claims = token.claims()  # unverified: only used to select the keys for the signature check
        issuer = name_in(claims, "iss")
        client = self._clients.get(issuer)
        if client is None:
            raise await self._stranger(token, issuer)
        try:
            await _check_signature(token, client)
            await self._check_claims(claims, client, client_id)
        except TokenRejected as rejected:
            raise TokenRejected(f"in the name of {client.id}: {rejected}") from None
        return client

    async def _stranger(self, token: UnverifiedToken, issuer: str) -> TokenRejected:
        """Reject an assertion of an unknown client, after a check of its signature with the keys of a registered one.

        A secret of this process selects that client by the issuer, so that for some unknown issuers keys come from a URL and for
        others from a file, with the same timing as for registered clients.
        """
        number = int.from_bytes(hashlib.blake2b(issuer.encode(), key=self._secret, digest_size=8).digest())
        with suppress(TokenRejected):
            await _check_signature(token, self._stand_ins[number % len(self._stand_ins)])
        return TokenRejected("its iss is no client of ours")

    async def _check_claims(self, claims: Mapping[str, Any], client: Client, client_id: str | None) -> None:
        if name_in(claims, "sub") != client.id or client_id not in {None, client.id}:
            raise TokenRejected("its iss, its sub and client_id are not the same")
        now = self._clock()
        until = self._good_until(claims, now)
        if not await self._replay.first_use(client.id, name_in(claims, "jti"), until, now):
            raise TokenRejected("it was used before")

    def _good_until(self, claims: Mapping[str, Any], now: Instant) -> Instant:
        """Check audience and lifetime; return the instant until which the assertion must be remembered."""
        # Exactly one audience: an assertion for several servers could be replayed from one to another.
        if claims.get("aud") not in (self._audience, [self._audience]):
            raise TokenRejected("its aud is not the token endpoint alone")
        expires_at = moment(claims, "exp")
        if expires_at is None:
            raise TokenRejected("it has no exp")
        until = after(expires_at, _LEEWAY)
        if now >= until:
            raise TokenRejected("it has expired")
        if expires_at > after(now, ASSERTION_LIFETIME + _LEEWAY):
            raise TokenRejected(f"its exp lies more than {ASSERTION_LIFETIME} seconds ahead")
        for name in ("nbf", "iat"):
            begin = moment(claims, name)
            if begin is not None and now < after(begin, -_LEEWAY):
                raise TokenRejected(f"its {name} lies ahead")
        return until


async def _check_signature(token: UnverifiedToken, client: Client) -> None:
    """Check the signature with the key that the header names; without such a key, verify once with a decoy."""
    if token.algorithm not in ALGORITHMS:
        raise TokenRejected("its alg is not allowed")
    if token.kid is None:
        raise TokenRejected("it has no kid")
    keys = await client.keys.keys()
    if token.kid not in keys.kids:
        keys = await client.keys.keys_with(token.kid)
    missing: TokenRejected | None = None
    try:
        key = keys.choose(token.algorithm, token.kid)
    except TokenRejected as rejected:
        key, missing = _decoy(token.algorithm), rejected
    good = key.verifies(token.algorithm, token.signed, token.signature)
    if missing is not None:
        raise missing
    if token.key_url is not None and token.key_url != client.jwks_url:
        raise TokenRejected("its jku is not the registered one")
    if not good:
        raise TokenRejected("its signature is not good")


@cache
def _decoys() -> dict[str, list[dict[str, str]]]:
    """Public keys without a known private key, one for each algorithm.

    The RSA modulus is a random odd number, not a product of two primes: verification takes as long as with a real key, and making
    it does not delay the start. Its high bits are set, so that a signature is below it, as with a client's key.
    """
    modulus = (1 << _RSA_BITS) - 2 * secrets.randbits(_RSA_BITS - 64) - 1
    rsa = {"kty": "RSA", "alg": "RS384", "e": "AQAB", "n": to_base64url(modulus.to_bytes(_RSA_BITS // 8))}
    return {"keys": [*SigningKey("ES384").jwks["keys"], rsa]}


@cache
def _decoy(algorithm: str) -> VerificationKey:
    return KeySet.parse(_decoys()).choose(algorithm, None)
