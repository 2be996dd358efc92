"""Registered clients of the authorization server."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jose.sources import KeySource
from fhir_bulk_middleware.jose.verifier import key_source
from fhir_bulk_middleware.scopes import Scope

__all__ = ["Client"]


@dataclass(frozen=True, slots=True)
class Client:
    """A registered back-end service.

    Attributes:
        id: its client id; it becomes the `sub` of its tokens, which is part of the owner of its jobs.
        keys: its public keys.
        scopes: the scopes that it can be granted, such as `system/*.rs`.
        jwks_url: the URL of its keys, or None; its assertions may have this `jku` only.
    """

    id: str
    keys: KeySource = field(repr=False)
    scopes: tuple[Scope, ...]
    jwks_url: str | None = None

    @classmethod
    def registered(
        cls,
        client_id: str,
        jwks: KeySource | Mapping[str, Any] | str | os.PathLike[str],
        scopes: Iterable[str] = ("system/*.rs",),
        clock: Clock = system_clock,
    ) -> Self:
        """Make a client from its registration data.

        Args:
            client_id: its id.
            jwks: its public keys: a JWK Set as a mapping, the path of a file, an https URL, or a `KeySource`.
            scopes: the scopes that it can be granted; `system/` scopes only.
            clock: returns the current time.

        Raises:
            ValueError: the id is not printable text, a scope is invalid, or no key can be used.
            ImportError: `jwks` is a URL, and the extra `smart` is not installed.
        """
        if not client_id or not client_id.isprintable() or client_id != client_id.strip():
            raise ValueError("a client id must be printable text")
        parsed = [(text, Scope.parse(text)) for text in scopes]
        wrong = [text for text, scope in parsed if scope is None or scope.context != "system"]
        if wrong or not parsed:
            raise ValueError(f"a client needs system/ scopes such as system/*.rs, not {', '.join(wrong) or 'none'}")
        url = jwks if isinstance(jwks, str) and "://" in jwks else None
        return cls(client_id, key_source(jwks, clock), tuple(scope for _, scope in parsed if scope is not None), url)
