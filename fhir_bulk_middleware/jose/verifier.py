"""The verifier of JWT access tokens."""

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

from fhir_bulk_middleware.contract.access import Principal, TokenRejected
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jose.access_token import ACCESS_TOKEN, DECLARED_ACCESS_TOKEN, LONGEST, UnverifiedToken
from fhir_bulk_middleware.jose.claims import Expectations
from fhir_bulk_middleware.jose.keys import ALGORITHMS, VerificationKey
from fhir_bulk_middleware.jose.remote import UrlKeys
from fhir_bulk_middleware.jose.sources import FileKeys, FixedKeys, KeySource
from fhir_bulk_middleware.jose.verified import VerifiedTokens, digest

__all__ = ["JoseTokenVerifier", "key_source"]

_LONGEST_LEEWAY = 300


class JoseTokenVerifier:
    """A `TokenVerifier` for JWT access tokens, with the public keys of their issuer.

    A token is valid if exactly one key of the set matches its header and verifies its signature, and if its claims meet
    `Expectations`. Valid tokens are cached for up to a minute while the key set is unchanged; their principal is shared, so
    `claims` must not be changed.

    Tokens that are bound to a key (`cnf`: RFC 8705, RFC 9449) are refused, because possession of the key is not checked.

    Args:
        jwks: the issuer's keys: a JWK Set as a mapping, the path of a file, an https URL, or a `KeySource`.
        issuer: the required `iss`.
        audience: the accepted `aud`, one or several.
        algorithms: the accepted signature algorithms, a subset of the default.
        leeway: seconds by which the issuer's clock may differ, at most 300.
        require_at_jwt: whether the header must have `typ: at+jwt` (RFC 9068); by default `JWT` or no `typ` is accepted too.
        required_claims: required claims besides `exp`, `iss`, `aud` and `sub`, such as `client_id`, `iat`, `jti`.
        longest_life: maximum lifetime in seconds (`exp - iat`, which makes `iat` required); None for no limit.
        clock: returns the current time.

    Raises:
        ValueError: a setting is insecure, or would reject all tokens.
        ImportError: `jwks` is a URL, and the extra `smart` is not installed.
    """

    def __init__(
        self,
        *,
        jwks: "KeySource | Mapping[str, Any] | str | os.PathLike[str]",
        issuer: str,
        audience: str | Collection[str],
        algorithms: Collection[str] = ALGORITHMS,
        leeway: float = 60,
        require_at_jwt: bool = False,
        required_claims: Collection[str] = (),
        longest_life: float | None = None,
        clock: Clock = system_clock,
    ) -> None:
        audiences = frozenset((audience,) if isinstance(audience, str) else audience)
        if not issuer or not audiences or not all(audiences):
            raise ValueError("issuer and audience must not be empty")
        if not (math.isfinite(leeway) and 0 <= leeway <= _LONGEST_LEEWAY):
            raise ValueError(f"leeway must be from 0 to {_LONGEST_LEEWAY} seconds")
        if longest_life is not None and not (math.isfinite(longest_life) and longest_life > 0):
            raise ValueError("longest_life must be a number of seconds above 0, or None for no limit")
        required = frozenset((required_claims,) if isinstance(required_claims, str) else required_claims)
        self._algorithms = _asymmetric(algorithms)
        self.audiences = audiences
        """The accepted values of `aud`."""
        self.issuer = issuer
        """The required value of `iss`."""
        self._expected = Expectations(
            issuer=issuer, audiences=audiences, leeway=leeway, required=required, longest_life=longest_life
        )
        self._types = DECLARED_ACCESS_TOKEN if require_at_jwt else ACCESS_TOKEN
        self._clock = clock
        self._source = key_source(jwks, clock)
        self._verified = VerifiedTokens()

    @property
    def keys(self) -> str:
        """Where the keys come from, in words."""
        told = isinstance(self._source, FixedKeys | FileKeys | UrlKeys)
        return str(self._source) if told else f"the keys of {type(self._source).__name__}"

    async def verify(self, token: str) -> Principal:
        """Verify a token and return its principal.

        Raises:
            TokenRejected: the token is invalid. The message gives the reason for the log and quotes nothing of the token.
            Refused: `BUSY`, if no key set is available.
        """
        if len(token) > LONGEST or not token.isascii():
            raise TokenRejected("longer than a token may be, or not ASCII")
        token_digest = digest(token)
        if token_digest in self._verified:
            known = self._verified.find(token_digest, await self._source.keys(), self._clock())
            if known is not None:
                return known
        return await self._verify(UnverifiedToken.parse(token, self._types), token_digest)

    async def _verify(self, token: UnverifiedToken, token_digest: bytes) -> Principal:
        if token.algorithm not in self._algorithms:
            raise TokenRejected("its alg is not allowed")
        keys = await self._source.keys()
        if token.kid is not None and token.kid not in keys.kids:
            keys = await self._source.keys_with(token.kid)
        key: VerificationKey = keys.choose(token.algorithm, token.kid)
        if not key.verifies(token.algorithm, token.signed, token.signature):
            raise TokenRejected("its signature is not good")
        now = self._clock()
        principal = self._expected.principal(token.claims(), now)
        self._verified.add(token_digest, principal, keys, now)
        return principal


def _asymmetric(algorithms: Collection[str]) -> frozenset[str]:
    chosen = frozenset((algorithms,) if isinstance(algorithms, str) else algorithms)
    if not chosen or not chosen <= frozenset(ALGORITHMS):
        raise ValueError(f"algorithms must be one or more of {', '.join(ALGORITHMS)}; symmetric ones and none are never allowed")
    return chosen


def key_source(jwks: "KeySource | Mapping[str, Any] | str | os.PathLike[str]", clock: Clock) -> KeySource:
    """Make a key source from a JWK Set as a mapping, the path of a file, an https URL, or a `KeySource`.

    Raises:
        ValueError: the set has no usable key, or the URL is not trustworthy.
        ImportError: the extra `smart` is needed for a URL and not installed.
    """
    if isinstance(jwks, Mapping):
        return FixedKeys(jwks)
    if isinstance(jwks, str) and "://" in jwks:
        return UrlKeys(jwks, clock=clock)
    if isinstance(jwks, str | os.PathLike):
        return FileKeys(jwks, clock=clock)
    return jwks
