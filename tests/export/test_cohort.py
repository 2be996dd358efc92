"""What an export of some patients leaves out although HL7 puts it into their compartments: the cohorts of others (law 41)."""

import json
from dataclasses import replace
from typing import Any

import pytest
from house import BASE, KICK_OFF, House

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Rows, Selection
from fhir_bulk_middleware.export.cohort import Cohort
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

pytestmark = pytest.mark.anyio

MEMBERS = Compartments(frozenset({"Patient/p1", "Patient/p2"}))


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


def line(type_: str, id_: str, **content: Any) -> bytes:
    return json.dumps({"resourceType": type_, "id": id_, **content}, separators=(",", ":")).encode()


def a_list(id_: str, *entries: str, subject: Any = None, **more: Any) -> dict[str, Any]:
    about = {} if subject is None else {"subject": subject}
    items = [{"item": to(entry)} for entry in entries]
    return {"resourceType": "List", "id": id_, "status": "current", "mode": "working", **about, "entry": items, **more}


def a_group(id_: str, *members: str) -> dict[str, Any]:
    entries = [{"entity": to(member)} for member in members]
    return {"resourceType": "Group", "id": id_, "type": "person", "actual": True, "member": entries}


# --- On the wire -----------------------------------------------------------------------------------------------------

STRANGER = {"resourceType": "Patient", "id": "stranger", "link": [{"other": to("Patient/p1"), "type": "seealso"}]}
WRITTEN: list[dict[str, Any]] = [
    {"resourceType": "Patient", "id": "p1", "link": [{"other": to("Patient/stranger"), "type": "seealso"}]},
    {"resourceType": "Patient", "id": "p2"},
    STRANGER,
    a_group("cohort", "Patient/p1", "Patient/p2"),
    a_group("everyone", "Patient/p1", "Patient/p2", "Patient/stranger"),
    a_list("mine", "Patient/p1", "Condition/c", "Patient/p2", subject=to("Patient/p1")),
    a_list("shared", "Patient/stranger", subject=to("Patient/p1")),
    a_list("ward-round", "Patient/p1", subject=to("Group/everyone"), source=to("Patient/p1")),
    {
        "resourceType": "Provenance",
        "id": "of-stranger",
        "target": [to("Patient/stranger")],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": to("Practitioner/d")}],
    },
    {
        "resourceType": "Provenance",
        "id": "of-both",
        "target": [to("Patient/stranger"), to("Patient/p1")],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": to("Practitioner/d")}],
    },
]


async def write(house: House, resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        await house.resources.create(resource["resourceType"], resource, resource["id"])


async def texts(house: House, path: str, key: str = "output") -> list[str]:
    """The lines of all files of an export."""
    manifest = await house.export(path)
    answers = [await house.ask("GET", item["url"]) for item in manifest[key]]
    return [text for answer in answers for text in answer.text.splitlines()]


async def held(house: House, path: str) -> dict[str, set[str]]:
    """By type, the ids in the files of an export; headers of blocks aside."""
    found: dict[str, set[str]] = {}
    for text in await texts(house, path):
        resource = json.loads(text)
        if resource["resourceType"] != "Parameters":
            found.setdefault(resource["resourceType"], set()).add(resource["id"])
    return found


COHORT = {"Patient": {"p1", "p2"}, "Group": {"cohort"}, "List": {"mine"}, "Provenance": {"of-both"}}
ALL = {
    "Patient": {"p1", "p2", "stranger"},
    "Group": {"cohort", "everyone"},
    "List": {"mine", "shared", "ward-round"},
    "Provenance": {"of-both", "of-stranger"},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/Group/cohort/$export", COHORT),
        ("/Group/cohort/$export?organizeOutputBy=Patient", COHORT),
        ("/Group/everyone/$export", {**ALL, "Group": {"everyone"}, "List": {"mine", "shared"}}),
        ("/Patient/$export", ALL),
        ("/$export", ALL),
    ],
)
async def test_where_some_patients_are_selected_nothing_of_another_cohort_goes_out(
    make_house: Any, path: str, expected: dict[str, set[str]]
) -> None:
    """Law 41: not a Patient that only links to a member, nor a Group that was not asked for, nor a List about others."""
    async with make_house() as house:
        await write(house, WRITTEN)
        assert await held(house, path) == expected


@pytest.mark.parametrize(("path", "groups"), [("/Group/everyone/$export", {"everyone"}), ("/Patient/$export", set[str]())])
async def test_the_patients_that_a_client_names_are_a_cohort_too(make_house: Any, path: str, groups: set[str]) -> None:
    """Law 41, PT-02: at Patient level no group was asked for, so none goes out."""
    async with make_house() as house:
        await write(house, WRITTEN)
        house.clock.advance(1)
        named = [{"name": "patient", "valueReference": to(f"Patient/{id_}")} for id_ in ("p1", "p2")]
        body = json.dumps({"resourceType": "Parameters", "parameter": named})
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        location = (await house.ask("POST", path, headers=headers, content=body)).headers["Content-Location"]
        await house.runner.finish()
        lines = await house.lines((await house.ask("GET", location)).json())
        found = {type_: {json.loads(text)["id"] for text in several} for type_, several in lines.items()}
        assert found == {
            **{type_: ids for type_, ids in COHORT.items() if type_ != "Group"},
            **({"Group": groups} if groups else {}),
        }


@pytest.mark.parametrize(
    ("setting", "type_", "more"),
    [
        ("linked_patients", "Patient", {"Provenance": ALL["Provenance"]}),
        ("other_groups", "Group", {}),
        ("shared_lists", "List", {}),
    ],
)
async def test_a_setting_opens_each_exception_for_jobs_accepted_after_it(
    make_house: Any, setting: str, type_: str, more: dict[str, set[str]]
) -> None:
    """Law 41."""
    async with make_house(**{setting: True}) as house:
        await write(house, WRITTEN)
        assert await held(house, "/Group/cohort/$export") == {**COHORT, type_: ALL[type_], **more}


async def test_what_is_left_out_is_neither_counted_nor_reported(make_house: Any) -> None:
    """Law 41: a client must not learn that others refer to its patients."""
    async with make_house() as house:
        await write(house, WRITTEN)
        manifest = await house.export("/Group/cohort/$export")
        assert {item["type"]: item["count"] for item in manifest["output"]} == {t: len(ids) for t, ids in COHORT.items()}
        assert manifest["error"] == []
        assert "stranger" not in json.dumps(manifest)


async def test_a_deleted_patient_that_was_not_selected_is_not_told(make_house: Any) -> None:
    """Law 41; the deletion of a member is told (law 34)."""
    async with make_house() as house:
        await write(house, [*WRITTEN, {"resourceType": "Patient", "id": "p3"}, a_group("three", "Patient/p1", "Patient/p3")])
        since = (await house.export("/Group/three/$export"))["transactionTime"]
        house.clock.advance(1)
        for type_, id_ in (("Patient", "stranger"), ("Patient", "p3"), ("List", "mine")):
            await house.resources.delete(type_, id_)
        house.clock.advance(1)
        told = await texts(house, f"/Group/three/$export?_since={since}", "deleted")
        assert sorted(json.loads(text)["entry"][0]["request"]["url"] for text in told) == ["List/mine", "Patient/p3"]
        system = await texts(house, f"/$export?_since={since}", "deleted")
        assert "Patient/stranger" in "".join(system)


async def test_a_stranger_that_cannot_be_read_is_not_named_in_a_report(make_house: Any) -> None:
    """Law 41, ST-15."""

    class Broken(MemoryResourceStore):
        async def pages(self, query: Any, after: str | None) -> Any:
            async for page in super().pages(query, after):
                strange = tuple(
                    f"{query.type}/{id_}" for id_ in ("p1", "stranger", "everyone") if query.type in {"Patient", "Group"}
                )
                yield replace(page, unreadable=strange)

    async with make_house(store=Broken) as house:
        await write(house, WRITTEN)
        reports = "".join(await texts(house, "/Group/cohort/$export?_type=Patient,Group", "error"))
        assert "Patient/p1 could not be exported" in reports
        assert "Patient/stranger" not in reports
        assert "Group/everyone" not in reports


# --- Line by line ----------------------------------------------------------------------------------------------------


def rows(selection: Selection = MEMBERS, *opened: str) -> Rows:
    return Rows(selection, groups=frozenset({"Group/g", "Group/inner"}), opened=frozenset(opened))


@pytest.mark.parametrize(
    ("text", "goes_out"),
    [
        (line("Patient", "p1"), True),
        (line("Patient", "p3", link=[{"other": to("Patient/p1")}]), False),
        (b'{"resourceType":"Patient","meta":{"id":"p3"},"id":"p1"}', True),
        (b'{"resourceType":"Patient","meta":{"id":"p1"},"id":"p3"}', False),
        (b'{"resourceType":"Patient","name":[{"id":"p1"}]}', False),
        (b'{"resourceType":"Patient","id":"p1x"}', False),
        (b'{"resourceType":"Patient","id":1}', False),
        (line("Group", "g"), True),
        (line("Group", "inner"), True),
        (line("Group", "other"), False),
        (line("List", "l", subject=to("Patient/p1")), True),
        (line("List", "l", subject=[to("Patient/p3"), to("Patient/p1/_history/2")]), False),
        (line("List", "l", subject=[to("Group/g"), to("Patient/p1/_history/2")]), True),
        (line("List", "l", subject=to(f"{BASE}/Patient/p1"), entry=[{"item": to(f"{BASE}/Patient/p2")}]), True),
        (line("List", "l", source=to("Patient/p1")), False),
        (line("List", "l", subject=to("Patient/p3")), False),
        (line("List", "l", subject=to("Group/g")), False),
        (line("List", "l", subject={"identifier": {"value": "Patient/p1"}}), False),
        (line("List", "l", subject=to("Patient/p1"), entry=[{"item": to("Observation/o")}]), True),
        (line("List", "l", subject=to("Patient/p1"), entry=[{"item": to("Patient/p3")}]), False),
        (line("List", "l", subject=to("Patient/p1"), entry=[{"item": to("Patient/p3/_history/1")}]), False),
        (line("List", "l", subject=to("Patient/p1"), entry=[{"item": to("https://other.example/fhir/Patient/p1")}]), False),
        (line("List", "l", subject=to("Patient/p1"), extension=[{"url": "x", "valueReference": to("Patient/p3")}]), False),
        (line("List", "l", subject=to("Patient/p1"), contained=[{"resourceType": "Flag", "subject": to("Patient/p3")}]), False),
        (line("List", "l", subject=to("Patient/p1"), note=[{"text": "see Patient/p3, and others"}]), True),
        (b'{"resourceType":"List","id":"l","subject":{"reference":"Patient\\/p1"},"source":{"reference":"Patient\\/p3"}}', False),
        (b'{"resourceType":"List","id":"l","subject":"Patient/p1"}', False),
        (b'{"resourceType":"List","id":"l","subject":{"reference":"Patient/p1"}', False),
        (line("Provenance", "v", target=[to("Patient/p1")]), True),
        (line("Provenance", "v", target=[to("Patient/p3")]), False),
        (line("Provenance", "v", target=[to("Group/other")]), False),
        (line("Provenance", "v", target=[to("Group/g"), to("Patient/p3")]), True),
        (line("Provenance", "v", target=[to("Observation/o")], agent=[{"who": to("Patient/p3")}]), True),
        (line("Provenance", "v", target=[to(f"{BASE}/Patient/p3")]), False),
        (b'{"resourceType":"Provenance","id":"v","target":[{"reference":"Patient\\/p3"}]}', False),
        (line("Provenance", "v", agent=[{"who": to("Patient/p3")}]), True),
        (line("Observation", "o", subject=to("Patient/p3"), performer=[to("Patient/p1")]), True),
        (line("Appointment", "a", participant=[{"actor": to("Patient/p1")}, {"actor": to("Patient/p3")}]), True),
    ],
)
def test_a_line_goes_out_or_not(text: bytes, goes_out: bool) -> None:
    """Law 41."""
    type_ = text.split(b'"')[3].decode()
    assert Cohort(type_, rows(), [BASE]).admits(text) is goes_out


@pytest.mark.parametrize("type_", ["Patient", "Group", "List", "Provenance"])
def test_nothing_is_left_out_where_every_patient_is_selected(type_: str) -> None:
    """Law 41."""
    strange = line(type_, "strange", subject=to("Patient/p3"), target=[to("Patient/p3")])
    for selection in (Everything(), EveryPatient()):
        cohort = Cohort(type_, rows(selection), [BASE])
        assert not cohort
        assert cohort.admits(strange)
        assert cohort.tells_deletion(f"{type_}/strange")
        assert cohort.may_name(f"{type_}/strange")
    assert Cohort(type_, rows(), [BASE])
    assert not Cohort(type_, rows(), [BASE]).admits(strange)


def test_an_empty_selection_admits_nobody() -> None:
    assert not Cohort("Patient", rows(Compartments(frozenset()))).admits(line("Patient", "p1"))


def test_no_member_of_a_group_of_staff_makes_a_patient_one_of_the_cohort() -> None:
    """Law 41: a patient whose general practitioner is selected is not selected."""
    staff = rows(Compartments(frozenset({"Practitioner/d"})))
    assert not Cohort("Patient", staff).admits(line("Patient", "p1", generalPractitioner=[to("Practitioner/d")]))
    assert Cohort("List", staff).admits(line("List", "l", subject=to("Practitioner/d")))
