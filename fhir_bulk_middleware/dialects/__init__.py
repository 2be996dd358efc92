"""How the outcomes of the domain look on the wire: one frozen table per vendor or version of the standard."""

from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.dialects.standard import STANDARD

__all__ = ["DIALECTS", "STANDARD", "Dialect"]

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (STANDARD,)}
"""The dialects that we ship, by name."""
