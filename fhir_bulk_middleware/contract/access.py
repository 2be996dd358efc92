"""Who asks: the principal behind a bearer token, and the owner that a job remembers."""

from dataclasses import dataclass, field
from typing import Protocol

from fhir_bulk_middleware.instant import Instant

__all__ = ["Caller", "Owner", "Principal", "TokenRejected", "TokenVerifier"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a job is (law 7). A subject is unique only per issuer, so both belong to it.

    Attributes:
        issuer: the token's `iss`.
        subject: the token's `sub`.
        client: the OAuth client, where `Settings.owner_includes_client` makes it a part of ownership; else None.
    """

    issuer: str
    subject: str
    client: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The request behind what happens, as audit records name it (law 37).

    Attributes:
        client_id: the OAuth client, when the token names one.
        address: of the machine that the request came from, as the server says it (`scope["client"]`); which forwarded headers to
            believe is the server's business.
        request_id: the id that the reply carries.
    """

    client_id: str | None = None
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """What a verified token says about its bearer.

    Attributes:
        owner: issuer and subject, and the client where a setting says so; all that a job keeps for ownership.
        scopes: the granted SMART scopes, one string each, as the token spells them.
        client_id: the OAuth client, when the token names one.
        expires_at: when the token stops being good (`exp`).
        claims: the token's claims, for adapters with row rights of their own; never logged.
        caller: the request that the token came with; None where it was verified for nobody's request.
    """

    owner: Owner
    scopes: tuple[str, ...]
    expires_at: Instant
    client_id: str | None = None
    claims: dict[str, object] = field(default_factory=dict, repr=False, compare=False)
    caller: Caller | None = field(default=None, compare=False)


class TokenRejected(Exception):  # noqa: N818 - a bad token is an outcome, not an error of the program
    """A bearer token that is not good. The message is for our log; the client learns only that it was refused."""


class TokenVerifier(Protocol):
    """Turns a bearer token into a principal.

    It is given the token alone, and not the request, so it cannot check a proof of possession. An implementation of one's own
    must therefore refuse a token that is bound to a key: a JWT, or an answer to token introspection, with the claim `cnf`
    (RFC 8705 and RFC 9449, section 6) or with `token_type` `DPoP`. To accept it as a plain bearer token would make a stolen
    token as good as the client's own.
    """

    async def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises:
            TokenRejected: it is not good, for whatever reason; the message goes to the log, so it must not quote the token.
            Refused: `BUSY`, if that cannot be told just now, because what it is checked with is not to be had.
        """
