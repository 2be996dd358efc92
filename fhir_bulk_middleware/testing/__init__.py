"""For tests of hosts and adapters: tokens to call them with."""

from fhir_bulk_middleware.testing.tokens import TokenMint

__all__ = ["TokenMint"]
