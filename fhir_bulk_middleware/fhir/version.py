"""The FHIR releases that this package has definitions of."""

from enum import StrEnum


class FhirVersion(StrEnum):
    """A FHIR release; the value is its number, as in `CapabilityStatement.fhirVersion`."""

    R4 = "4.0.1"
    R4B = "4.3.0"
    R5 = "5.0.0"
