"""A token as it came: its parts read, and nothing in them believed."""

from dataclasses import dataclass
from typing import Any, Self

from fhir_bulk_middleware.caps import TOKEN_BYTES
from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.jose.encoding import from_base64url, json_object

__all__ = ["ACCESS_TOKEN", "DECLARED_ACCESS_TOKEN", "LONGEST", "UnverifiedToken"]

LONGEST = TOKEN_BYTES
"""How long a token may be, in characters; a longer one is not even taken apart."""

_LONGEST_KID = 256
_SEGMENTS = 3

DECLARED_ACCESS_TOKEN = frozenset({"at+jwt", "application/at+jwt"})
"""What an access token calls itself, so that it is not taken for a token of another kind (RFC 9068, section 2.1)."""

ACCESS_TOKEN = DECLARED_ACCESS_TOKEN | {"jwt"}
"""What an access token may call itself (RFC 8725, section 3.11). Most issuers say JWT, many nothing, which counts as JWT."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A compact JWS, taken apart (RFC 7515, section 7.1).

    Attributes:
        algorithm: the header's `alg`, whatever it says.
        kid: the header's `kid`.
        signed: the bytes that were signed.
        signature: the signature.
        payload: the claims, still encoded as JSON.
        key_url: the header's `jku`, whatever it says; keys are never fetched from it.
    """

    algorithm: str
    kid: str | None
    signed: bytes
    signature: bytes
    payload: bytes
    key_url: object = None

    @classmethod
    def parse(cls, token: str, types: frozenset[str] = ACCESS_TOKEN) -> Self:
        """Take a token apart.

        Members of the header that name or hold a key (`jku`, `jwk`, `x5u`, `x5c`) are not followed: whose keys count is not for
        the token to say.

        Args:
            token: as it came.
            types: what it may call itself in `typ`, in lower case, so that a token of one kind is not taken for another.

        Raises:
            TokenRejected: it is no compact JWS, encrypted, or needs an extension (`crit`), of which we know none.
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
        """The claims; ask only after the signature was verified.

        Raises:
            TokenRejected: they are no JSON object.
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
    """What was wrong, without quoting the token: our own messages say it, those of the library are not repeated."""
    return str(error) if type(error) is ValueError else type(error).__name__
