"""The kick-off parameters of the Bulk Data IG (section 1.2 of the requirements).

The dialect and the adapter decide which of them a mount supports.
"""

from dataclasses import dataclass

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.files.format import MEDIA_TYPE

__all__ = ["PARAMETERS", "ExportParameter"]

_EVERYWHERE = frozenset(Level)
_OF_PATIENTS = frozenset({Level.PATIENT, Level.GROUP})


@dataclass(frozen=True, slots=True)
class ExportParameter:
    """One kick-off parameter.

    Attributes:
        name: its name.
        type: the FHIR type of its value in a Parameters resource.
        meaning: a description for documents.
        example: an example value as text.
        many: whether it can have several values.
        levels: the export levels that it applies to.
    """

    name: str
    type: str
    meaning: str
    example: str
    many: bool = False
    levels: frozenset[Level] = _EVERYWHERE


PARAMETERS = (
    ExportParameter("_outputFormat", "string", "The format of the files; NDJSON under any of its names.", MEDIA_TYPE),
    ExportParameter("_since", "instant", "Only resources that changed after this instant.", "2026-01-31T09:30:00Z"),
    ExportParameter("_until", "instant", "Only resources whose last change is not later than this.", "2026-02-28T00:00:00Z"),
    ExportParameter(
        "_type", "string", "Only resources of these types. One that cannot occur at the level is refused.", "Patient", many=True
    ),
    ExportParameter(
        "_elements", "string", "Only these root elements, and those that are mandatory.", "Patient.birthDate", many=True
    ),
    ExportParameter("patient", "Reference", "Only these patients' data.", "Patient/123", many=True, levels=_OF_PATIENTS),
    ExportParameter(
        "includeAssociatedData",
        "code",
        "Which Provenance goes with the resources.",
        "LatestProvenanceResources",
        many=True,
    ),
    ExportParameter(
        "_typeFilter",
        "string",
        "A search on one type; of several on the same type any suffices. It does not restrict what others refer to.",
        "Patient?birthdate=lt2010-01-01",
        many=True,
    ),
    ExportParameter(
        "organizeOutputBy", "string", "Files hold whole patients, one after the other.", "Patient", levels=_OF_PATIENTS
    ),
    ExportParameter(
        "allowPartialManifests", "boolean", "The manifest may come in linked pages, the first before the end.", "true"
    ),
    ExportParameter("_minimumFileSize", "positiveInt", "Bytes that a file should have at least.", "1000000"),
    ExportParameter("_maximumFileSize", "positiveInt", "Bytes that a file may have at most.", "100000000"),
)
"""All parameters, in the order of the IG (KO-20 to KO-30)."""
