"""FHIR Bulk Data export and safe deletes for existing FHIR servers."""

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.dialects import STANDARD, Dialect
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.middleware import BulkDataMiddleware
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.principal import Owner, Principal, TokenRejected
from fhir_bulk_middleware.settings import Settings

__all__ = [
    "STANDARD",
    "BulkData",
    "BulkDataMiddleware",
    "Dialect",
    "FhirVersion",
    "JoseTokenVerifier",
    "Operation",
    "Owner",
    "Principal",
    "Reason",
    "Refused",
    "Settings",
    "TokenRejected",
]
