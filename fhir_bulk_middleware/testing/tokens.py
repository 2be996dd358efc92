"""Access tokens for tests and development: an issuer of one's own, whose key set `JoseTokenVerifier` takes.

Nothing here belongs into production: whoever can read the private key can be anybody.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jws
from jose.exceptions import JOSEError

from fhir_bulk_middleware.instant import Instant, system_clock

__all__ = ["TokenMint"]

_RSA_BITS = 2048
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_RSA = frozenset({"RS256", "RS384", "RS512"})
_PUBLIC = ("kty", "crv", "x", "y", "n", "e", "alg", "use", "kid")
_THUMBPRINT = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


class TokenMint:
    """An issuer with one key, which signs whatever it is asked to.

    Args:
        issuer: the tokens' `iss`.
        audience: the tokens' `aud`.
        algorithm: `ES256`, `ES384`, `ES512`, `RS256`, `RS384` or `RS512`.
        kid: the key's name; by default its thumbprint (RFC 7638).
        private_jwk: a key of the algorithm's type, private members included; by default a new one is made.

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
    ) -> None:
        private = dict(_new_key(algorithm) if private_jwk is None else private_jwk)
        self.issuer = issuer
        self.audience = audience
        self.algorithm = algorithm
        self.kid = _thumbprint(private) if kid is None else kid
        self._private = private | {"alg": algorithm, "kid": self.kid, "use": "sig"}
        self._signer = jwk.construct(self._private, algorithm)

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The key set to verify its tokens with; public members only."""
        return {"keys": [{name: self._private[name] for name in _PUBLIC if name in self._private}]}

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
        return jws.sign(claims, self._signer, {"typ": "at+jwt", "kid": self.kid} | dict(header or {}), self.algorithm)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the private key to a file (a JWK) that only its owner can read, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        target = Path(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self._private, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], issuer: str, audience: str) -> Self:
        """The mint whose key was saved in a file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no private key of ours.
        """
        private = json.loads(Path(path).read_text(encoding="utf-8"))
        try:
            if "d" in private:
                return cls(issuer, audience, private["alg"], kid=private["kid"], private_jwk=private)
        except (JOSEError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds no key that a mint has saved") from error
        raise ValueError(f"{os.fspath(path)} holds no private key")


def _new_key(algorithm: str) -> dict[str, str]:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm in _CURVES:
        key = ec.generate_private_key(_CURVES[algorithm]())
    elif algorithm in _RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    else:
        raise ValueError(f"a mint signs with {', '.join((*_CURVES, *sorted(_RSA)))}")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return jwk.construct(pem, algorithm).to_dict()


def _thumbprint(key: Mapping[str, str]) -> str:
    members = {name: key[name] for name in _THUMBPRINT[key["kty"]]}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode("ascii")
