"""Makes the relative URLs of attachments absolute, so that they work outside this server (FR-19).

Files do not hold the content of a Binary (FR-22), which lies in no compartment. Clients fetch it through the attachment of a
DocumentReference (KO-84) by the host's own `GET Binary/{id}`; the host decides whether the export's token may (FR-20).
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
    """Whether the type has an element of type Attachment, not counting extensions."""
    return resource_type in _ATTACHING or (version is FhirVersion.R5 and resource_type in _ATTACHING_R5)


def absolute(lines: bytes, base_url: str) -> bytes:
    """Canonical lines, with each `"url":"Binary/..."` made absolute below the base URL."""
    if _LITERAL not in lines:
        return lines
    return _RELATIVE.sub(b'"url":"' + base_url.encode().replace(b"\\", b"\\\\") + b"/", lines)
