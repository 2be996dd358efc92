"""The FHIR releases that this package carries definitions for."""

from enum import StrEnum


class FhirVersion(StrEnum):
    """A FHIR release, by the number that HL7 publishes it under and that `CapabilityStatement.fhirVersion` shows."""

    R4 = "4.0.1"
    R4B = "4.3.0"
    R5 = "5.0.0"
