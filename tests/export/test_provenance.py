"""Which Provenance comes along with an export (KO-86 to KO-91)."""

import json
from typing import Any

import pytest
from house import KICK_OFF, House

pytestmark = pytest.mark.anyio


def provenance(id_: str, *about: str) -> dict[str, Any]:
    return {
        "resourceType": "Provenance",
        "id": id_,
        "target": [{"reference": reference} for reference in about],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"who": {"display": "somebody"}}],
    }


@pytest.fixture
async def archive(house: House) -> House:
    """A house with Provenance of some of its resources, the older first."""
    for id_, about in (
        ("p1-old", ["Patient/p1"]),
        ("p1-new", ["Patient/p1", "Organization/o1"]),
        ("b2", ["Observation/b2"]),
        ("b3", ["Observation/b3"]),
        ("o1", ["Organization/o1"]),
    ):
        await house.resources.create("Provenance", provenance(id_, *about), id_)
        house.clock.advance(1)
    return house


async def exported(house: House, path: str) -> dict[str, list[str]]:
    lines = await house.lines(await house.export(path))
    found = {type_: [json.loads(line)["id"] for line in several] for type_, several in lines.items()}
    for several in found.values():
        assert len(several) == len(set(several)), "no resource comes twice"
    return {type_: sorted(several) for type_, several in found.items()}


LATEST, RELEVANT = "includeAssociatedData=LatestProvenanceResources", "includeAssociatedData=RelevantProvenanceResources"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        # By itself as any other type, but elsewhere than at system level of all that lies in the compartments, as KO-86 has it
        ("/$export", ["b2", "b3", "o1", "p1-new", "p1-old"]),
        ("/$export?_type=Patient", None),
        ("/Patient/$export", ["b2", "p1-new", "p1-old"]),
        ("/Patient/$export?_type=Provenance", ["b2", "p1-new", "p1-old"]),
        ("/Group/first/$export", ["p1-new", "p1-old"]),
        ("/Group/both/$export?_type=Provenance,Patient", ["b2", "p1-new", "p1-old"]),
        # With what is exported, the newest or all, and no other (see KO-87 and KO-88)
        (f"/$export?_type=Patient&{RELEVANT}", ["p1-new", "p1-old"]),
        (f"/$export?_type=Patient&{LATEST}", ["p1-new"]),
        (f"/$export?_type=Organization&{LATEST}", ["o1"]),
        (f"/$export?_type=Organization,Patient&{LATEST}", ["o1", "p1-new"]),
        (f"/$export?_type=Organization,Patient,Provenance&{LATEST}", ["o1", "p1-new"]),
        (f"/$export?{RELEVANT}", ["b2", "b3", "o1", "p1-new", "p1-old"]),
        (f"/$export?_type=Provenance&{RELEVANT}", ["b2", "b3", "o1", "p1-new", "p1-old"]),
        (f"/Group/both/$export?_type=Observation&{RELEVANT}", ["b2"]),
        (f"/$export?_type=Observation&_typeFilter=Observation%3F_id%3Db3&{RELEVANT}", ["b3"]),
        # Of two wishes the one for more holds, as KO-90 has it
        (f"/$export?_type=Patient&{LATEST}&{RELEVANT}", ["p1-new", "p1-old"]),
        (f"/$export?_type=Patient&{LATEST},RelevantProvenanceResources", ["p1-new", "p1-old"]),
    ],
)
async def test_provenance_comes_as_it_was_asked_for_and_never_twice(archive: House, path: str, found: list[str] | None) -> None:
    assert (await exported(archive, path)).get("Provenance") == found


async def test_provenance_of_what_changed_comes_however_old_it_is(archive: House) -> None:
    """KO-88: with `_since` the exported resources decide."""
    first = await archive.export()
    archive.clock.advance(1)
    await archive.resources.update("Observation", "b2", {"resourceType": "Observation", "status": "final", "code": {"text": "z"}})
    archive.clock.advance(1)
    found = await exported(archive, f"/$export?_type=Patient,Observation&_since={first['transactionTime']}&{RELEVANT}")
    assert found == {"Observation": ["b2"], "Provenance": ["b2"]}


async def test_by_itself_provenance_comes_when_it_changed_however_old_what_it_is_about(archive: House) -> None:
    """KO-73, KO-86: at Patient level its own window counts."""
    first = await archive.export()
    archive.clock.advance(1)
    await archive.resources.create("Provenance", provenance("late", "Observation/b2"), "late")
    await archive.resources.create("Provenance", provenance("late-of-nobody", "Observation/b3"), "late-of-nobody")
    archive.clock.advance(1)
    found = await exported(archive, f"/Patient/$export?_since={first['transactionTime']}")
    assert found == {"Provenance": ["late"]}


@pytest.mark.parametrize(
    ("scope", "status"),
    [("system/Patient.rs", 403), ("system/Patient.rs system/Provenance.rs", 202), ("system/Patient.rs system/Provenance.r", 403)],
)
async def test_provenance_that_comes_along_takes_its_own_scope(archive: House, scope: str, status: int) -> None:
    """SE-03, SE-10: also for polls and files, for it is among what the job holds."""
    response = await archive.ask("GET", f"/$export?_type=Patient&{RELEVANT}", scope=scope, headers=KICK_OFF)
    assert response.status_code == status
    if status == 202:
        poll = await archive.ask("GET", response.headers["Content-Location"], scope="system/Patient.rs")
        assert poll.status_code == 403


async def test_an_unknown_kind_of_associated_data_is_refused(archive: House) -> None:
    """KO-91."""
    response = await archive.ask("GET", "/$export?includeAssociatedData=_custom", headers=KICK_OFF)
    assert response.status_code == 400


async def test_a_granular_scope_on_provenance_holds_for_what_comes_along(archive: House) -> None:
    """Law 8, SE-09: a scope that grants some Provenance does not grant all of it because it was asked for this way."""
    scope = "system/Patient.rs system/Provenance.rs?_id=p1-old"
    manifest = await archive.export(f"/$export?_type=Patient&{RELEVANT}", scope=scope)
    (item,) = [item for item in manifest["output"] if item["type"] == "Provenance"]
    lines = (await archive.ask("GET", item["url"], scope=scope)).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["p1-old"]


async def test_a_granular_scope_on_what_it_is_about_holds_for_its_provenance(archive: House) -> None:
    """Law 8: what may not be exported has no Provenance to come along."""
    scope = "system/Observation.rs?_id=b2 system/Provenance.rs"
    manifest = await archive.export(f"/$export?_type=Observation&{RELEVANT}", scope=scope)
    (item,) = [item for item in manifest["output"] if item["type"] == "Provenance"]
    lines = (await archive.ask("GET", item["url"], scope=scope)).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["b2"]
