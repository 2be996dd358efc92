"""OperationDefinitions and the SMART configuration: for anybody to read, nothing else (CS-09, KO-20 to KO-30, SE-20 to SE-22)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from mounts import SMART, Bare, mount
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fhir_bulk_middleware import BulkData, BulkDataMiddleware
from fhir_bulk_middleware.dialects import DIALECTS, HEALTH_CONNECT_AU, STANDARD, STU2, STU4, Dialect
from fhir_bulk_middleware.dialects.model import Lists

pytestmark = pytest.mark.anyio

BASE = "https://ehr.example/fhir"
SINGLE = {
    "_outputFormat",
    "_since",
    "_until",
    "organizeOutputBy",
    "allowPartialManifests",
    "_minimumFileSize",
    "_maximumFileSize",
}


@asynccontextmanager
async def client(bulk: BulkData) -> AsyncIterator[httpx2.AsyncClient]:
    host = Starlette(routes=[Route("/fhir/OperationDefinition/{id}", lambda _: PlainTextResponse("host"))])
    bulk.install(host)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(host), base_url="https://ehr.example") as http:
        yield http


async def read(bulk: BulkData, name: str) -> dict[str, Any]:
    async with client(bulk) as http:
        answer = await http.get(f"/fhir/OperationDefinition/bulk.{name}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/fhir+json"
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_every_operation_that_the_statement_names_has_its_definition(dialect: Dialect) -> None:
    bulk = mount(dialect)
    rest = bulk.capability.fragment()["rest"][0]
    operations = [*rest.get("operation", []), *(one for entry in rest["resource"] for one in entry.get("operation", []))]
    of_patients = {"type", "instance"} if dialect.one_patient else {"type"}
    assert operations
    for operation in operations:
        name = operation["definition"].rpartition("/")[2]
        document = await read(bulk, name)
        assert document["url"] == f"{BASE}/OperationDefinition/bulk.{name}"
        assert document["base"] == operation["definition"]
        assert document["code"] == operation["name"]
        at = {place for place in ("system", "type", "instance") if document[place]}
        assert at == {"export": {"system"}, "patient-export": of_patients, "group-export": {"instance"}}[name]
        assert f"OperationDefinition/bulk.{name}" in operation["documentation"]
        taken = {parameter["name"] for parameter in document["parameter"]}
        assert taken <= dialect.parameters
        for parameter in document["parameter"]:
            assert parameter["max"] == ("1" if parameter["name"] in SINGLE else "*")


async def test_definitions_differ_by_version_as_the_guide_does() -> None:
    async def parameters(dialect: Dialect, name: str = "patient-export") -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in (await read(mount(dialect), name))["parameter"]}

    stu2, stu3, stu4 = [await parameters(dialect) for dialect in (STU2, STANDARD, STU4)]
    assert (
        {"_until", "allowPartialManifests"}
        <= stu3.keys() - stu2.keys()
        <= {"_until", "organizeOutputBy", "allowPartialManifests"}
    )
    assert stu4.keys() - stu3.keys() == {"_minimumFileSize", "_maximumFileSize"}
    assert "patient" not in await parameters(STANDARD, "export"), "KO-25"
    if "includeAssociatedData" in stu2:
        assert stu3["includeAssociatedData"]["type"] == "code"
        assert stu4["includeAssociatedData"]["type"] == "Coding"
    assert (await read(mount(STU4), "export"))["affectsState"] is True, "CS-09"
    assert (await read(mount(STANDARD), "export"))["affectsState"] is False


async def test_what_the_adapter_cannot_do_is_not_defined() -> None:
    taken = {one["name"] for one in (await read(mount(resources=Bare()), "patient-export"))["parameter"]}

    assert not {"includeAssociatedData", "organizeOutputBy"} & taken
    assert "_since" in taken


async def test_ids_that_are_not_ours_stay_the_hosts() -> None:
    """Law 14."""
    async with client(mount(HEALTH_CONNECT_AU)) as http:
        for id_ in ("export", "bulk.group-export", "bulk.export2", "bulk.", "Bulk.export"):
            assert (await http.get(f"/fhir/OperationDefinition/{id_}")).text == "host", id_
        assert (await http.get("/fhir/OperationDefinition/bulk.export")).status_code == 200


async def test_a_token_is_not_looked_at_and_other_methods_want_one() -> None:
    async with client(mount()) as http:
        plain = await http.get("/fhir/OperationDefinition/bulk.export")
        with_token = await http.get("/fhir/OperationDefinition/bulk.export", headers={"Authorization": "Bearer nonsense"})
        assert plain.text == with_token.text
        head = await http.head("/fhir/OperationDefinition/bulk.export")
        assert head.status_code == 200
        assert (await http.delete("/fhir/OperationDefinition/bulk.export")).status_code == 401
        evil = await http.get("/fhir/OperationDefinition/bulk.export", headers={"Host": "evil.example/x"})
        assert evil.status_code == 400


@pytest.mark.parametrize("accept", ["application/json", "application/fhir+xml", "text/html", "*/*"])
@pytest.mark.parametrize("path", ["/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration"])
async def test_the_smart_configuration_is_json_whatever_is_accepted(accept: str, path: str) -> None:
    async with client(mount(smart=SMART)) as http:
        answer = await http.get(path, headers={"Accept": accept})

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    assert document["token_endpoint"] == "https://auth.example/token"
    assert "client_credentials" in document["grant_types_supported"]
    assert {"client-confidential-asymmetric", "permission-v1", "permission-v2"} <= set(document["capabilities"])
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert {"RS384", "ES384"} <= set(document["token_endpoint_auth_signing_alg_values_supported"])
    assert document["scopes_supported"]


async def test_without_the_setting_there_is_no_smart_configuration() -> None:
    async with client(mount()) as http:
        assert (await http.get("/.well-known/smart-configuration")).text == "Not Found"
        assert (await http.get("/fhir/.well-known/smart-configuration")).text == "Not Found"


async def test_the_middleware_serves_it_at_the_hosts_root_too() -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("host")(scope, receive, send)

    app = BulkDataMiddleware(host, mount(smart=SMART))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        assert (await http.get("/.well-known/smart-configuration")).json()["token_endpoint"] == SMART["token_endpoint"]
        assert (await http.get("/.well-known/other")).text == "host"


@pytest.mark.parametrize(
    "url", ["/token", "ftp://auth.example/token", "https://", "https://u:p@auth.example/token", "https://a/#x"]
)
async def test_urls_of_the_smart_configuration_must_be_absolute(url: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        mount(smart={"token_endpoint": url})


def kick_off_values(dialect: Dialect) -> dict[str, dict[str, Any]]:
    """The schema of one value of each parameter of a kick-off, wherever the document has it."""
    found: dict[str, dict[str, Any]] = {}
    for path, operations in mount(dialect).openapi()["paths"].items():
        for method, operation in operations.items():
            if not path.endswith("$export"):
                continue
            if method == "get":
                for parameter in operation["parameters"]:
                    schema = parameter["schema"]
                    found[parameter["name"]] = schema.get("items", schema)
            else:
                entries = operation["requestBody"]["content"]["application/fhir+json"]["schema"]["properties"]["parameter"]
                for entry in entries["items"]["oneOf"]:
                    (value,) = [schema for name, schema in entry["properties"].items() if name.startswith("value")]
                    found[entry["properties"]["name"]["const"]] = value.get("properties", {}).get("code", value)
    return found


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_document_says_what_values_look_like(dialect: Dialect) -> None:
    """A client that is made from the document cannot send what is always refused."""
    values = kick_off_values(dialect)
    cases = {
        "_outputFormat": (["ndjson", "application/fhir+ndjson"], ["csv", ""]),
        "_type": (["Patient"], ["patient", "", "Patient?a=b", "Patient,", "Patient Observation"]),
        "_typeFilter": (
            ["Patient?gender=male", "Observation?code=a%2Cb&status=final"],
            ["Patient", "Patient?", "?a=b", "patient?a=b"],
        ),
        "_elements": (["id", "Patient.name", "Observation.value[x]"], ["Patient.name.family", "", "Name"]),
    }
    offer = mount(dialect).offer
    assert values.keys() >= cases.keys() & {one.name for level in dialect.kick_off for one in offer.parameters(level)}
    for name in cases.keys() & values.keys():
        judge = Draft202012Validator(values[name])
        good, bad = cases[name]
        assert all(map(judge.is_valid, good)), name
        assert not any(map(judge.is_valid, bad)), name
    lists = Draft202012Validator(values["_type"])
    assert lists.is_valid("Patient,Observation") == (dialect.lists is Lists.COMMA)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_document_says_what_other_methods_on_a_path_of_ours_get(dialect: Dialect) -> None:
    for path, operations in mount(dialect, deletes=None).openapi()["paths"].items():
        for operation in operations.values():
            assert "Allow" in operation["responses"]["405"]["headers"], path
