"""Context: what exported resources name and what lies in nobody's compartment comes along (law 40)."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import BASE, KICK_OFF, HandClock, House

from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.dialects import STANDARD, STU4, Dialect
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

Store = MemoryResourceStore | SQLiteResourceStore
EXPORT = "/Group/g/$export"


@pytest.fixture(params=["memory", "sqlite"])
async def cohort(request: pytest.FixtureRequest, make_house: Any, tmp_path: Path) -> AsyncIterator[tuple[House, Store]]:
    """A house on each of our stores, with a group of one patient beside a stranger."""
    clock = HandClock()
    store: Store = (
        MemoryResourceStore(clock=clock, base_urls=[BASE])
        if request.param == "memory"
        else SQLiteResourceStore(tmp_path / "s.db", clock=clock, base_urls=[BASE])
    )
    async with make_house(parts={"resources": store, "clock": clock}) as house:
        house.clock = clock
        for patient in ("member", "stranger"):
            await put(house, store, "Patient", patient)
        member = [{"entity": {"reference": "Patient/member"}}]
        await put(house, store, "Group", "g", type="person", actual=True, member=member)
        yield house, store
    if isinstance(store, SQLiteResourceStore):
        store.close()


async def put(house: House, store: Store, type_: str, id_: str, **content: Any) -> None:
    await store.update(type_, id_, {"resourceType": type_, "id": id_, **content})
    house.clock.advance(1)


async def held(house: House, path: str = EXPORT, **more: Any) -> dict[str, list[str]]:
    """The ids in an export by type, in the order of the files; each once."""
    lines = await house.lines(await house.export(path, **more))
    found = {type_: [json.loads(line)["id"] for line in some] for type_, some in lines.items()}
    assert all(len(ids) == len(set(ids)) for ids in found.values()), "each once"
    return found


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


OF_MEMBER = {"subject": to("Patient/member")}
NAMING = {
    "relative": "Practitioner/named",
    "absolute below the mount's base": f"{BASE}/Practitioner/named",
    "with a version": "Practitioner/named/_history/1",
    "absolute with a version": f"{BASE}/Practitioner/named/_history/7",
}
NOT_NAMING = {
    "of another server": "https://elsewhere.example/fhir/Practitioner/named",
    "contained": "#named",
    "conditional": "Practitioner?identifier=named",
    "a fragment": "Practitioner/named#part",
    "a urn": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
    "another type that is nowhere": "PractitionerRole/named",
    "an id of dots": "Practitioner/..",
}


@pytest.mark.parametrize("reference", [*NAMING.values(), *NOT_NAMING.values()], ids=[*NAMING, *NOT_NAMING])
async def test_each_way_of_naming_brings_the_current_version(cohort: tuple[House, Store], reference: str) -> None:
    house, store = cohort
    await put(house, store, "Practitioner", "named", active=False)
    await put(house, store, "Practitioner", "named", active=True)
    await put(house, store, "Practitioner", "unnamed")
    contained = [{"resourceType": "Practitioner", "id": "named"}]
    await put(house, store, "Observation", "o", contained=contained, performer=[to(reference)], **OF_MEMBER)
    lines = await house.lines(await house.export(EXPORT))
    found = [json.loads(line) for line in lines.get("Practitioner", [])]
    assert [(each["id"], each["active"]) for each in found] == ([("named", True)] if reference in NAMING.values() else [])


class WithEscapes(MemoryResourceStore):
    """A storage whose JSON library escapes slashes, as JSON allows."""

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            yield replace(page, lines=page.lines.replace(b"/", b"\\/"))


@pytest.mark.parametrize("reference", NAMING.values(), ids=NAMING)
async def test_a_reference_whose_slashes_are_escaped_names_the_same(make_house: Any, reference: str) -> None:
    clock = HandClock()
    store = WithEscapes(clock=clock, base_urls=[BASE])
    async with make_house(parts={"resources": store, "clock": clock}) as house:
        house.clock = clock
        await put(house, store, "Patient", "member")
        await put(house, store, "Practitioner", "named")
        await put(house, store, "Observation", "o", performer=[to(reference)], **OF_MEMBER)
        assert await held(house, "/Patient/$export") == {"Patient": ["member"], "Observation": ["o"], "Practitioner": ["named"]}


async def test_logical_references_and_attachments_name_nothing(cohort: tuple[House, Store]) -> None:
    """KO-84."""
    house, store = cohort
    await put(house, store, "Practitioner", "named", identifier=[{"value": "7"}])
    await put(house, store, "Binary", "scan", contentType="text/plain")
    content = [{"attachment": {"url": "Binary/scan"}}]
    await put(house, store, "DocumentReference", "d", author=[{"identifier": {"value": "7"}}], content=content, **OF_MEMBER)
    assert await held(house) == {"Patient": ["member"], "Group": ["g"], "DocumentReference": ["d"]}


async def test_a_member_whose_name_only_ends_in_reference_names_nothing(cohort: tuple[House, Store]) -> None:
    """Law 40: names stand in members `reference`; here it is text of an extension that the server keeps as it came."""
    house, store = cohort
    await put(house, store, "Practitioner", "named")
    texts = {"preference": "Practitioner/named", "note": '"reference":"Practitioner/named"', "Xreference": "Practitioner/named"}
    await put(house, store, "Observation", "o", performer=[texts], **OF_MEMBER)
    assert await held(house) == {"Patient": ["member"], "Group": ["g"], "Observation": ["o"]}


async def test_names_are_followed_through_exported_lines_wherever_they_stand(cohort: tuple[House, Store]) -> None:
    """From extensions and contained resources too, and on from context to context."""
    house, store = cohort
    await put(house, store, "Organization", "whole")
    await put(house, store, "Organization", "part", partOf=to("Organization/whole"))
    await put(house, store, "Location", "room", managingOrganization=to("Organization/part"))
    await put(house, store, "Practitioner", "p")
    contained = [{"resourceType": "PractitionerRole", "id": "r", "practitioner": to("Practitioner/p")}]
    extension = [{"url": "https://example.org/room", "valueReference": to("Location/room")}]
    await put(house, store, "Observation", "o", contained=contained, extension=extension, performer=[to("#r")], **OF_MEMBER)
    found = await held(house)
    assert {type_: sorted(ids) for type_, ids in found.items() if type_ not in {"Patient", "Group", "Observation"}} == {
        "Organization": ["part", "whole"],
        "Location": ["room"],
        "Practitioner": ["p"],
    }


async def test_what_elements_leave_out_names_nothing(cohort: tuple[House, Store]) -> None:
    house, store = cohort
    await put(house, store, "Practitioner", "p")
    await put(house, store, "Organization", "o")
    await put(
        house,
        store,
        "Encounter",
        "e",
        serviceProvider=to("Organization/o"),
        participant=[{"individual": to("Practitioner/p")}],
        **OF_MEMBER,
    )
    found = await held(house, f"{EXPORT}?_elements=Encounter.serviceProvider,Encounter.subject")
    assert "Organization" in found
    assert "Practitioner" not in found


async def test_a_resource_of_a_compartment_s_type_is_context_if_it_is_nobody_s(cohort: tuple[House, Store]) -> None:
    """An Observation about a Location; one of a stranger never."""
    house, store = cohort
    await put(house, store, "Location", "room")
    await put(house, store, "Observation", "of-room", subject=to("Location/room"))
    await put(house, store, "Observation", "of-stranger", subject=to("Patient/stranger"))
    await put(
        house, store, "Observation", "mine", hasMember=[to("Observation/of-room"), to("Observation/of-stranger")], **OF_MEMBER
    )
    found = await held(house)
    assert sorted(found["Observation"]) == ["mine", "of-room"]
    assert found["Location"] == ["room"]
    assert found["Patient"] == ["member"]


async def test_forgotten_types_are_their_patient_s_named_or_not(cohort: tuple[House, Store]) -> None:
    """R4's Device: of the member always, of nobody only if named, of a stranger never."""
    house, store = cohort
    for patient in ("member", "stranger"):
        await put(house, store, "Device", f"of-{patient}", patient=to(f"Patient/{patient}"))
    for name in ("named", "unnamed"):
        await put(house, store, "Device", name)
    await put(house, store, "Observation", "o", device=to("Device/named"), focus=[to("Device/of-stranger")], **OF_MEMBER)
    assert sorted((await held(house))["Device"]) == ["named", "of-member"]


async def test_context_names_no_patient_who_is_not_the_job_s(cohort: tuple[House, Store]) -> None:
    house, store = cohort
    for patient in ("member", "stranger"):
        extension = [{"url": "https://example.org/contact", "valueReference": to(f"Patient/{patient}")}]
        await put(house, store, "Organization", f"names-{patient}", extension=extension)
    performer = [to("Organization/names-member"), to("Organization/names-stranger")]
    await put(house, store, "Observation", "o", performer=performer, **OF_MEMBER)
    assert (await held(house))["Organization"] == ["names-member"]
    every = await held(house, "/Patient/$export")
    assert sorted(every["Organization"]) == ["names-member", "names-stranger"], (
        "where every patient is selected, nobody is a stranger"
    )


OF_A_PATIENT = {
    "AllergyIntolerance": "patient",
    "CarePlan": "subject",
    "CareTeam": "subject",
    "Condition": "subject",
    "Coverage": "beneficiary",
    "Device": "patient",
    "DiagnosticReport": "subject",
    "DocumentReference": "subject",
    "Encounter": "subject",
    "Goal": "subject",
    "Immunization": "patient",
    "MedicationDispense": "subject",
    "MedicationRequest": "subject",
    "Observation": "subject",
    "Procedure": "subject",
    "RelatedPerson": "patient",
    "ServiceRequest": "subject",
    "Specimen": "subject",
}
"""The types of one patient's data that a certifier of US servers looks for, by the element that names the patient."""


async def test_a_group_export_has_each_type_that_a_certifier_looks_for(cohort: tuple[House, Store]) -> None:
    """Those of the compartment, and Organization, Practitioner, Location, Medication and Provenance beside them."""
    house, store = cohort
    for id_ in ("clinic", "elsewhere"):
        await put(house, store, "Organization", id_)
    for type_ in ("Practitioner", "Location", "Medication"):
        for id_ in ("named", "unnamed"):
            await put(house, store, type_, id_)
    whose = {"named": "member", "unnamed": "stranger"}
    for type_, element in OF_A_PATIENT.items():
        for id_, patient in whose.items():
            await put(house, store, type_, id_, **{element: to(f"Patient/{patient}")})
    for id_, patient in whose.items():
        place = [{"location": to(f"Location/{id_}")}]
        await put(house, store, "Encounter", id_, subject=to(f"Patient/{patient}"), location=place)
        drug = {"reference": to(f"Medication/{id_}")}
        await put(
            house,
            store,
            "MedicationRequest",
            id_,
            subject=to(f"Patient/{patient}"),
            medication=drug,
            requester=to(f"Practitioner/{id_}"),
        )
        await put(house, store, "Provenance", id_, target=[to(f"Condition/{id_}")], agent=[{"who": to("Organization/clinic")}])
    found = await held(house)
    assert found == {
        "Patient": ["member"],
        "Group": ["g"],
        "Organization": ["clinic"],
        **{type_: ["named"] for type_ in ("Practitioner", "Location", "Medication", "Provenance", *OF_A_PATIENT)},
    }


async def test_types_that_may_not_be_read_are_not_there(cohort: tuple[House, Store]) -> None:
    """Neither asked for, nor covered by scopes; and nothing betrays that there would be some."""
    house, store = cohort
    await put(house, store, "Organization", "o")
    await put(
        house, store, "Practitioner", "p", extension=[{"url": "https://example.org/of", "valueReference": to("Organization/o")}]
    )
    await put(house, store, "Observation", "b", performer=[to("Practitioner/p")], **OF_MEMBER)
    scope = "system/Patient.rs system/Observation.rs system/Practitioner.rs system/Group.rs"
    manifest = await house.export(EXPORT, scope=scope)
    assert {item["type"] for item in manifest["output"]} == {"Patient", "Observation", "Practitioner", "Group"}
    assert "Organization" not in json.dumps(manifest)
    assert sorted(await held(house, f"{EXPORT}?_type=Observation,Organization")) == ["Observation"], "only exported lines name"


async def test_a_granular_scope_holds_for_context_and_a_type_filter_does_not(cohort: tuple[House, Store]) -> None:
    """TF-01 and law 8."""
    house, store = cohort
    for status in ("final", "preliminary"):
        await put(house, store, "Observation", f"room-{status}", status=status, subject=to("Location/room"))
    await put(house, store, "Location", "room")
    members = [to("Observation/room-final"), to("Observation/room-preliminary")]
    await put(house, store, "Observation", "mine", status="final", hasMember=members, **OF_MEMBER)
    filtered = await held(house, f"{EXPORT}?_type=Observation&_typeFilter=Observation%3Fstatus%3Dfinal")
    assert sorted(filtered["Observation"]) == ["mine", "room-final", "room-preliminary"]
    granted = await held(house, f"{EXPORT}?_type=Observation", scope="system/Observation.rs?status=final")
    assert sorted(granted["Observation"]) == ["mine", "room-final"]


async def test_without_context_nothing_but_the_compartment_comes(make_house: Any) -> None:
    async with make_house(context=False) as house:
        await put(house, house.resources, "Practitioner", "p")
        await put(house, house.resources, "Patient", "member", generalPractitioner=[to("Practitioner/p")])
        assert await held(house, "/Patient/$export") == {"Patient": ["member"]}
        refused = await house.ask("GET", "/Patient/$export?_type=Patient,Practitioner", headers=KICK_OFF)
        assert refused.status_code == 400


async def test_an_adapter_that_cannot_read_what_is_named_says_so(make_house: Any) -> None:
    """Law 34."""

    clock = HandClock()
    store = MemoryResourceStore(clock=clock)
    async with make_house(parts={"resources": Plain(store), "clock": clock}) as house:
        house.clock, house.resources = clock, store
        await put(house, house.resources, "Patient", "member")
        first = await house.export("/Patient/$export")
        assert first["extension"] == {"contextComplete": False}
        second = await house.export(f"/Patient/$export?_since={first['transactionTime']}")
        assert second["extension"] == {"contextComplete": False, "leftComplete": False, "left": []}
        assert "extension" not in await house.export("/$export")


async def test_until_brings_context_as_it_was_then(cohort: tuple[House, Store]) -> None:
    house, store = cohort
    await put(house, store, "Practitioner", "p", active=False)
    await put(house, store, "Observation", "o", performer=[to("Practitioner/p")], **OF_MEMBER)
    until = (await house.export(EXPORT))["transactionTime"]
    house.clock.advance(1)
    await put(house, store, "Practitioner", "p", active=True)
    lines = await house.lines(await house.export(f"/Patient/$export?_until={until}"))
    assert [json.loads(line)["active"] for line in lines["Practitioner"]] == [False]


async def test_each_block_of_organised_output_has_the_context_that_it_names(cohort: tuple[House, Store]) -> None:
    """FR-16: in every block that names it, whichever way the blocks are divided into files."""
    house, store = cohort
    await put(house, store, "Organization", "o")
    for name in ("shared", "own"):
        await put(house, store, "Practitioner", name, qualification=[{"issuer": to("Organization/o")}])
    await put(house, store, "Observation", "m1", performer=[to("Practitioner/shared")], **OF_MEMBER)
    await put(house, store, "Observation", "m2", performer=[to("Practitioner/own")], **OF_MEMBER)
    await put(house, store, "Observation", "s", performer=[to("Practitioner/shared")], subject=to("Patient/stranger"))
    manifest = await house.export("/Patient/$export?organizeOutputBy=Patient&_type=Patient,Observation,Practitioner,Organization")
    blocks: dict[str, list[str]] = {}
    for item in manifest["output"]:
        for line in map(json.loads, (await house.ask("GET", item["url"])).text.splitlines()):
            if line["resourceType"] == "Parameters":
                inside = blocks.setdefault(line["parameter"][0]["valueReference"]["reference"], [])
            else:
                inside.append(line["id"])
    assert blocks == {
        "Patient/member": ["member", "m1", "m2", "o", "own", "shared"],
        "Patient/stranger": ["stranger", "s", "o", "shared"],
    }


async def test_organised_output_since_an_instant_says_that_context_may_be_missing(cohort: tuple[House, Store]) -> None:
    """Its blocks have what their lines name; context that changed on its own has no block to be in."""
    house, store = cohort
    for name in ("of-changed", "of-unchanged"):
        await put(house, store, "Practitioner", name)
        await put(house, store, "Observation", name, performer=[to(f"Practitioner/{name}")], **OF_MEMBER)
    path = "/Patient/$export?organizeOutputBy=Patient&_type=Patient,Observation,Practitioner"
    first = await house.export(path)
    assert "extension" not in first
    for name in ("of-changed", "of-unchanged"):
        await put(house, store, "Practitioner", name, active=True)
    await put(house, store, "Observation", "of-changed", performer=[to("Practitioner/of-changed")], **OF_MEMBER)
    manifest = await house.export(f"{path}&_since={first['transactionTime']}")
    text = "".join([(await house.ask("GET", item["url"])).text for item in manifest["output"]])
    resources = [f"{line['resourceType']}/{line.get('id')}" for line in map(json.loads, text.splitlines())]
    assert resources == ["Parameters/None", "Observation/of-changed", "Practitioner/of-changed"]
    assert manifest["extension"] == {"contextComplete": False, "left": []}


class Plain:
    """A storage that has snapshots and pages, and nothing for context."""

    def __init__(self, store: MemoryResourceStore) -> None:
        self.authorise, self.pages, self.cut, self.now = store.authorise, store.pages, store.cut, store.now
        self.deletions = store.deletions


@pytest.mark.parametrize("dialect", [STANDARD, STU4], ids=lambda dialect: dialect.name)
async def test_what_left_is_told_beside_the_deletions(make_house: Any, dialect: Dialect) -> None:
    """Law 34: in the custom part of the manifest, as files of the same shape as deletions; as FHIR extensions in STU4."""
    async with make_house(dialect=dialect) as house:
        await put(house, house.resources, "Patient", "member")
        await put(house, house.resources, "Observation", "o", **OF_MEMBER)
        since = (await exported(house, ""))["transactionTime"]
        await put(house, house.resources, "Observation", "o")
        manifest = await exported(house, since)
        extension = manifest["extension"]
        if isinstance(extension, list):
            (told,) = (each["extension"] for each in extension if each["url"].endswith(":left"))
            url = next(each["valueString"] for each in told if each["url"] == "url")
        else:
            url = extension["left"][0]["url"]
        (bundle,) = map(json.loads, (await house.ask("GET", url)).text.splitlines())
        assert bundle["entry"] == [{"request": {"method": "DELETE", "url": "Observation/o"}}]
        assert manifest["deleted"] == []


async def exported(house: House, since: str) -> dict[str, Any]:
    """The manifest of an export of all patients, by the method that the dialect has."""
    house.clock.advance(1)
    given = [{"name": "_since", "valueInstant": since}] if since else []
    body = {"resourceType": "Parameters", "parameter": given}
    response = await house.ask(
        "POST", "/Patient/$export", json=body, headers={**KICK_OFF, "Content-Type": "application/fhir+json"}
    )
    assert response.status_code == 202, response.text
    await house.runner.finish()
    manifest: dict[str, Any] = (await house.ask("GET", response.headers["Content-Location"])).json()
    return manifest


async def test_an_interrupted_context_slice_goes_on_with_the_same_bytes(make_house: Any) -> None:
    """Law 5: whatever was sealed before the interruption."""
    hashes = []
    for interrupted in (False, True):
        async with make_house(part_bytes=2_048, page_bytes=1_024, slice_bytes=2_048) as house:
            for number in range(40):
                await put(house, house.resources, "Practitioner", f"p{number:02}", name=[{"text": "x" * 100}])
            practitioners = [to(f"Practitioner/p{number:02}") for number in range(40)]
            await put(house, house.resources, "Patient", "member", generalPractitioner=practitioners)
            location = await house.kick_off("/Patient/$export")
            while await house.runner.step():
                if interrupted and len(await house.parts(location)) > 3:
                    lease = await house.claim()
                    if lease is not None:
                        await house.jobs.release(lease, "interrupted")
            manifest = (await house.ask("GET", location)).json()
            hashes.append([item["extension"]["sha256"] for item in manifest["output"]])
            assert sum(item["count"] for item in manifest["output"] if item["type"] == "Practitioner") == 40
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 3
