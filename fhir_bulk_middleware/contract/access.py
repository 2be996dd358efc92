"""The client of a request: the principal behind a bearer token, and the owner that a job keeps."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from fhir_bulk_middleware.instant import Instant

__all__ = ["Caller", "Owner", "Principal", "TokenRejected", "TokenVerifier"]


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a job (law 7). A subject is unique only per issuer, so both are part of it.

    Attributes:
        issuer: the token's `iss`.
        subject: the token's `sub`.
        client: the OAuth client, if `Settings.owner_includes_client` makes it part of ownership; else None.
    """

    issuer: str
    subject: str
    client: str | None = None

    def __hash__(self) -> int:
        """Of the subject alone, since each request is counted for its owner, and few issuers have the same subject."""
        return hash(self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The request that caused an event, as audit records name it (law 37).

    Attributes:
        client_id: the OAuth client, if the token names one.
        address: the address of the client's machine, from the ASGI server (`scope["client"]`), which decides about forwarded
            headers.
        request_id: the id that the response carries.
    """

    client_id: str | None = None
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The bearer of a verified token.

    Attributes:
        owner: issuer and subject, and by setting the client; what a job keeps for ownership.
        scopes: the granted SMART scopes, one string each, as the token spells them.
        client_id: the OAuth client, if the token names one.
        expires_at: when the token expires (`exp`).
        claims: the token's claims, for adapters with their own row rights; never logged.
        caller: the request that carried the token; None for a token that was verified outside of a request.
    """

    owner: Owner
    scopes: tuple[str, ...]
    expires_at: Instant
    client_id: str | None = None
    claims: dict[str, object] = field(default_factory=dict, repr=False, compare=False)
    caller: Caller | None = field(default=None, compare=False)

    def called(self, caller: Caller) -> "Principal":
        """The bearer of the same token in another request."""
        if type(self) is not Principal:  # a verifier of the host's own may say more
            return replace(self, caller=caller)
        return Principal(
            owner=self.owner,
            scopes=self.scopes,
            expires_at=self.expires_at,
            client_id=self.client_id,
            claims=self.claims,
            caller=caller,
        )


class TokenRejected(Exception):  # noqa: N818 - a bad token is an outcome, not an error of the program
    """A bearer token is not valid. The message is for our log; the client learns only that the token was refused."""


class TokenVerifier(Protocol):
    """Turns a bearer token into a principal. Implemented by `JoseTokenVerifier`. Runs in the server, with each request.

    It gets the token and not the request, so it cannot check a proof of possession. Your own implementation must therefore
    refuse a token that is bound to a key: a JWT or an introspection response with the claim `cnf` (RFC 8705 and RFC 9449,
    section 6) or with `token_type` `DPoP`. Accepted as a plain bearer token, a stolen one would be as good as the client's own.
    """

    async def verify(self, token: str) -> Principal:
        """The principal of a valid token.

        Raises:
            TokenRejected: the token is not valid; the message goes to the log, so it must not quote the token.
            Refused: `BUSY`, if the keys or the service that it is checked with are not available now.
        """
