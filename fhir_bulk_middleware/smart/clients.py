"""Who may ask for tokens: the clients that somebody has registered."""

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
    """A back-end service.

    Attributes:
        id: its client id, which becomes the `sub` of its tokens and so the owner of its jobs.
        keys: its public keys.
        scopes: what it may be granted, as SMART spells it (`system/*.rs`).
        jwks_url: where its keys are, if that is a URL: the one `jku` that its assertions may name.
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
        """A client by what it handed in.

        Args:
            client_id: its id.
            jwks: its public keys: a JWK Set as a mapping, the path of a file, an https URL, or a source of one's own.
            scopes: what it may be granted; `system/` scopes only.
            clock: what time it is.

        Raises:
            ValueError: the id is no plain text, a scope is none, or the keys cannot be used.
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
