"""Kick-offs that nobody thought of: never a 5XX, never a hang, and no job for a refused request.

The long run is a setting away: `FUZZ_EXAMPLES=100000 pytest tests/test_fuzz.py`.
"""

import json
import os
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from house import KICK_OFF, House
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from fhir_bulk_middleware.dialects import STANDARD

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "800"))

NAMES = st.sampled_from(
    [*sorted(STANDARD.parameters), "_minimumFileSize", "foo", "", "_typefilter", "_sort", "_count", "_cursor", "%00"]
)
WORDS = st.sampled_from(
    [
        "Patient",
        "Observation",
        "Patient,Observation",
        "Patient?active=true",
        "Observation?date=ge2020-01-01&status=final",
        "Observation?value-quantity=lt5.40|http://unitsofmeasure.org|mg",
        "Patient?_has:x:y:z=1",
        "Patient/p1",
        "2020-01-01T00:00:00Z",
        "2020-02-30T00:00:00+99:99",
        "9999-12-31T23:59:60Z",
        "0001-01-01T00:00:00+14:00",
        "application/fhir+ndjson",
        "LatestProvenanceResources",
        "true",
        "id,Patient.name",
        "1000",
        "\u0660",
        "../../etc/passwd",
        "%{x}{0}%s",
        "\x00",
        "' OR 1=1 --",
    ]
)
VALUES = st.one_of(WORDS, st.text(max_size=30), st.lists(WORDS, min_size=2, max_size=3).map(",".join))
FITTING = st.sampled_from(
    [
        ("_type", "Patient"),
        ("_type", "Patient,Observation"),
        ("_since", "2020-01-01T00:00:00Z"),
        ("_until", "2030-01-01T00:00:00.123456+02:00"),
        ("_elements", "id,Patient.name"),
        ("_typeFilter", "Patient?active=true"),
        ("_outputFormat", "ndjson"),
        ("allowPartialManifests", "true"),
    ]
)
PAIRS = st.one_of(
    st.lists(st.one_of(FITTING, st.tuples(st.one_of(NAMES, st.text(max_size=12)), VALUES)), max_size=4),
    st.lists(FITTING, max_size=3, unique_by=lambda pair: pair[0]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), VALUES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "valueString", "part", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ENTRIES = st.lists(
    st.one_of(
        st.builds(
            lambda name, key, value: {"name": name, key: value}, NAMES, st.sampled_from(["valueString", "valueInstant"]), VALUES
        ),
        st.builds(lambda name, value: {"name": name, "valueReference": value}, NAMES, JSON),
        JSON,
    ),
    max_size=3,
)
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    ENTRIES.map(lambda entries: json.dumps({"resourceType": "Parameters", "parameter": entries}).encode()),
)
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Prefer": st.one_of(st.just("respond-async"), st.just("respond-async, handling=lenient"), HEADER),
        "Accept": st.one_of(st.just("application/fhir+json"), HEADER),
        "Content-Type": st.one_of(st.just("application/fhir+json"), HEADER),
        "Idempotency-Key": HEADER,
        "Host": HEADER,
        "Range": HEADER,
        "X-Request-Id": HEADER,
    },
)
KICK_OFFS = st.sampled_from(["/$export", "/Patient/$export", "/Group/both/$export", "/Patient/p1/$export"])
PATHS = st.one_of(
    KICK_OFFS,
    KICK_OFFS,
    KICK_OFFS,
    st.text(max_size=20).map(lambda text: f"/Group/{text}/$export"),
    st.text(max_size=20).map(lambda text: f"/Patient/{text}/$export"),
    st.text(max_size=40).map(lambda text: f"/$export-status/{text}"),
    st.text(max_size=40).map(lambda text: f"/$export-file/{text}"),
    st.just("/$export-status"),
)
METHODS = st.sampled_from(["GET"] * 6 + ["POST"] * 6 + ["DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"])


async def straight(  # noqa: PLR0917 - a request has that many parts
    house: House, method: str, path: str, query: str, headers: dict[str, str], body: bytes | None
) -> Any:
    """A request as a server hands it over: no client tidies it up before."""
    sent: list[dict[str, Any]] = []
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": query.encode("latin-1", "ignore"),
        "headers": raw,
    }
    with anyio.fail_after(PATIENCE):
        await house.bulk.app(scope, receive, send)
    return sent


@pytest.mark.timeout(3600)
@pytest.mark.anyio
async def test_whatever_is_asked_is_answered_and_leaves_nothing_unless_accepted(make_house: Any) -> None:
    cases: list[Any] = []

    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(METHODS, PATHS, PAIRS, st.one_of(st.just(KICK_OFF), HEADERS), BODIES, st.text(max_size=20)))
    def collect(case: Any) -> None:
        cases.append(case)

    collect()
    async with make_house(jobs_per_owner=10) as house:
        await house.resources.create("Patient", {"resourceType": "Patient"}, "p1")
        house.clock.advance(1)
        token = house.token()
        statuses: dict[int, int] = {}
        seen: set[bytes] = set()
        for number, (method, path, pairs, headers, body, loose) in enumerate(cases):
            query = urlencode(pairs, errors="replace") if number % 3 else loose.replace(" ", "%")
            sent = await straight(house, method, path, query, {**headers, "Authorization": f"Bearer {token}"}, body)
            start = sent[0]
            statuses[start["status"]] = statuses.get(start["status"], 0) + 1
            assert start["status"] < 500, (method, path, query, headers, body)
            location = dict(start["headers"]).get(b"content-location")
            worked = await house.runner.step()
            new = start["status"] == 202 and location not in seen  # an Idempotency-Key may come to an earlier job
            assert worked == new, (method, path, query, headers, body)
            if location is not None:
                seen.add(location)
                await house.runner.finish()
            elif start["status"] >= 400 and method != "HEAD":
                assert json.loads(sent[1]["body"])["resourceType"] == "OperationOutcome"

    assert statuses.get(202, 0) > EXAMPLES // 100, "the fuzzer also finds what is accepted"
    assert statuses.get(400, 0) > EXAMPLES // 100
