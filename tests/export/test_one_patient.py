"""Exports of one patient at `Patient/{id}/$export`: the Patient level with exactly the patient of the path."""

import json
from typing import Any

import httpx2
import pytest
from house import BASE, KICK_OFF, House, populate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fhir_bulk_middleware import BulkDataMiddleware
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects import DIALECTS, Dialect
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

pytestmark = pytest.mark.anyio

PATH = "/Patient/p1/$export"
OFFERED = {name: dialect for name, dialect in DIALECTS.items() if dialect.one_patient}
MALFORMED = [
    "%2E",
    "%2E%2E",
    "%2E%2E%2E",
    "x" * 65,
    "a%2Fb",
    "..%2F..%2Fetc",
    "a%2F%2Fb",
    "%2F",
    "p1%2F",
    "a%0Ab",
    "%0A",
    "p_1",
    "é",
]


def body(*names: str, patient: str = "Patient/p1") -> dict[str, Any]:
    entries: list[dict[str, Any]] = [{"name": name, "valueReference": {"reference": patient}} for name in names]
    return {"resourceType": "Parameters", "parameter": entries}


class Particular(MemoryResourceStore):
    """A storage in which alice may not see p2; it keeps what it was asked."""

    asked: list[str]

    async def patients(self, references: frozenset[str], principal: Any) -> frozenset[str]:
        self.asked = [*getattr(self, "asked", ()), *references]
        seen = await super().patients(references, principal)
        return seen - {"Patient/p2"} if principal.owner.subject == "alice" else seen


@pytest.mark.parametrize("dialect", OFFERED.values(), ids=OFFERED)
async def test_an_export_of_one_patient_holds_the_patients_compartment_and_nothing_else(
    make_house: Any, dialect: Dialect
) -> None:
    async with make_house(dialect) as house:
        await populate(house)
        for method in dialect.kick_off[Level.PATIENT]:
            accepted = await house.ask(method, f"{PATH}?_type=Patient,Observation" if method == "GET" else PATH, headers=KICK_OFF)
            assert accepted.status_code == 202, accepted.text
            await house.runner.finish()
            manifest = (await house.ask("GET", accepted.headers["Content-Location"])).json()
            if dialect.manifest.request:
                assert manifest["request"].startswith(f"{BASE}{PATH}")
            lines = await house.lines(manifest)
            found = {type_: {json.loads(line)["id"] for line in several} for type_, several in lines.items()}
            assert found["Patient"] == {"p1"}
            assert found["Observation"] == {"b1", "b4"}


async def test_a_post_takes_the_other_parameters(house: House) -> None:
    sent = {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Patient"}]}
    accepted = await house.ask("POST", PATH, headers=KICK_OFF, json=sent)
    await house.runner.finish()

    manifest = (await house.ask("GET", accepted.headers["Content-Location"])).json()
    assert [item["type"] for item in manifest["output"]] == ["Patient"]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_vendors_whose_document_has_no_such_path_do_not_have_it(make_house: Any, dialect: Dialect) -> None:
    async with make_house(dialect) as house:
        await populate(house)
        answers = {method: (await house.ask(method, PATH, headers=KICK_OFF)).status_code for method in ("GET", "POST")}

    if not dialect.one_patient:
        assert set(answers.values()) == {404}
    else:
        offered = dialect.kick_off[Level.PATIENT]
        assert answers == {method: 202 if method in offered else 405 for method in ("GET", "POST")}


@pytest.mark.parametrize("dialect", OFFERED.values(), ids=OFFERED)
async def test_patients_who_are_unknown_gone_hidden_or_malformed_are_answered_alike(make_house: Any, dialect: Dialect) -> None:
    """Law 42: a malformed id does not reach the adapter."""
    async with make_house(dialect, store=Particular) as house:
        await populate(house)
        await house.resources.delete("Patient", "p3")
        house.clock.advance(1)
        method = dialect.kick_off[Level.PATIENT][0]
        for verb in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST", method):
            for token in (None, house.token(scope="")):
                answers = []
                for id_ in ("never", "p3", "p2", *MALFORMED):
                    answer = await house.ask(verb, f"/Patient/{id_}/$export", headers=KICK_OFF, token=token)
                    headers = [item for item in answer.headers.multi_items() if item[0] != "x-request-id"]
                    answers.append((answer.status_code, headers, answer.content))

                assert answers == [answers[0]] * len(answers), verb
        status, _, content = answers[0]
        group = await house.ask(method, "/Group/never/$export", headers=KICK_OFF)
        told, of_group = json.loads(content), group.json()
        assert status == group.status_code == 404
        assert told["issue"][0]["code"] == of_group["issue"][0]["code"] == "not-found"
        assert told["issue"][0].keys() == of_group["issue"][0].keys()
        assert not await house.runner.step(), "nothing began"
        assert {*house.resources.asked} == {"Patient/never", "Patient/p3", "Patient/p2"}
        assert (await house.ask(method, "/Patient/p2/$export", subject="bob", headers=KICK_OFF)).status_code == 202


class Untelling:
    """A storage that exports and does not know its patients."""

    def __init__(self, store: MemoryResourceStore) -> None:
        self.authorise, self.pages = store.authorise, store.pages


async def test_an_adapter_that_does_not_know_its_patients_is_not_asked(make_house: Any) -> None:
    async with make_house(parts={"resources": Untelling(MemoryResourceStore())}) as house:
        assert (await house.ask("GET", "/Patient/never/$export", headers=KICK_OFF)).status_code == 202
        assert (await house.ask("GET", "/Patient/%2E%2E/$export", headers=KICK_OFF)).status_code == 404


@pytest.mark.parametrize("handling", ["", ", handling=lenient"])
async def test_patient_is_refused_besides_the_patient_of_the_path(house: House, handling: str) -> None:
    headers = {**KICK_OFF, "Prefer": f"respond-async{handling}"}
    for patient in ("Patient/p1", "Patient/p2"):
        for answer in (
            await house.ask("POST", PATH, headers=headers, json=body("patient", patient=patient)),
            await house.ask("GET", f"{PATH}?patient={patient}", headers=headers),
        ):
            assert answer.status_code == 400
            assert "patient" in answer.json()["issue"][0]["diagnostics"]
    assert not await house.runner.step(), "nothing began"


async def test_scopes_are_needed_as_at_patient_level(house: House) -> None:
    refused = await house.ask("GET", f"{PATH}?_type=Observation", scope="system/Patient.rs", headers=KICK_OFF)
    assert refused.status_code == 403
    assert (await house.ask("GET", PATH, subject=None, headers=KICK_OFF)).status_code == 401
    assert (await house.ask("GET", PATH, scope="system/Patient.rs", headers=KICK_OFF)).status_code == 202


async def test_a_head_begins_no_export(house: House) -> None:
    assert (await house.ask("HEAD", PATH, headers=KICK_OFF)).status_code == 405
    assert not await house.runner.step()


@pytest.mark.parametrize("attach", ["install", "middleware", "mount"])
async def test_the_hosts_own_routes_of_a_patient_stay_the_hosts(house: House, attach: str) -> None:
    async def theirs(_: Request) -> PlainTextResponse:
        return PlainTextResponse("host")

    paths = ["/fhir/Patient/{id}", "/fhir/Patient/{id}/$everything", "/fhir/Patient/{id}/_history/{version}"]
    app: Any = Starlette(routes=[Route(path, theirs, methods=["GET", "POST"]) for path in paths])
    match attach:
        case "install":
            house.bulk.install(app)
        case "middleware":
            app = BulkDataMiddleware(app, house.bulk)
        case _:
            app.mount("/fhir", house.bulk.app)
    headers = {"Authorization": f"Bearer {house.token()}", **KICK_OFF}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as client:
        for path in ("Patient/p1", "Patient/p1/$everything", "Patient/p1/_history/1"):
            for method in ("GET", "POST"):
                assert (await client.request(method, f"/fhir/{path}", headers=headers)).text == "host"
        for method in ("GET", "POST"):
            assert (await client.request(method, f"/fhir{PATH}", headers=headers)).status_code == 202
        assert (await client.get("/fhir/Patient/p4/$export", headers=headers)).status_code == 404


@pytest.mark.parametrize("dialect", OFFERED.values(), ids=OFFERED)
async def test_it_is_in_every_description_of_the_mount(make_house: Any, dialect: Dialect) -> None:
    async with make_house(dialect) as house:
        paths = house.bulk.openapi()["paths"]
        definition = (await house.ask("GET", "/OperationDefinition/bulk.patient-export")).json()
        (rest,) = house.bulk.capability.fragment()["rest"]
        (patient,) = [entry for entry in rest["resource"] if entry["type"] == "Patient"]

        offered = {method.lower() for method in dialect.kick_off[Level.PATIENT]}
        assert paths["/Patient/{patient}/$export"].keys() == offered
        posted = json.dumps(paths["/Patient/{patient}/$export"]["post"]["requestBody"])
        assert '"_since"' in posted
        assert '"const": "patient"' not in posted
        assert '"const": "patient"' in json.dumps(paths["/Patient/$export"]["post"]["requestBody"])
        assert (definition["type"], definition["instance"]) == (True, True)
        assert "`Patient/[id]/$export`" in patient["operation"][0]["documentation"]
