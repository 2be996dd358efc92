"""The document at `.well-known/smart-configuration` (SE-20 to SE-22)."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["SMART_PATH", "AbsoluteUrl", "SmartConfiguration"]

SMART_PATH = "/.well-known/smart-configuration"
"""Where it is read, below a FHIR server's base."""


def _absolute(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or parts.username is not None:
        raise ValueError("must be an absolute http or https URL without fragment or user")
    return url


AbsoluteUrl = Annotated[str, AfterValidator(_absolute)]
"""An http or https URL with a host."""


class SmartConfiguration(BaseModel):
    """How a client gets a token for this server. The defaults are those of an authorization server for back-end services."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_endpoint: AbsoluteUrl
    """Where tokens are asked for."""

    issuer: AbsoluteUrl | None = None
    """The issuer of ID tokens; only where there are any."""

    jwks_uri: AbsoluteUrl | None = None
    """The authorization server's public keys."""

    authorization_endpoint: AbsoluteUrl | None = None
    """Where users sign in; only where there are any."""

    grant_types_supported: tuple[str, ...] = ("client_credentials",)
    capabilities: tuple[str, ...] = ("client-confidential-asymmetric", "permission-v1", "permission-v2")
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("private_key_jwt",)
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] = ("RS384", "ES384")
    scopes_supported: tuple[str, ...] = ("system/*.rs", "system/*.read")
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)

    def document(self) -> dict[str, Any]:
        """As it is published: what is not known is left out."""
        return self.model_dump(mode="json", exclude_none=True)
