"""Who is in a group, who may export it, and what comes of those who joined (GR, PT-04, KO-03)."""

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from exporting import exported
from house import AUDIENCE, BASE, ISSUER, KICK_OFF, House, people, populate
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Page, Query
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.dialects import SOARIAN
from fhir_bulk_middleware.fhir.group import members
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio


def group(id_: str, *entries: Any) -> dict[str, Any]:
    members = [entry if isinstance(entry, dict) else {"entity": {"reference": entry}} for entry in entries]
    return {"resourceType": "Group", "id": id_, "type": "person", "actual": True, "member": members}


def entry(reference: str, **more: Any) -> dict[str, Any]:
    return {"entity": {"reference": reference}, **more}


async def patients(house: House, path: str) -> list[str]:
    lines = await house.lines(await house.export(path))
    return sorted(json.loads(line)["id"] for line in lines.get("Patient", []))


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ([group("g", "Patient/p1", entry("Patient/p2", inactive=True))], ["p1"]),
        ([group("g", "Patient/p1", entry("Patient/p2", inactive=False))], ["p1", "p2"]),
        ([group("g", "Patient/p1", "Patient/p2", entry("Patient/p2", exclude=True))], ["p1"]),
        ([group("g", "Patient/p1", entry("Patient/p2", period={"end": "2020-01-01"}))], ["p1"]),
        ([group("g", "Group/h", "Patient/p1"), group("h", "Patient/p2")], ["p1", "p2"]),
        ([group("g", "Group/h"), group("h", "Group/i"), group("i", "Patient/p3")], ["p3"]),
        ([group("g", "Group/h", "Patient/p1"), group("h", "Group/g", "Patient/p2")], ["p1", "p2"]),
        ([group("g", "Group/g", "Patient/p1")], ["p1"]),
        ([group("g", "Group/h", entry("Patient/p2", exclude=True)), group("h", "Patient/p1", "Patient/p2")], ["p1"]),
        (
            [group("g", "Patient/p1", "Patient/p2", entry("Group/h", exclude=True)), group("h", "Patient/p2")],
            ["p1"],
        ),
        ([group("g", "Group/none", f"{BASE}/Patient/p1", "https://elsewhere.example/Patient/p2", "#p2", "Medication/1")], []),
        ([group("g", entry("Group/h", inactive=True), "Patient/p1"), group("h", "Patient/p2")], ["p1"]),
    ],
)
async def test_a_group_has_its_active_members_and_those_of_groups_within_it(
    house: House, groups: list[dict[str, Any]], found: list[str]
) -> None:
    """KO-03: nested groups, also in circles; inactive and excluded members are none."""
    for resource in groups:
        await house.resources.create("Group", resource, resource["id"])
    assert await patients(house, "/Group/g/$export?_type=Patient") == found


_TREES = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.tuples(st.sampled_from(["Patient/1", "Patient/2", "Practitioner/3", *(f"Group/{id_}" for id_ in "abcde")]))),
    max_size=5,
)


@given(_TREES)
def test_groups_within_groups_end_and_hold_what_can_be_reached(tree: dict[str, list[tuple[str]]]) -> None:
    reached, seen, left = set(), set(), ["a"]
    while left:
        id_ = left.pop()
        if id_ in seen:
            continue
        seen.add(id_)
        for (reference,) in tree.get(id_, []):
            if reference.startswith("Group/"):
                left.append(reference.removeprefix("Group/"))
            else:
                reached.add(reference)
    groups = {id_: group(id_, *(reference for (reference,) in several)) for id_, several in tree.items()}
    assert members(groups.get("a", group("a")), Instant(0), read=groups.get) == reached


async def test_groups_of_practitioners_and_devices_export_what_lies_in_their_compartments(house: House) -> None:
    """KO-03, since STU2."""
    resources: list[dict[str, Any]] = [
        {"resourceType": "Practitioner", "id": "d1"},
        {"resourceType": "Device", "id": "v1"},
        {
            "resourceType": "Observation",
            "id": "by-d1",
            "status": "final",
            "code": {"text": "x"},
            "performer": [{"reference": "Practitioner/d1"}],
        },
        {
            "resourceType": "Observation",
            "id": "by-v1",
            "status": "final",
            "code": {"text": "x"},
            "device": {"reference": "Device/v1"},
        },
        group("doctors", "Practitioner/d1"),
        group("devices", "Device/v1"),
    ]
    for resource in resources:
        await house.resources.create(resource["resourceType"], resource, resource["id"])
    for name, expected in (
        ("doctors", {"Observation": ["by-d1"], "Practitioner": ["d1"], "Group": ["doctors"]}),
        ("devices", {"Observation": ["by-v1"], "Device": ["v1"], "Group": ["devices"]}),
    ):
        lines = await house.lines(await house.export(f"/Group/{name}/$export"))
        assert {type_: [json.loads(line)["id"] for line in several] for type_, several in lines.items()} == expected


# --- Who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_id", ["both", "unknown"])
@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("system/Patient.rs", 403),
        ("system/Patient.rs system/Group.s", 403),
        ("system/Patient.rs system/Group.rs?_id=both", 403),
        ("system/Patient.rs system/Group.r", 202),
        ("system/Patient.read system/Group.read", 202),
        ("system/*.rs", 202),
    ],
)
async def test_an_operator_may_want_a_scope_to_read_groups_and_the_answer_tells_nothing_of_the_group(
    make_house: Any, group_id: str, scope: str, status: int
) -> None:
    """GR-03."""
    async with make_house(group_scope=True) as house:
        await populate(house)
        response = await house.ask("GET", f"/Group/{group_id}/$export?_type=Patient", scope=scope, headers=KICK_OFF)
        assert response.status_code == (404 if status == 202 and group_id == "unknown" else status)


@pytest.mark.parametrize("query", ["", "?_type=Patient"])
async def test_a_group_is_exported_without_a_scope_on_group_and_then_it_is_not_in_the_files(house: House, query: str) -> None:
    """GR-03: real clients ask for a fixed list of scopes without Group."""
    scope = "system/Patient.rs system/Observation.rs"
    response = await house.ask("GET", f"/Group/both/$export{query}", scope=scope, headers=KICK_OFF)
    assert response.status_code == 202
    await house.runner.finish()
    manifest = (await house.ask("GET", response.headers["Content-Location"], scope=scope)).json()
    assert {item["type"] for item in manifest["output"]} == ({"Patient"} if query else {"Patient", "Observation"})
    unknown = await house.ask("GET", f"/Group/unknown/$export{query}", scope=scope, headers=KICK_OFF)
    assert unknown.status_code == 404


async def of_patients(house: House, level: str, *references: str, **more: Any) -> Any:
    parameters = [{"name": "patient", "valueReference": {"reference": reference}} for reference in references]
    body = json.dumps({"resourceType": "Parameters", "parameter": parameters})
    headers = {**KICK_OFF, "Content-Type": "application/fhir+json", **more}
    house.clock.advance(1)
    return await house.ask("POST", f"{level}/$export", content=body, headers=headers)


async def test_only_the_listed_patients_are_exported(house: House) -> None:
    """KO-25, PT-03."""
    response = await of_patients(house, "/Patient", "Patient/p2", f"{BASE}/Patient/p3")
    await house.runner.finish()
    manifest = (await house.ask("GET", response.headers["Content-Location"])).json()
    lines = await house.lines(manifest)
    assert sorted(json.loads(line)["id"] for line in lines["Patient"]) == ["p2", "p3"]
    assert sorted(json.loads(line)["id"] for line in lines["Observation"]) == ["b2", "b4"]


@pytest.mark.parametrize(
    ("level", "references"),
    [("/Patient", ["Patient/p1", "Patient/unknown"]), ("/Group/first", ["Patient/p1", "Patient/p2"])],
)
async def test_a_patient_who_is_not_there_refuses_the_list(house: House, level: str, references: list[str]) -> None:
    """PT-04: and it is not said which of them."""
    response = await of_patients(house, level, *references)
    assert response.status_code == 400
    assert not any(reference in response.text for reference in references)


# --- Row rights of an adapter ------------------------------------------------------------------------------------------


class Wards(MemoryResourceStore):
    """Lets a principal see what its ward's tag is on; the ward is frozen into the job."""

    ward = "a"

    async def authorise(self, principal: Principal) -> Authorisation:
        return replace(await super().authorise(principal), rights=self.ward)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        tag = f'"code":"{query.rights}"'.encode()
        async for page in super().pages(query, after):
            lines = [line + b"\n" for line in page.lines.splitlines() if tag in line]
            if lines:
                yield Page(b"".join(lines), len(lines), page.cursor)


async def test_what_a_principal_may_see_is_frozen_when_it_kicks_off(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8."""
    monkeypatch.setattr(Wards, "ward", "a")
    async with make_house(store=Wards) as house:
        for number, ward in enumerate("abab"):
            resource = {"resourceType": "Patient", "meta": {"tag": [{"code": ward}]}}
            await house.resources.create("Patient", resource, f"p{number}")
        house.clock.advance(1)
        location = await house.kick_off()
        monkeypatch.setattr(Wards, "ward", "b")
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()
        assert [json.loads(line)["id"] for line in (await house.lines(manifest))["Patient"]] == ["p0", "p2"]
        assert await patients(house, "/$export") == ["p1", "p3"]


# --- Who joined --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True])
async def test_older_data_of_who_joined_comes_if_the_operator_wants_it(make_house: Any, older: bool) -> None:
    """GR-01: what they had by then, once; of all others what changed since."""
    async with make_house(older_data_of_new_members=older) as house:
        resources: list[dict[str, Any]] = [
            {"resourceType": "Patient", "id": "p1"},
            {"resourceType": "Patient", "id": "p2"},
            *(
                {
                    "resourceType": "Observation",
                    "id": f"o{number}",
                    "status": "final",
                    "code": {"text": "x"},
                    "subject": {"reference": f"Patient/{who}"},
                }
                for number, who in enumerate(("p1", "p2", "p2"))
            ),
            group("g", "Patient/p1"),
        ]
        for resource in resources:
            await house.resources.create(resource["resourceType"], resource, resource["id"])
        first = await house.export("/Group/g/$export?_type=Patient,Observation")
        house.clock.advance(1)
        await house.resources.update("Group", "g", group("g", "Patient/p1", "Patient/p2"))
        changed = {"resourceType": "Observation", "id": "o2", "status": "amended", "code": {"text": "x"}}
        await house.resources.update("Observation", "o2", {**changed, "subject": {"reference": "Patient/p2"}})
        house.clock.advance(1)
        second = await house.export(f"/Group/g/$export?_type=Patient,Observation&_since={first['transactionTime']}")
        lines = await house.lines(second)
        found = {type_: sorted(json.loads(line)["id"] for line in several) for type_, several in lines.items()}
        assert found == ({"Observation": ["o1", "o2"], "Patient": ["p2"]} if older else {"Observation": ["o2"]})


class Forgetful(MemoryResourceStore):
    """Knows who is in a group, and not who was."""

    members_at = None  # type: ignore[assignment]


async def test_older_data_takes_an_adapter_that_knows_the_past_of_groups(make_house: Any) -> None:
    """GR-01: a setting that could have no effect is refused when the mount is made."""
    with pytest.raises(TypeError, match="members_at"):
        async with make_house(store=Forgetful, older_data_of_new_members=True):
            pass
    async with make_house(store=Forgetful):
        pass


async def ask_while_queued(house: House, path: str, *meanwhile: dict[str, Any]) -> tuple[str, dict[str, list[str]]]:
    """An export before whose work the group changes; its cut, and the ids that it holds."""
    house.clock.advance(1)
    location = await house.kick_off(path)
    for resource in meanwhile:
        await house.resources.update("Group", "g", resource)
    house.clock.advance(1)
    await house.runner.finish()
    manifest = (await house.ask("GET", location)).json()
    lines = await house.lines(manifest)
    return manifest["transactionTime"], {
        type_: sorted(json.loads(line)["id"] for line in several) for type_, several in lines.items()
    }


async def test_who_joins_while_the_job_is_queued_is_in_it_and_who_leaves_is_not(house: House) -> None:
    """Law 33: members are read at the cut."""
    await house.resources.create("Group", group("g", "Patient/p1", "Patient/p2"), "g")
    _, found = await ask_while_queued(house, "/Group/g/$export?_type=Patient", group("g", "Patient/p2", "Patient/p3"))
    assert found == {"Patient": ["p2", "p3"]}


async def test_a_group_that_is_deleted_while_the_job_is_queued_has_no_members(house: House) -> None:
    """Law 33: all of them have left."""
    await house.resources.create("Group", group("g", "Patient/p1"), "g")
    location = await house.kick_off("/Group/g/$export?_type=Patient")
    await house.resources.delete("Group", "g")
    house.clock.advance(1)
    await house.runner.finish()
    assert (await house.ask("GET", location)).json()["output"] == []


async def test_a_listed_patient_who_leaves_while_the_job_is_queued_is_out(house: House) -> None:
    """Law 33, PT-03."""
    await house.resources.create("Group", group("g", "Patient/p1", "Patient/p2"), "g")
    response = await of_patients(house, "/Group/g", "Patient/p1", "Patient/p2")
    await house.resources.update("Group", "g", group("g", "Patient/p2", "Patient/p3"))
    await house.runner.finish()
    lines = await house.lines((await house.ask("GET", response.headers["Content-Location"])).json())
    assert [json.loads(line)["id"] for line in lines["Patient"]] == ["p2"]


@pytest.mark.parametrize("when", ["before the kick-off", "while the job is queued", "after the cut"])
async def test_the_older_data_of_who_joins_comes_whenever_that_is(make_house: Any, when: str) -> None:
    """GR-01, law 33: in this export or in the next, and never in none."""
    async with make_house(older_data_of_new_members=True) as house:
        await populate(house)
        await house.resources.create("Group", group("g", "Patient/p1"), "g")
        path, joined = "/Group/g/$export?_type=Patient,Observation", group("g", "Patient/p1", "Patient/p2")
        since, _ = await ask_while_queued(house, path)
        if when == "before the kick-off":
            await house.resources.update("Group", "g", joined)
        during = [joined] if when == "while the job is queued" else []
        then, second = await ask_while_queued(house, f"{path}&_since={since}", *during)
        if when == "after the cut":
            await house.resources.update("Group", "g", joined)
        _, third = await ask_while_queued(house, f"{path}&_since={then}")
        history = {"Observation": ["b2", "b4"], "Patient": ["p2"]}
        assert (second, third) == (({}, history) if when == "after the cut" else (history, {}))


async def test_who_leaves_after_the_cut_is_in_the_export_of_that_cut(make_house: Any) -> None:
    """Law 33, GR-01: else who is back before the next export would be in neither. SOARIAN shows seconds."""
    async with make_house(dialect=SOARIAN, older_data_of_new_members=True) as house:
        await populate(house)
        await house.resources.create("Group", group("g", "Patient/p1", "Patient/p2"), "g")
        house.clock.advance(10.2)
        await house.resources.update("Group", "g", group("g", "Patient/p1"))
        house.clock.advance(0.3)
        found: list[list[str]] = []
        query = "?_type=Patient"
        for _ in range(2):
            location = await house.kick_off(f"/Group/g/$export{query}")
            await house.runner.finish()
            manifest = (await house.ask("GET", location, headers=KICK_OFF)).json()
            lines = await house.lines(manifest)
            found.append(sorted(json.loads(line)["id"] for line in lines.get("Patient", [])))
            query = f"?_type=Patient&_since={quote(manifest['transactionTime'])}"
            house.clock.advance(10)
            await house.resources.update("Group", "g", group("g", "Patient/p1", "Patient/p2"))
            house.clock.advance(10)
        assert found == [["p1", "p2"], []]


async def test_a_group_that_is_made_after_the_cut_is_exported_with_its_members(make_house: Any) -> None:
    """Law 33: made and exported within the second that the cut shows."""
    async with make_house(dialect=SOARIAN) as house:
        await populate(house)
        house.clock.advance(10.2)
        await house.resources.create("Group", group("g", "Patient/p1"), "g")
        location = await house.kick_off("/Group/g/$export?_type=Patient")
        await house.runner.finish()
        lines = await house.lines((await house.ask("GET", location, headers=KICK_OFF)).json())
        assert [json.loads(line)["id"] for line in lines["Patient"]] == ["p1"]


class Roster:
    """Who is in a group, kept outside the FHIR server (law 29); a stranger's group is unknown."""

    def __init__(self, **members: list[str]) -> None:
        self.lists = members
        self.asked_by: list[Principal] = []

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        self.asked_by.append(principal)
        known = self.lists.get(group_id) if principal.owner.subject == "alice" else None
        return None if known is None else frozenset(known)


async def test_groups_that_live_elsewhere_are_asked_again_on_behalf_of_who_kicked_off(make_house: Any) -> None:
    """Laws 8, 29 and 33."""
    roster = Roster(ward=["Patient/p1"])
    async with make_house(parts={"groups": roster}) as house:
        await populate(house)
        assert (await house.ask("GET", "/Group/none/$export", headers=KICK_OFF)).status_code == 404
        location = await house.kick_off("/Group/ward/$export?_type=Patient")
        roster.lists["ward"] = ["Patient/p2"]
        await house.runner.finish()
        lines = await house.lines((await house.ask("GET", location)).json())
        assert [json.loads(line)["id"] for line in lines["Patient"]] == ["p2"]
        assert roster.asked_by[-2:] == [roster.asked_by[-1]] * 2, "with the same scopes and claims"


class Ward(Roster):
    """Can be made again in a worker process: the lists are in a file."""

    def __init__(self, path: str) -> None:
        super().__init__(**json.loads(Path(path).read_text()))
        self.path = path

    def recipe(self) -> Recipe:
        return Recipe(f"{__name__}:Ward", {"path": self.path})


async def test_worker_processes_ask_groups_that_can_be_made_again_there(
    tmp_path: Path, mint: TokenMint, caplog: pytest.LogCaptureFixture
) -> None:
    """Law 33: the server's own object does not know of the change, the worker's does."""
    lists = tmp_path / "wards.json"
    lists.write_text('{"ward": ["Patient/p1"]}')
    store = SQLiteResourceStore(tmp_path / "store.db")
    for resource in people():
        await store.create(resource["resourceType"], resource, resource["id"])
    parts: dict[str, Any] = {
        "resources": store,
        "verifier": JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        "jobs": SQLiteJobStore(tmp_path / "jobs.db"),
        "outputs": FileOutputStore(tmp_path / "exports"),
        "settings": Settings(worker_processes=1, polls_per_second=1_000),
    }
    bulk = BulkData(**parts, groups=Ward(str(lists)))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    lists.write_text('{"ward": ["Patient/p3"]}')
    async with (
        bulk.running(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="https://ehr.example") as client,
    ):
        token = mint.token("alice", "system/*.rs")
        _, found = await exported(client, token, tmp_path / "taken", "/Group/ward/$export", _type="Patient")
        assert [patient["id"] for patient in found["output"]] == ["p3"]
    BulkData(**parts, groups=Roster())
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message.partition(",")[0] for record in warnings] == ["groups: Roster has no recipe()"]
