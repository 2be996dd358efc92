"""Checks the claims of an access token and makes its principal (SE-05, law 9)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhir_bulk_middleware.contract.access import Owner, Principal, TokenRejected
from fhir_bulk_middleware.instant import Instant, after

__all__ = ["Expectations", "moment", "name_in"]

_LONGEST_NAME = 255  # OpenID Connect Core, section 2, for `sub`
_LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z in seconds
_CLIENT_CLAIMS = ("client_id", "azp", "cid")
_SCOPE_CLAIMS = ("scope", "scp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """Requirements on the claims of an access token.

    `exp`, `iss`, `aud` and `sub` are always required. `jti` and a maximum lifetime are required of client assertions only, unless
    an operator requires them here too (law 9).

    Attributes:
        issuer: the required `iss`, compared exactly.
        audiences: the accepted values of `aud`; one must be present.
        leeway: seconds by which the issuer's clock may differ.
        required: further claims that must be present and not null.
        longest_life: maximum seconds between `iat` and `exp`, which makes `iat` required; None for no limit.
    """

    issuer: str
    audiences: frozenset[str]
    leeway: float
    required: frozenset[str] = frozenset()
    longest_life: float | None = None

    def principal(self, claims: dict[str, Any], now: Instant) -> Principal:
        """Check the claims of a token with a valid signature and return its principal.

        Raises:
            TokenRejected: a claim is missing, of the wrong type, or not the required one.
        """
        expires_at = moment(claims, "exp")
        if expires_at is None:
            raise TokenRejected("it has no exp")
        if now >= after(expires_at, self.leeway):
            raise TokenRejected("it has expired")
        for name in ("nbf", "iat"):
            begin = moment(claims, name)
            if begin is not None and now < after(begin, -self.leeway):
                raise TokenRejected(f"its {name} lies ahead")
        if claims.get("iss") != self.issuer:
            raise TokenRejected("its iss is not the expected one")
        if self.audiences.isdisjoint(_audiences(claims)):
            raise TokenRejected("its aud is none of ours")
        if missing := sorted(name for name in self.required if claims.get(name) is None):
            raise TokenRejected(f"it has no {', '.join(missing)}, which is required here")
        self._check_life(claims, expires_at)
        _check_unbound(claims)
        return Principal(
            owner=Owner(self.issuer, name_in(claims, "sub")),
            scopes=_scopes(claims),
            expires_at=expires_at,
            client_id=_client_id(claims),
            claims=claims,
        )

    def _check_life(self, claims: Mapping[str, Any], expires_at: Instant) -> None:
        if self.longest_life is None:
            return
        issued_at = moment(claims, "iat")
        if issued_at is None:
            raise TokenRejected("it has no iat, so that its life cannot be measured")
        if expires_at > after(issued_at, self.longest_life):
            raise TokenRejected(f"its exp lies more than {self.longest_life:g} seconds after its iat")


def moment(claims: Mapping[str, Any], name: str) -> Instant | None:
    """The instant in a claim (`exp`, `nbf`, `iat`); None if the claim is missing.

    Raises:
        TokenRejected: it is not a number, or out of range.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRejected(f"its {name} is not a number")
    if not 0 <= value <= _LATEST:
        raise TokenRejected(f"its {name} is out of range")
    return Instant(math.floor(value * 1_000_000))


def name_in(claims: Mapping[str, Any], claim: str) -> str:
    """The text of a claim (`sub`, `client_id`, `jti`).

    Raises:
        TokenRejected: the claim is missing, or not printable text of at most the maximum length.
    """
    value = claims.get(claim)
    # Printable text has no lone surrogates, which stores could not keep.
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_NAME or not value.isprintable():
        raise TokenRejected(f"its {claim} is missing, or not printable text of at most {_LONGEST_NAME} characters")
    return value


def _audiences(claims: dict[str, Any]) -> list[str]:
    value = claims.get("aud")
    values: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(audience, str) for audience in values):
        raise TokenRejected("its aud is missing, or neither a string nor a list of strings")
    return values


def _check_unbound(claims: Mapping[str, Any]) -> None:
    """Refuse a token that is bound to a key (RFC 7800, `cnf`): by a TLS certificate (RFC 8705) or by DPoP (RFC 9449).

    The bearer must prove possession of the key. That proof is not checked here, and without it a stolen token would be as good as
    the client's own.
    """
    if "cnf" in claims:
        raise TokenRejected("it is bound to a key (cnf), and proofs of possession are not checked here; issue bearer tokens")


def _client_id(claims: dict[str, Any]) -> str | None:
    """The client id. Issuers use different claims; the standard one (RFC 9068, section 2.2) is read first."""
    return next((name_in(claims, claim) for claim in _CLIENT_CLAIMS if claim in claims), None)


def _scopes(claims: dict[str, Any]) -> tuple[str, ...]:
    """The granted scopes: a string with blanks or a list, in `scope` or `scp`. Without scopes the token permits nothing."""
    value: object = next((claims[claim] for claim in _SCOPE_CLAIMS if claim in claims), "")
    scopes = value.split(" ") if isinstance(value, str) else value
    if not isinstance(scopes, list) or not all(isinstance(scope, str) and (not scope or scope.isprintable()) for scope in scopes):
        raise TokenRejected("its scopes are neither text nor a list of texts")
    return tuple(filter(None, scopes))
