"""pytest, which the suites need and nothing else of the package does."""

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "the suites of fhir_bulk_middleware.testing need pytest: pip install 'fhir-bulk-middleware[testing]'"
    ) from error

__all__ = ["pytest"]
