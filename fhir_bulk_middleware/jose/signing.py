"""A private key for signing tokens, and its public key set."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jws
from jose.exceptions import JOSEError

from fhir_bulk_middleware.jose.encoding import to_base64url
from fhir_bulk_middleware.trusted_files import UntrustedFileError, make_private, read_private

__all__ = ["SigningKey"]

_RSA_BITS = 2048
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_RSA = frozenset({"RS256", "RS384", "RS512"})
_PUBLIC = ("kty", "crv", "x", "y", "n", "e", "alg", "use", "kid")
_THUMBPRINT = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


class SigningKey:
    """A private key for one algorithm.

    Args:
        algorithm: `ES256`, `ES384`, `ES512`, `RS256`, `RS384` or `RS512`.
        kid: the key id; by default the key's thumbprint (RFC 7638).
        private_jwk: a private JWK of the algorithm's type; by default a new key is generated.

    Attributes:
        algorithm: the signature algorithm.
            kid: the key id.

    Raises:
        ValueError: the algorithm of a new key is not supported.
            JOSEError: the key is not of the algorithm's type.
    """

    def __init__(self, algorithm: str = "ES384", *, kid: str | None = None, private_jwk: Mapping[str, str] | None = None) -> None:
        private = dict(_new_key(algorithm) if private_jwk is None else private_jwk)
        self.algorithm = algorithm
        self.kid = _thumbprint(private) if kid is None else kid
        self._private = private | {"alg": algorithm, "kid": self.kid, "use": "sig"}
        self._signer = jwk.construct(self._private, algorithm)

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set with the public key."""
        return {"keys": [{name: self._private[name] for name in _PUBLIC if name in self._private}]}

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any]) -> str:
        """Sign a token with exactly these claims.

        Args:
            claims: the claims.
            header: header members added to, or replacing, `alg` and `kid`; they do not change the signing key.
        """
        return jws.sign(claims, self._signer, {"kid": self.kid} | dict(header), self.algorithm)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the private key as a JWK, atomically, to a file with mode 0600.

        Raises:
            OSError: the file cannot be written.
        """
        target = Path(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # creates files with mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._text())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    @classmethod
    def kept_in(cls, path: str | os.PathLike[str], algorithm: str = "ES384") -> Self:
        """Load the key from a file; if it does not exist, generate a key and save it there.

        Concurrent calls in several processes all return the same key.

        Args:
            path: the file.
            algorithm: for a new key; an existing key keeps its own.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: as `load`.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            key = cls(algorithm)
            return key if make_private(path, key._text()) else cls.load(path)

    def _text(self) -> bytes:
        return json.dumps(self._private, indent=2).encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load a key that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            UntrustedFileError: it belongs to another user, or other users can read or write it; the message says how to fix that.
                ValueError: the file has no private key in our format.
        """
        try:
            private = json.loads(read_private(path))
            if "d" in private:
                return cls(private["alg"], kid=private["kid"], private_jwk=private)
        except UntrustedFileError:
            raise
        except (JOSEError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds no key that was saved here") from error
        raise ValueError(f"{os.fspath(path)} holds no private key")


def _new_key(algorithm: str) -> dict[str, str]:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm in _CURVES:
        key = ec.generate_private_key(_CURVES[algorithm]())
    elif algorithm in _RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    else:
        raise ValueError(f"a key signs with {', '.join((*_CURVES, *sorted(_RSA)))}")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return jwk.construct(pem, algorithm).to_dict()


def _thumbprint(key: Mapping[str, str]) -> str:
    members = {name: key[name] for name in _THUMBPRINT[key["kty"]]}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return to_base64url(hashlib.sha256(canonical.encode()).digest())
