"""An unverified token, split into its parts."""

from dataclasses import dataclass
from typing import Any, Self

from fhir_bulk_middleware.caps import TOKEN_BYTES
from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.jose.encoding import from_base64url, json_object

__all__ = ["ACCESS_TOKEN", "DECLARED_ACCESS_TOKEN", "LONGEST", "UnverifiedToken"]

LONGEST = TOKEN_BYTES
"""Maximum length of a token in characters; longer ones are not parsed."""

_LONGEST_KID = 256
_SEGMENTS = 3

DECLARED_ACCESS_TOKEN = frozenset({"at+jwt", "application/at+jwt"})
"""The `typ` of access tokens, which distinguishes them from other tokens (RFC 9068, section 2.1)."""

ACCESS_TOKEN = DECLARED_ACCESS_TOKEN | {"jwt"}
"""The accepted `typ` of access tokens (RFC 8725, section 3.11). Most issuers use JWT or omit it, which counts as JWT."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """The parts of a compact JWS (RFC 7515, section 7.1).

    Attributes:
        algorithm: the header's `alg`, unchecked.
        kid: the header's `kid`.
        signed: the signed bytes.
        signature: the signature.
        payload: the claims as JSON text.
        key_url: the header's `jku`; keys are never fetched from it.
    """

    algorithm: str
    kid: str | None
    signed: bytes
    signature: bytes
    payload: bytes
    key_url: object = None

    @classmethod
    def parse(cls, token: str, types: frozenset[str] = ACCESS_TOKEN) -> Self:
        """Parse a token.

        Header members that name or contain a key (`jku`, `jwk`, `x5u`, `x5c`) are not used to select keys.

        Args:
            token: the compact JWS.
            types: the accepted values of `typ`, in lower case.

        Raises:
            TokenRejected: the text is not a compact JWS, is encrypted, or requires an extension (`crit`; none is supported).
        """
        segments = token.split(".")
        if len(segments) != _SEGMENTS:
            raise TokenRejected("not three segments: no signed token in compact form")
        try:
            header, payload, signature = map(from_base64url, segments)
            members = json_object(header)
        except ValueError as error:
            raise TokenRejected(f"malformed: {_plain(error)}") from None
        algorithm, kid = _checked(members, types)
        return cls(algorithm, kid, f"{segments[0]}.{segments[1]}".encode("ascii"), signature, payload, members.get("jku"))

    def claims(self) -> dict[str, Any]:
        """The claims; call it only after the signature was verified.

        Raises:
            TokenRejected: the claims are not a JSON object.
        """
        try:
            return json_object(self.payload)
        except ValueError as error:
            raise TokenRejected(f"malformed claims: {_plain(error)}") from None


def _checked(header: dict[str, Any], types: frozenset[str]) -> tuple[str, str | None]:
    if header.keys() & {"crit", "b64", "enc", "zip"}:
        raise TokenRejected("its header has crit, b64, enc or zip")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise TokenRejected("its alg is not a string")
    type_ = header.get("typ", "JWT")
    if not isinstance(type_, str) or type_.lower() not in types:
        raise TokenRejected("its typ is that of another kind of token")
    kid = header.get("kid")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= _LONGEST_KID):
        raise TokenRejected("its kid is not a string of a sane length")
    return algorithm, kid


def _plain(error: ValueError) -> str:
    """The error message if it is ours; messages of libraries may quote the token and are replaced."""
    return str(error) if type(error) is ValueError else type(error).__name__
