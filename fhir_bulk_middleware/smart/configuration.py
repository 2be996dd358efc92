"""The document at `.well-known/smart-configuration` (SE-20 to SE-22)."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["SMART_PATH", "AbsoluteUrl", "SmartConfiguration"]

SMART_PATH = "/.well-known/smart-configuration"
"""The path of the document, below a FHIR server's base URL."""


def _absolute(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or parts.username is not None:
        raise ValueError("must be an absolute http or https URL without fragment or user")
    return url


AbsoluteUrl = Annotated[str, AfterValidator(_absolute)]
"""An http or https URL with a host."""


class SmartConfiguration(BaseModel):
    """The SMART configuration. Its defaults describe an authorization server for back-end services."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_endpoint: AbsoluteUrl
    """The URL of the token endpoint."""

    issuer: AbsoluteUrl | None = None
    """The issuer of ID tokens, if the server has any."""

    jwks_uri: AbsoluteUrl | None = None
    """The URL of the authorization server's public keys."""

    authorization_endpoint: AbsoluteUrl | None = None
    """The URL of the authorization endpoint, if users sign in."""

    grant_types_supported: tuple[str, ...] = ("client_credentials",)
    capabilities: tuple[str, ...] = ("client-confidential-asymmetric", "permission-v1", "permission-v2")
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("private_key_jwt",)
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] = ("RS384", "ES384")
    scopes_supported: tuple[str, ...] = ("system/*.rs", "system/*.read")
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)

    def document(self) -> dict[str, Any]:
        """The document as published, without unset members."""
        return self.model_dump(mode="json", exclude_none=True)
