"""The suite for compartments: tests each link that puts a resource into a Patient compartment, alone (KO-02, KO-03)."""

from collections import defaultdict

from fhir_bulk_middleware.contract.query import EveryPatient
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, members_of

__all__ = ["CompartmentPathsSuite"]


class CompartmentPathsSuite(StorageSuite):
    """The promises of `SupportsExport` about compartments, type by type.

    The paths are those of HL7's CompartmentDefinition, and those of the search parameter `patient` of types that it lacks, such
    as R4's Device (law 40). `Samples.types` selects the types to test; `Samples.linked` writes a link, or says that the storage
    does not have it.
    """

    async def test_each_link_to_a_patient_alone_puts_a_resource_into_the_compartment(
        self, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """For example, an observation that a patient performed on another patient."""
        written: dict[str, dict[str, str]] = defaultdict(dict)
        for number, (type_, path) in enumerate(samples.paths()):
            resource = samples.linked(type_, f"l{number}", path, "Patient/1")
            if resource is not None:
                written[type_][f"l{number}"] = path
                await writer.put(resource)
        for type_, linked in written.items():
            for selection in (members_of("Patient/1"), members_of("Patient/1", "Patient/2"), EveryPatient()):
                found = await reader.ids(await reader.query(type_, selection))
                missing = [f"{type_}.{linked[id_]}" for id_ in sorted(linked.keys() - found)]
                assert not missing, f"each link alone puts a resource into the compartment: {', '.join(missing)} did not"
                assert len(found) == len(set(found)), "a resource comes once, by whatever links it is found"
            stranger = await reader.ids(await reader.query(type_, members_of("Patient/2")))
            assert stranger == [], "a link to one patient is none to another"
