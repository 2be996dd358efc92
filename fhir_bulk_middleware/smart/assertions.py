"""Client assertions: a JWT by which a client shows that it has its private key (SE-23; RFC 7523).

Whatever is wrong with one, the client is told only that; the reason is for our log. Nor does the time that it takes tell a
registered client from one that is not: the same work is done for both.
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

__all__ = ["ALGORITHMS", "Assertions"]

ALGORITHMS: Final = ("RS384", "ES384")
"""What an assertion may be signed with: those that SMART names."""

_TYPES: Final = frozenset({"jwt", "client-authentication+jwt"})  # an access token calls itself otherwise, and is none
_LIFETIME: Final = 300
_LEEWAY: Final = 60
_RSA_BITS: Final = 2048


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
        self._stand_ins = tuple(self._clients.values()) or (Client("", FixedKeys(_decoys()), ()),)
        self._secret = secrets.token_bytes(16)
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
        """The rejection of an assertion of nobody whom we know, after its signature was checked with keys of somebody else.

        Whose keys is a secret of this process and the same for each issuer, so that of many strangers some wait for a URL,
        some for a file, just as clients do.
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
    """Check the signature with the key that the header names: one verification, whether there is such a key or not."""
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
    """Public keys of the kinds that clients have, one for each algorithm, whose private halves nobody kept.

    The RSA modulus is a random odd number and no product of two primes: to verify with it takes as long, and to make it does not
    delay the start. Its high bits are set, so that a signature is a number below it, as with a client's key.
    """
    modulus = (1 << _RSA_BITS) - 2 * secrets.randbits(_RSA_BITS - 64) - 1
    rsa = {"kty": "RSA", "alg": "RS384", "e": "AQAB", "n": to_base64url(modulus.to_bytes(_RSA_BITS // 8))}
    return {"keys": [*SigningKey("ES384").jwks["keys"], rsa]}


@cache
def _decoy(algorithm: str) -> VerificationKey:
    return KeySet.parse(_decoys()).choose(algorithm, None)
