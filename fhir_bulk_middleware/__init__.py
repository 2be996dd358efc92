"""FHIR Bulk Data export and safe deletes for existing FHIR servers.

The names below are imported when they are first used: a worker process, which needs few of them, starts sooner.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fhir_bulk_middleware.app import BulkData
    from fhir_bulk_middleware.contract.access import Owner, Principal, TokenRejected
    from fhir_bulk_middleware.delete.policy import AIDBOX, FHIR_R4, FHIR_R6_DRAFT, DeletePolicy
    from fhir_bulk_middleware.dialects import (
        HEALTH_CONNECT_AU,
        SOARIAN,
        STANDARD,
        STU2,
        STU3,
        STU4,
        SUBJECT_BOUND,
        Dialect,
    )
    from fhir_bulk_middleware.fhir.version import FhirVersion
    from fhir_bulk_middleware.jose import JoseTokenVerifier
    from fhir_bulk_middleware.middleware import BulkDataMiddleware
    from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
    from fhir_bulk_middleware.settings import Settings

__all__ = [
    "AIDBOX",
    "FHIR_R4",
    "FHIR_R6_DRAFT",
    "HEALTH_CONNECT_AU",
    "SOARIAN",
    "STANDARD",
    "STU2",
    "STU3",
    "STU4",
    "SUBJECT_BOUND",
    "BulkData",
    "BulkDataMiddleware",
    "DeletePolicy",
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

_MODULES = {
    "AIDBOX": "delete.policy",
    "FHIR_R4": "delete.policy",
    "FHIR_R6_DRAFT": "delete.policy",
    "DeletePolicy": "delete.policy",
    "BulkData": "app",
    "BulkDataMiddleware": "middleware",
    "FhirVersion": "fhir.version",
    "JoseTokenVerifier": "jose",
    "Operation": "outcomes",
    "Reason": "outcomes",
    "Refused": "outcomes",
    "Owner": "contract.access",
    "Principal": "contract.access",
    "TokenRejected": "contract.access",
    "Settings": "settings",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'dialects')}")
    return getattr(module, name)
