"""For adapter authors: suites that prove a promise kept, and what tests of a protected server need.

The suites are imported by module (`fhir_bulk_middleware.testing.resource_store`), since they need pytest and nothing else does.
"""

from fhir_bulk_middleware.testing.token_mint import TokenMint

__all__ = ["TokenMint"]
