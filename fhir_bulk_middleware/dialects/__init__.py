"""Dialects: how outcomes look over HTTP, one frozen table for each vendor or version of the standard."""

from fhir_bulk_middleware.dialects.health_connect_au import HEALTH_CONNECT_AU
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.dialects.soarian import SOARIAN
from fhir_bulk_middleware.dialects.standard import STANDARD, STU2, STU3, STU4
from fhir_bulk_middleware.dialects.subject_bound import SUBJECT_BOUND

__all__ = ["DIALECTS", "HEALTH_CONNECT_AU", "SOARIAN", "STANDARD", "STU2", "STU3", "STU4", "SUBJECT_BOUND", "Dialect"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (STANDARD, STU2, STU4, HEALTH_CONNECT_AU, SOARIAN, SUBJECT_BOUND)
}
"""The shipped dialects by name."""
