"""The resources that the suites of a storage adapter write. Override those that the storage cannot hold."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, parse

__all__ = ["Samples", "condition", "observation", "organization", "patient", "provenance"]


def patient(id_: str, text: str = "") -> str:
    """A patient."""
    return json.dumps({"resourceType": "Patient", "id": id_, "name": [{"text": text or f"of {id_}"}]})


def observation(id_: str, subject: str, text: str = "", **more: Any) -> str:
    """An observation on a subject such as `Patient/1`."""
    content = {"subject": {"reference": subject}, "code": {"text": text or f"of {id_}"}, **more}
    return json.dumps({"resourceType": "Observation", "id": id_, "status": "final", **content})


def condition(id_: str, subject: str) -> str:
    """A condition of a patient."""
    return json.dumps({"resourceType": "Condition", "id": id_, "subject": {"reference": subject}})


def organization(id_: str) -> str:
    """An organization, which is in no Patient compartment."""
    return json.dumps({"resourceType": "Organization", "id": id_, "name": f"of {id_}"})


def provenance(id_: str, *about: str) -> str:
    """A Provenance of these resources."""
    agent = [{"who": {"display": "somebody"}}]
    content = {"target": [{"reference": text} for text in about], "recorded": "2026-01-01T00:00:00Z", "agent": agent}
    return json.dumps({"resourceType": "Provenance", "id": id_, **content})


class Samples:
    """The resources that the suites write, as JSON texts, and how to read them back.

    The defaults suit a storage that keeps any JSON. For a storage with fixed types and columns, override what does not fit, and
    return your subclass from the fixture `samples`. A method that may return None does so if the storage cannot hold such a
    resource; the tests then skip it.

    Attributes:
        version: the FHIR release of the resources.
        precision: the precision of the storage's `lastUpdated`.
        record_type: a type in the Patient compartment; most tests write it.
        outside_type: a type outside of the Patient compartment, None if the storage has none.
        types: the types to test with each of their links to a patient; None for all types in the Patient compartment.
    """

    version: FhirVersion = FhirVersion.R4
    precision: Precision = Precision.MICROSECONDS
    record_type: str = "Observation"
    outside_type: str | None = "Organization"
    types: frozenset[str] | None = None

    def patient(self, id_: str, text: str = "") -> str:
        """A patient with `text` in its name, or in another element that `text_of` reads."""
        return patient(id_, text)

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """A resource of `record_type` in the compartments of these patients (`Patient/1`): none, one or two of them."""
        first, *others = patients or ("Location/1",)
        more = {"performer": [{"reference": other} for other in others]} if others else {}
        return observation(id_, first, text, **more)

    def outside(self, id_: str) -> str | None:
        """A resource of `outside_type`; None if there is no such type."""
        return None if self.outside_type is None else organization(id_)

    def naming(self, id_: str, patient: str, outside: str) -> str | None:
        """A resource of `record_type` in the compartment of this patient that names the resource `outside` of `outside_type`."""
        return observation(id_, patient, performer=[{"reference": f"Organization/{outside}"}])

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str | None:
        """A resource whose only link to a patient is a reference at this path; None if the storage has no such element.

        It has no other elements, and single elements where FHIR has lists. Override it for a storage that validates resources.

        Args:
            type_: one of `types`.
            id_: the id.
            path: element names, joined by dots: `performer.actor`.
            reference: the reference to the patient.
        """
        element: dict[str, Any] = {"reference": reference}
        for name in reversed(path.split(".")):
            element = {name: element}
        return json.dumps({"resourceType": type_, "id": id_, **element})

    def text_of(self, content: Mapping[str, Any]) -> str:
        """The `text` that `patient` or `record` was called with; its default if that was empty."""
        try:
            return str((content.get("code") or content["name"][0])["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise LookupError("the line has neither code.text nor name[0].text: override Samples.text_of") from error

    def criterion(self, text: str) -> tuple[str, str]:
        """A search parameter and its value that find the records with this `text`, and no others; for conditional deletes."""
        return "code:text", text

    def changed(self, content: Mapping[str, Any]) -> Instant:
        """The `lastUpdated` of an exported line."""
        return parse(content["meta"]["lastUpdated"])

    def paths(self) -> Iterator[tuple[str, str]]:
        """Each type of `types` with each path by which it lies in a Patient compartment.

        Includes types that HL7's CompartmentDefinition lacks although they have a search parameter `patient` (law 40). Without
        the type Patient: links between patients are treated otherwise (law 41).
        """
        for type_, paths in sorted(CompartmentMembership(self.version).paths("Patient").items()):
            if type_ != "Patient" and (self.types is None or type_ in self.types):
                for path in paths:
                    yield type_, path
