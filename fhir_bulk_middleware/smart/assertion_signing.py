"""Signs client assertions (SE-23; RFC 7523), for clients and tests; `assertions` verifies them."""

import secrets

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jose.signing import SigningKey

__all__ = ["signed_assertion"]


def signed_assertion(key: SigningKey, client_id: str, token_url: str, *, now: Instant, seconds: int) -> str:
    """A client assertion with a new `jti`.

    Args:
        key: the client's private key.
        client_id: the client's id, as it is registered.
        token_url: the URL of the token endpoint.
        now: the instant of issue.
        seconds: the lifetime; authorization servers accept 300 at most.
    """
    issued_at = now // 1_000_000
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "iat": issued_at,
        "exp": issued_at + seconds,
        "jti": secrets.token_urlsafe(16),
    }
    return key.sign(claims, {"typ": "JWT"})
