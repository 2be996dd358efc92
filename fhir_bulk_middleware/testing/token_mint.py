"""Access tokens for tests and development: an issuer of one's own, whose key set `JoseTokenVerifier` takes.

Nothing here belongs into production: it signs whatever it is asked to, so whoever can read the private key can be anybody.
"""

import os
from collections.abc import Mapping
from typing import Any, Self

from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.jose.signing import SigningKey

__all__ = ["TokenMint"]


class TokenMint:
    """An issuer with one key, which signs whatever it is asked to.

    Args:
        issuer: the tokens' `iss`.
        audience: the tokens' `aud`.
        algorithm: `ES256`, `ES384`, `ES512`, `RS256`, `RS384` or `RS512`.
        kid: the key's name; by default its thumbprint (RFC 7638).
        private_jwk: a key of the algorithm's type, private members included; by default a new one is made.
        key: a key that there is already, instead of the three above.

    Attributes:
        issuer: the tokens' `iss`.
        audience: the tokens' `aud`.
        algorithm: what it signs with.
        kid: the key's name.

    Raises:
        ValueError: a new key is to be made, and the algorithm is none of those.
        JOSEError: the key is none of the algorithm's type.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        algorithm: str = "ES384",
        *,
        kid: str | None = None,
        private_jwk: Mapping[str, str] | None = None,
        key: SigningKey | None = None,
    ) -> None:
        self._key = SigningKey(algorithm, kid=kid, private_jwk=private_jwk) if key is None else key
        self.issuer = issuer
        self.audience = audience
        self.algorithm = self._key.algorithm
        self.kid = self._key.kid

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The key set to verify its tokens with; public members only."""
        return self._key.jwks

    def token(
        self,
        subject: str,
        scope: str,
        *,
        client_id: str | None = None,
        expires_in: float = 300,
        now: Instant | None = None,
        **overrides: Any,
    ) -> str:
        """An access token.

        Args:
            subject: its `sub`.
            scope: its scopes, with blanks between them.
            client_id: its `client_id`; without one the claim is left out.
            expires_in: seconds from `now` until it expires; negative for one that has.
            now: when it is issued; by default now.
            **overrides: claims to set, or, with the value None, to leave out.
        """
        issued_at = (system_clock() if now is None else now) // 1_000_000
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "scope": scope,
            "client_id": client_id,
            "iat": issued_at,
            "exp": issued_at + expires_in,
        }
        return self.sign({name: value for name, value in (claims | overrides).items() if value is not None})

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """A token with just these claims.

        Args:
            claims: all that it says.
            header: members of its header beside, or instead of, `alg`, `typ` and `kid`; whatever it says, this mint's algorithm
                signs.
        """
        return self._key.sign(claims, {"typ": "at+jwt"} | dict(header or {}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the private key to a file (a JWK) that only its owner can read, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        self._key.save(path)

    @classmethod
    def kept_in(cls, path: str | os.PathLike[str], issuer: str, audience: str) -> Self:
        """The mint whose key is in a file; one key is made there, whoever comes first, if there is no such file.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: as `load`.
        """
        return cls(issuer, audience, key=SigningKey.kept_in(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], issuer: str, audience: str) -> Self:
        """The mint whose key was saved in a file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no private key of ours, or other users may read or write it.
        """
        return cls(issuer, audience, key=SigningKey.load(path))
