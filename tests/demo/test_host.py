"""The demo host is a FHIR server in its own right: what it answers, and what it refuses."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

FHIR = {"content-type": "application/fhir+json"}
MINT = TokenMint("https://issuer.example", "https://ehr.example/fhir")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteResourceStore]:
    store = SQLiteResourceStore(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
async def http(store: SQLiteResourceStore) -> AsyncIterator[httpx2.AsyncClient]:
    verifier = JoseTokenVerifier(jwks=MINT.jwks, issuer=MINT.issuer, audience=MINT.audience)
    app = fhir_host(store, verifier, operations=[{"name": "export", "definition": "http://example.org/export"}])
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://ehr/fhir", headers=bearer("system/*.cruds")
    ) as http:
        yield http


def bearer(scope: str) -> dict[str, str]:
    return {"authorization": f"Bearer {MINT.token('somebody', scope)}"}


def patient(**members: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", **members}


def issue(response: httpx2.Response) -> str:
    """The code of the one issue; its shape is that which the middleware's document promises for shared paths."""
    assert response.headers["content-type"] == "application/fhir+json"
    assert response.headers["x-request-id"]
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    (only,) = outcome["issue"]
    assert only["details"]["text"] == only["diagnostics"]
    assert only["diagnostics"].isprintable()
    code: str = only["code"]
    return code


async def test_what_is_created_can_be_read_where_the_answer_says(http: httpx2.AsyncClient) -> None:
    created = await http.post("/Patient", json=patient(active=True), headers=FHIR)

    assert created.status_code == 201
    id_ = created.json()["id"]
    assert created.headers["location"] == f"http://ehr/fhir/Patient/{id_}/_history/1"
    assert created.headers["etag"] == 'W/"1"'
    assert created.headers["last-modified"].endswith("GMT")
    for url in (f"/Patient/{id_}", created.headers["location"]):
        read = await http.get(url)
        assert (read.status_code, read.content) == (200, created.content)
        assert read.headers["etag"] == 'W/"1"'


async def test_digits_are_kept(http: httpx2.AsyncClient) -> None:
    body = '{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10}}'

    await http.put("/Observation/o", content=body, headers=FHIR)

    assert '"value":1.10}' in (await http.get("/Observation/o")).text


async def test_an_update_makes_a_new_version_and_keeps_the_old_one(http: httpx2.AsyncClient) -> None:
    first = await http.put("/Patient/a", json=patient(id="a", gender="male"), headers=FHIR)
    second = await http.put("/Patient/a", json=patient(id="a", gender="female"), headers=FHIR)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.headers["etag"] == 'W/"2"'
    assert (await http.get("/Patient/a")).json()["gender"] == "female"
    assert (await http.get("/Patient/a/_history/1")).json()["gender"] == "male"


@pytest.mark.parametrize(("etag", "status"), [('W/"1"', 200), ('"1"', 200), ('W/"2"', 412), ("1", 400)])
async def test_if_match_names_the_version_that_is_replaced(http: httpx2.AsyncClient, etag: str, status: int) -> None:
    await http.put("/Patient/a", json=patient(id="a"), headers=FHIR)

    updated = await http.put("/Patient/a", json=patient(id="a", active=True), headers=FHIR | {"if-match": etag})

    assert updated.status_code == status


async def test_what_was_deleted_is_gone_and_what_never_was_is_not_found(
    http: httpx2.AsyncClient, store: SQLiteResourceStore
) -> None:
    await http.put("/Patient/a", json=patient(id="a"), headers=FHIR)
    await store.delete("Patient", "a")

    gone, unknown = await http.get("/Patient/a"), await http.get("/Patient/b")

    assert (gone.status_code, issue(gone)) == (410, "deleted")
    assert (unknown.status_code, issue(unknown)) == (404, "not-found")
    assert (await http.get("/Patient/a/_history/1")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "content_type", "status"),
    [
        ("GET", "/Pattient/a", None, None, 404),
        ("GET", "/Patient/a/_history/x", None, None, 404),
        ("GET", "/Patient/a/_history/99999999999999999999", None, None, 404),
        ("GET", "/Patient/a/b/c/d", None, None, 404),
        ("GET", "/Patient?name=x", None, None, 400),
        ("GET", "/Patient?_count=0", None, None, 400),
        ("GET", "/Patient?_count=many", None, None, 400),
        ("GET", "/Patient/", None, None, 404),
        ("DELETE", "/Patient/?identifier=1", None, None, 404),
        ("DELETE", "/Patient/a/", None, None, 404),
        ("DELETE", "/Patient/a", None, None, 405),
        ("PATCH", "/Patient/a", "[]", "application/json-patch+json", 405),
        ("POST", "/Patient", "{}", "text/plain", 415),
        ("POST", "/Patient", "{", "application/fhir+json", 400),
        ("POST", "/Patient", "[]", "application/fhir+json", 400),
        ("POST", "/Patient", '{"resourceType":"Group"}', "application/fhir+json", 400),
        ("PUT", "/Patient/a", '{"resourceType":"Patient","id":"b"}', "application/fhir+json", 400),
        ("PUT", "/Patient/a", '{"resourceType":"Patient","id":"a","meta":7}', "application/fhir+json", 422),
        ("PUT", "/Patient/a%1B%0A", '{"resourceType":"Patient","id":"b"}', "application/fhir+json", 400),
        ("POST", "/Patient", '{"resourceType":"Patient","active":true,"active":false}', "application/fhir+json", 422),
    ],
)
async def test_whatever_is_wrong_is_said_as_an_operation_outcome(  # noqa: PLR0917 - a table's columns
    http: httpx2.AsyncClient, method: str, path: str, content: str | None, content_type: str | None, status: int
) -> None:
    headers = {"content-type": content_type} if content_type else {}

    response = await http.request(method, path, content=content, headers=headers)

    assert response.status_code == status
    assert issue(response)


async def test_a_wrong_method_is_told_the_right_ones(http: httpx2.AsyncClient) -> None:
    assert "GET" in (await http.delete("/Patient/a")).headers["allow"]


async def test_all_but_the_capability_statement_wants_a_token(http: httpx2.AsyncClient) -> None:
    del http.headers["authorization"]

    assert (await http.get("/metadata")).status_code == 200
    for method, path in [("GET", "/Patient"), ("GET", "/Patient/a"), ("POST", "/Patient"), ("PUT", "/Patient/a")]:
        refused = await http.request(method, path)
        assert (refused.status_code, issue(refused), refused.headers["www-authenticate"]) == (401, "login", "Bearer")


async def test_a_bad_token_is_refused_as_such(http: httpx2.AsyncClient) -> None:
    expired = MINT.token("somebody", "system/*.cruds", expires_in=-3600)

    refused = await http.get("/Patient", headers={"authorization": f"Bearer {expired}"})

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("system/Patient.r", {"read"}),
        ("system/Patient.rs", {"read", "search"}),
        ("system/Patient.c", {"create"}),
        ("system/Patient.u", {"update"}),
        ("system/Observation.cruds", set()),
        ("system/*.write", {"create", "update"}),
    ],
)
async def test_a_scope_opens_what_it_says_and_nothing_else(http: httpx2.AsyncClient, scope: str, allowed: set[str]) -> None:
    await http.put("/Patient/a", json=patient(id="a"), headers=FHIR)
    headers = bearer(scope) | FHIR

    answers = {
        "read": await http.get("/Patient/a", headers=headers),
        "search": await http.get("/Patient", headers=headers),
        "create": await http.post("/Patient", json=patient(), headers=headers),
        "update": await http.put("/Patient/a", json=patient(id="a"), headers=headers),
    }

    assert {name for name, answer in answers.items() if answer.status_code != 403} == allowed


async def test_a_search_goes_through_all_pages_without_repeating_or_leaving_out(http: httpx2.AsyncClient) -> None:
    for number in range(7):
        await http.put(f"/Patient/p{number}", json=patient(id=f"p{number}"), headers=FHIR)

    found = []
    url: str | None = "/Patient?_count=3"
    while url is not None:
        bundle = (await http.get(url)).json()
        found.append([entry["resource"]["id"] for entry in bundle["entry"]])
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)

    assert [len(page) for page in found] == [3, 3, 1]
    assert sorted(id_ for page in found for id_ in page) == [f"p{number}" for number in range(7)]


async def test_a_search_by_id_finds_those_and_an_empty_one_has_no_entries(http: httpx2.AsyncClient) -> None:
    for id_ in "abc":
        await http.put(f"/Patient/{id_}", json=patient(id=id_), headers=FHIR)

    two, none = (await http.get("/Patient?_id=c,a,unknown")).json(), (await http.get("/Patient?_id=unknown")).json()

    assert {entry["fullUrl"] for entry in two["entry"]} == {"http://ehr/fhir/Patient/a", "http://ehr/fhir/Patient/c"}
    assert two["type"] == "searchset"
    assert "entry" not in none


async def test_resources_go_out_as_they_are_stored(http: httpx2.AsyncClient, store: SQLiteResourceStore) -> None:
    await http.put("/Patient/a", json=patient(id="a", name=[{"family": "𠮷田"}]), headers=FHIR)

    stored = await store.read("Patient", "a")

    assert stored is not None
    assert (await http.get("/Patient/a")).content == stored.json
    assert stored.json in (await http.get("/Patient")).content


async def test_the_capability_statement_says_what_was_added_to_the_host(http: httpx2.AsyncClient) -> None:
    (rest,) = (await http.get("/metadata")).json()["rest"]

    assert rest["operation"] == [{"name": "export", "definition": "http://example.org/export"}]
    assert "Patient" in {resource["type"] for resource in rest["resource"]}


async def test_a_fault_is_said_as_an_operation_outcome_too(store: SQLiteResourceStore) -> None:
    class Broken:
        async def verify(self, token: str) -> Principal:
            raise RuntimeError(token)

    app = fhir_host(store, Broken())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://ehr/fhir") as http:
        answer = await http.get("/Patient/a", headers=bearer("system/*.rs"))

    assert (answer.status_code, issue(answer)) == (500, "exception")
    assert "token" not in answer.text.lower()


async def test_links_use_the_public_address_where_one_is_set(store: SQLiteResourceStore) -> None:
    verifier = JoseTokenVerifier(jwks=MINT.jwks, issuer=MINT.issuer, audience=MINT.audience)
    app = fhir_host(store, verifier, base="/r4", public_base_url="https://ehr.example/fhir")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inside") as http:
        created = await http.post("/r4/Patient", content=json.dumps(patient()), headers=FHIR | bearer("system/*.cruds"))

    assert created.headers["location"].startswith("https://ehr.example/fhir/Patient/")
