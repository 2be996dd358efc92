"""Imports pytest, which only the suites need, and says so if it is missing."""

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "the suites of fhir_bulk_middleware.testing need pytest: pip install 'fhir-bulk-middleware[testing]'"
    ) from error

__all__ = ["pytest"]
