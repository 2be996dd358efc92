"""Bad input gets a clear error that names the part; nothing of it becomes a job, and none of it a fault."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from house import KICK_OFF, House

pytestmark = pytest.mark.anyio

FHIR = {"Content-Type": "application/fhir+json"}
NO_JOB = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Bad:
    """A request, and what it must be answered."""

    what: str
    status: int
    names: str
    path: str = "/$export"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=lambda: dict(KICK_OFF))
    body: bytes | None = None
    scope: str = "system/*.rs"
    token: str | None = None
    subject: str | None = "alice"


def query(what: str, text: str, names: str, status: int = 400, **more: Any) -> Bad:
    return Bad(what, status, names, path=f"/$export?{text}", **more)


def body(what: str, text: str | bytes, names: str, status: int = 400, **more: Any) -> Bad:
    raw = text.encode() if isinstance(text, str) else text
    headers = more.pop("headers", {**KICK_OFF, **FHIR})
    return Bad(what, status, names, method="POST", body=raw, headers=headers, **more)


def parameter(what: str, text: str, names: str, **more: Any) -> Bad:
    return body(what, f'{{"resourceType":"Parameters","parameter":[{text}]}}', names, **more)


TABLE = [
    # The query string
    query("an unknown parameter", "foo=1", "http.foo"),
    query("an unknown parameter without a value", "foo", "http.foo"),
    query("a parameter in another case", "_TYPE=Patient", "http._TYPE"),
    query("a result parameter of search", "_sort=_id", "http._sort"),
    query("an empty parameter name", "=1", "http."),
    query("a date instead of an instant", "_since=2026-01-01", "http._since"),
    query("an instant without an offset", "_since=2026-01-01T00:00:00", "http._since"),
    query("an instant without seconds", "_since=2026-01-01T00:00Z", "http._since"),
    query("a day that does not exist", "_since=2026-02-30T00:00:00Z", "http._since"),
    query("an hour that does not exist", "_since=2026-01-01T25:00:00Z", "http._since"),
    query("an offset that does not exist", "_since=2026-01-01T00:00:00%2B99:00", "http._since"),
    query("an empty since", "_since=", "http._since"),
    query("words for an instant", "_since=yesterday", "http._since"),
    query("digits of another script", "_since=%D9%A2026-01-01T00:00:00Z", "http._since"),
    query("an instant of year 10000", "_since=10000-01-01T00:00:00Z", "http._since"),
    query("a since in the future", "_since=2036-01-01T00:00:00Z", "http._since"),
    query("since twice", "_since=2020-01-01T00:00:00Z&_since=2020-01-01T00:00:00Z", "http._since"),
    query("an unknown type", "_type=Patiens", "http._type"),
    query("a type in lower case", "_type=patient", "http._type"),
    query("an empty type", "_type=", "http._type"),
    query("an empty type in a list", "_type=Patient,,Observation", "http._type"),
    query("a type with a blank", "_type=Patient, Observation", "http._type"),
    query("a type that is a path", "_type=../../etc/passwd", "http._type"),
    query("a type that is a query", "_type=Patient?active=true", "http._type"),
    query("a very long type", "_type=" + "P" * 5000, "http._type"),
    query("an abstract type", "_type=DomainResource", "http._type"),
    query("an output format that nobody has", "_outputFormat=text/csv", "http._outputFormat"),
    query("an empty output format", "_outputFormat=", "http._outputFormat"),
    query("an output format twice", "_outputFormat=ndjson&_outputFormat=ndjson", "http._outputFormat"),
    query("a patient in a GET", "patient=Patient/1", "http.patient"),
    query("bytes that are not UTF-8", "_type=%FF%FE", "http.query"),
    query("too many parameters", "&".join(["_type=Patient"] * 1001), "http.query"),
    query("a null byte", "_type=Patient%00", "http._type"),
    query("a line break", "_type=Patient%0D%0ASet-Cookie:x", "http._type"),
    # Headers
    Bad("no Prefer", 400, "http.Prefer", headers={"Accept": "application/fhir+json"}),
    Bad("another Prefer", 400, "http.Prefer", headers={"Prefer": "return=minimal"}),
    Bad("a Prefer in quotes", 400, "http.Prefer", headers={"Prefer": '"respond-async"'}),
    Bad("an unknown handling", 400, "http.Prefer", headers={"Prefer": "respond-async, handling=loose"}),
    Bad("two handlings", 400, "http.Prefer", headers={"Prefer": "respond-async, handling=lenient, handling=strict"}),
    Bad("an Accept without JSON", 406, "http.Accept", headers={"Prefer": "respond-async", "Accept": "text/html"}),
    Bad("an Accept for XML", 406, "http.Accept", headers={"Prefer": "respond-async", "Accept": "application/fhir+xml"}),
    # Bodies
    body("no JSON", "nonsense", "Parameters"),
    body("half of JSON", '{"resourceType":"Parameters"', "Parameters"),
    body("a list", "[]", "Parameters"),
    body("a number", "1", "Parameters"),
    body("another resource", '{"resourceType":"Patient"}', "Parameters.resourceType"),
    body("no resource", "{}", "Parameters.resourceType"),
    body("a parameter that is no list", '{"resourceType":"Parameters","parameter":{}}', "Parameters.parameter"),
    body("JSON of great depth", "[" * 100_000, "Parameters"),
    body("bytes that are not UTF-8", b'{"resourceType":"Parameters\xff"}', "Parameters"),
    parameter("no name", '{"valueString":"x"}', "Parameters.parameter[0].name"),
    parameter("a name that is a number", '{"name":1,"valueString":"x"}', "Parameters.parameter[0].name"),
    parameter("no value", '{"name":"_type"}', "Parameters.parameter[0]"),
    parameter("two values", '{"name":"_type","valueString":"Patient","valueCode":"Patient"}', "Parameters.parameter[0]"),
    parameter("a value without text", '{"name":"_type","valueString":["Patient"]}', "Parameters.parameter[0]"),
    parameter("a value of null", '{"name":"_type","valueString":null}', "Parameters.parameter[0]"),
    parameter("parts", '{"name":"_type","part":[]}', "Parameters.parameter[0]"),
    parameter("an unknown parameter", '{"name":"foo","valueString":"x"}', "Parameters.parameter[0]"),
    parameter("a malformed since", '{"name":"_since","valueInstant":"2026"}', "Parameters.parameter[0]"),
    parameter("an unknown type", '{"name":"_type","valueString":"Nope"}', "Parameters.parameter[0]"),
    body(
        "a form",
        "_type=Patient",
        "http.Content-Type",
        415,
        headers={**KICK_OFF, "Content-Type": "application/x-www-form-urlencoded"},
    ),
    body("no content type", "{}", "http.Content-Type", 415, headers=dict(KICK_OFF)),
    body("XML", "<Parameters/>", "http.Content-Type", 415, headers={**KICK_OFF, "Content-Type": "application/fhir+xml"}),
    body("a body that is too large", b" " * (1024 * 1024 + 1), "", 413),
    body("parameters in both places", '{"resourceType":"Parameters"}', "http.query", path="/$export?_type=Patient"),
    # Paths and methods
    Bad("another method on a kick-off", 405, "", method="PUT"),
    Bad("a deletion of a kick-off", 405, "", method="DELETE"),
    Bad("another method on a poll", 405, "", method="PATCH", path=f"/$export-status/{NO_JOB}"),
    Bad("a path of nobody", 404, "", path="/$exports"),
    Bad("a path with a slash at its end", 404, "", path="/$export/"),
    Bad("an unknown patient", 404, "", path="/Patient/nope/$export"),
    Bad("a patient id that climbs", 404, "", path="/Patient/..%2F..%2Fetc/$export"),
    Bad("a list of jobs with a bad count", 400, "http._count", path="/$export-status?_count=0"),
    Bad("a list of jobs with an unknown parameter", 400, "http._sort", path="/$export-status?_sort=date"),
    Bad("an unknown group", 404, "", path="/Group/nope/$export"),
    Bad("a group id that is none", 404, "", path="/Group/a%20b/$export"),
    Bad("a group id that climbs", 404, "", path="/Group/..%2F..%2Fetc/$export"),
    Bad("a very long group id", 414, "", path=f"/Group/{'g' * 4000}/$export"),
    Bad("a poll for an unknown job", 404, "", path=f"/$export-status/{NO_JOB}"),
    Bad("a poll for what is no job id", 404, "", path="/$export-status/1"),
    Bad("a poll for a path", 404, "", path="/$export-status/..%2F..%2Fjobs.db"),
    Bad("a job id in capitals", 404, "", path="/$export-status/ABCDEF00-0000-0000-0000-000000000000"),
    Bad("a cancel of an unknown job", 404, "", method="DELETE", path=f"/$export-status/{NO_JOB}"),
    Bad("a file of nobody", 404, "", path="/$export-file/bulk.00000000000000000000000000000000.0-0"),
    Bad("a file id that is none", 404, "", path="/$export-file/passwd"),
    Bad("a file id that climbs", 404, "", path="/$export-file/..%2F..%2Fetc%2Fpasswd"),
    Bad("a file id with a null byte", 404, "", path="/$export-file/bulk%00"),
    # Tokens and scopes
    Bad("no token", 401, "", subject=None),
    Bad("a token that is none", 401, "", token="nonsense"),
    Bad("a token of dots", 401, "", token="..."),
    Bad("an empty token", 401, "", subject=None, headers={**KICK_OFF, "Authorization": "Bearer "}),
    Bad("another scheme", 401, "", subject=None, headers={**KICK_OFF, "Authorization": "Basic YTpi"}),
    Bad("a scheme alone", 401, "", subject=None, headers={**KICK_OFF, "Authorization": "Bearer"}),
    Bad("a very long token", 431, "http.Authorization", token="a" * 100_000),
    Bad("no scope at all", 403, "", scope=""),
    Bad("a scope that only reads", 403, "", scope="system/*.r"),
    Bad("a scope that only deletes", 403, "", scope="system/*.d"),
    Bad("a user's scope", 403, "", scope="user/*.rs"),
    Bad("a patient's scope", 403, "", scope="patient/*.rs"),
    Bad("a granular scope that cannot be applied", 403, "", scope="system/Observation.rs?_sort=date"),
    Bad("a granular scope that only reads", 403, "", scope="system/Observation.r?category=laboratory"),
    Bad("a scope in capitals", 403, "", scope="SYSTEM/*.RS"),
    query("a type beyond the scopes", "_type=Patient,Observation", "http._type", 403, scope="system/Patient.rs"),
    Bad("types outside compartments", 400, "http._type", path="/Patient/$export?_type=Organization"),
]


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: f"{bad.method} {bad.what}")
async def test_bad_input_is_refused_with_the_part_named(house: House, bad: Bad) -> None:
    """KO-04, KO-82, KO-112, FR-03."""
    response = await house.ask(
        bad.method, bad.path, subject=bad.subject, scope=bad.scope, token=bad.token, headers=bad.headers, content=bad.body
    )

    assert response.status_code == bad.status, response.text
    assert response.headers["Content-Type"] == "application/fhir+json"
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    issue = outcome["issue"][0]
    assert issue["severity"] == "error"
    assert issue["details"]["text"] == issue["diagnostics"]
    if bad.names:
        assert issue["expression"] == [bad.names]
    assert "Content-Location" not in response.headers
    assert not await house.runner.step(), "a refused request left work behind"


def test_the_table_is_large_enough_to_mean_something() -> None:
    assert len(TABLE) >= 60
