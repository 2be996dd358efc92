"""Attachments that lie on this server: their relative URLs made absolute (FR-19), so that a file can be read anywhere.

The content of a Binary does not go into files (FR-22). At Patient and Group level it is reached through the attachment of a
DocumentReference (KO-84), for a Binary lies in no compartment. The URL leads to the host's own `GET Binary/{id}`, which the token
of the export opens as far as the host lets it (FR-20).
"""

import re

from fhir_bulk_middleware.fhir.version import FhirVersion

__all__ = ["absolute", "may_attach"]

_LITERAL = b'"url":"Binary/'
# Behind a brace or a comma a quote begins a member's name: within a string there would be a backslash before it.
_RELATIVE = re.compile(rb'(?<=[{,])"url":"(?=Binary/)')

_ATTACHING = frozenset(
    {"ActivityDefinition", "AdministrableProductDefinition", "BiologicallyDerivedProduct", "BodyStructure", "Citation", "Claim"}
    | {"ClaimResponse", "Communication", "CommunicationRequest", "Consent", "Contract", "DeviceDefinition", "DiagnosticReport"}
    | {"DocumentReference", "EventDefinition", "Evidence", "EvidenceReport", "EvidenceVariable", "ExplanationOfBenefit"}
    | {"HealthcareService", "Library", "ManufacturedItemDefinition", "Measure", "Media", "MolecularSequence"}
    | {"PackagedProductDefinition", "Parameters", "Patient", "Person", "PlanDefinition", "Practitioner", "Questionnaire"}
    | {"QuestionnaireResponse", "RelatedPerson", "ResearchDefinition", "ResearchElementDefinition", "ResearchStudy"}
    | {"SubstanceNucleicAcid", "SubstancePolymer", "SubstanceProtein", "Task", "Transport"}
)
_ATTACHING_R5 = frozenset({"Observation", "Requirements", "SpecimenDefinition"})


def may_attach(resource_type: str, version: FhirVersion) -> bool:
    """Whether the type has an element that can be an Attachment, extensions aside."""
    return resource_type in _ATTACHING or (version is FhirVersion.R5 and resource_type in _ATTACHING_R5)


def absolute(lines: bytes, base_url: str) -> bytes:
    """Canonical lines with each `"url":"Binary/..."` below the base URL. Mostly there is none, and then it is one search."""
    if _LITERAL not in lines:
        return lines
    return _RELATIVE.sub(b'"url":"' + base_url.encode().replace(b"\\", b"\\\\") + b"/", lines)
