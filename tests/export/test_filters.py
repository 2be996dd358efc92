"""`_typeFilter` and granular scopes: what is exported is what a search would have found, no more and no less (TF, SE-09)."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
import pytest
from house import KICK_OFF, House, populate
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import Filter, Level
from fhir_bulk_middleware.dialects import DIALECTS, Dialect
from fhir_bulk_middleware.dialects.model import Lists
from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.search.matching import Matcher
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant

pytestmark = pytest.mark.anyio


def observation(id_: str, status: str, code: str, value: str, patient: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": status,
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "category": [{"coding": [{"code": "laboratory" if id_ < "o3" else "vital-signs"}]}],
        "subject": {"reference": f"Patient/{patient}"},
        "valueQuantity": {"value": Decimal(value), "unit": "mg"},
    }


OBSERVATIONS = [
    observation("o1", "final", "8302-2", "1.10", "p1"),
    observation("o2", "amended", "8302-2", "12.5", "p2"),
    observation("o3", "final", "29463-7", "70", "p1"),
    observation("o4", "preliminary", "718-7", "13", "p3"),
]


@pytest.fixture
async def clinic(house: House) -> House:
    """A house with some more observations, and none of the others."""
    for id_ in ("b1", "b2", "b3", "b4"):
        await house.resources.delete("Observation", id_)
    for resource in OBSERVATIONS:
        await house.resources.create("Observation", resource, resource["id"])
    house.clock.advance(1)
    return house


async def exported(house: House, path: str, **more: Any) -> dict[str, list[str]]:
    lines = await house.lines(await house.export(path, **more))
    return {type_: sorted(json.loads(line)["id"] for line in several) for type_, several in lines.items()}


def filtered(*queries: str, types: str = "Observation") -> str:
    return f"/$export?_type={types}" + "".join(f"&_typeFilter={quote(query)}" for query in queries)


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        (["Observation?code=8302-2"], ["o1", "o2"]),
        (["Observation?code=http://loinc.org|8302-2&status=final"], ["o1"]),
        (["Observation?status=final,preliminary"], ["o1", "o3", "o4"]),
        (["Observation?code=8302-2", "Observation?status=preliminary"], ["o1", "o2", "o4"]),
        (["Observation?status:not=final"], ["o2", "o4"]),
        (["Observation?value-quantity=gt13"], ["o3"]),
        (["Observation?value-quantity=1.1"], ["o1"]),
        (["Observation?subject=Patient/p1"], ["o1", "o3"]),
        (["Observation?subject=https://ehr.example/fhir/Patient/p3"], ["o4"]),
        (["Observation?category=vital-signs&code=718-7,29463-7"], ["o3", "o4"]),
        (["Observation?code=nothing"], None),
    ],
)
async def test_of_a_filtered_type_comes_what_any_of_its_queries_finds(
    clinic: House, queries: list[str], found: list[str] | None
) -> None:
    """TF-01, TF-02, TF-07, MF-20."""
    assert await exported(clinic, filtered(*queries)) == ({} if found is None else {"Observation": found})


async def test_a_filter_does_not_restrict_other_types(clinic: House) -> None:
    """TF-03."""
    found = await exported(clinic, filtered("Observation?status=amended", types="Observation,Patient"))
    assert found == {"Observation": ["o2"], "Patient": ["p1", "p2", "p3"]}


async def test_filters_work_within_compartments(clinic: House) -> None:
    """TF-04."""
    found = await exported(
        clinic, f"/Group/both/$export?_type=Observation&_typeFilter={quote('Observation?status=final,amended')}"
    )
    assert found == {"Observation": ["o1", "o2", "o3"]}


async def test_a_granular_scope_restricts_and_a_filter_restricts_it_further(clinic: House) -> None:
    """SE-09, law 8."""
    scope = "system/Observation.rs?category=laboratory system/Patient.rs"
    manifest = await clinic.export("/$export", scope=scope)
    lines = [json.loads(line)["id"] for line in (await own_lines(clinic, manifest, scope))["Observation"]]
    assert sorted(lines) == ["o1", "o2"]
    manifest = await clinic.export(filtered("Observation?status=final"), scope=scope)
    lines = [json.loads(line)["id"] for line in (await own_lines(clinic, manifest, scope))["Observation"]]
    assert lines == ["o1"]


async def own_lines(house: House, manifest: dict[str, Any], scope: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in manifest["output"]:
        found.setdefault(item["type"], []).extend((await house.ask("GET", item["url"], scope=scope)).text.splitlines())
    return found


@pytest.mark.parametrize(
    ("path", "scope", "deleted"),
    [
        ("&_typeFilter=Observation?status=final", "system/*.rs", ["Observation/o1", "Observation/o2"]),
        ("", "system/Observation.rs?category=laboratory", []),
    ],
)
async def test_a_deletion_has_no_content_to_filter(clinic: House, path: str, scope: str, deleted: list[str]) -> None:
    """DR-06, law 27: under a wish it is told by its type, under a right it is left out."""
    first = await clinic.export()
    await clinic.resources.delete("Observation", "o1")
    await clinic.resources.delete("Observation", "o2")
    since = f"/$export?_type=Observation&_since={first['transactionTime']}{path}"
    manifest = await clinic.export(since, scope=scope)
    text = "".join([(await clinic.ask("GET", item["url"], scope=scope)).text for item in manifest["deleted"]])
    assert [json.loads(line)["entry"][0]["request"]["url"] for line in text.splitlines()] == deleted


async def test_files_end_where_filtered_pages_fill_them(make_house: Any) -> None:
    """Laws 5 and 15, also where most pages come to nothing."""
    async with make_house(part_bytes=4096, page_bytes=1024, smallest_part_bytes=1) as house:
        for number in range(200):
            status = "final" if number % 10 == 0 else "amended"
            resource = observation(f"o{number:03}", status, "8302-2", "1", "p1")
            await house.resources.create("Observation", resource, resource["id"])
        manifest = await house.export(filtered("Observation?status=final"))
        lines = (await house.lines(manifest))["Observation"]
        assert [json.loads(line)["id"] for line in lines] == [f"o{number:03}" for number in range(0, 200, 10)]
        sizes = [item["extension"]["size"] for item in manifest["output"]]
        assert max(sizes) <= 4096
        assert min(sizes[:-1]) > 4096 - 1024
        assert sum(item["count"] for item in manifest["output"]) == 20


# --- As real clients write them (law 39, TF-10, KO-62) -------------------------------------------------------------------

BOTH_CODES = "Observation?code=29463-7%2C8302-2"  # as smart-fetch has it, before it encodes the whole for the URL
EITHER_QUERY = "Observation?status=amended,Observation?code=29463-7"
TWO_TYPES = "Observation?status=amended,Patient?_id=p1"
WAYS = [
    (dialect, level, method) for dialect in DIALECTS.values() for level, methods in dialect.kick_off.items() for method in methods
]


def way(value: object) -> str:
    return value.name if isinstance(value, Dialect) else str(value)


async def asked(house: House, level: Level, method: str, filters: Sequence[str], types: Sequence[str] = ()) -> httpx2.Response:
    """The answer to a kick-off with these values of `_typeFilter`, however the dialect takes them."""
    sent = [*(("_type", type_) for type_ in types), *(("_typeFilter", value) for value in filters)]
    path = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/both/$export"}[level]
    if method == "GET":
        return await house.ask("GET", f"{path}?{urlencode(sent, quote_via=quote)}", headers=KICK_OFF)
    body = {"resourceType": "Parameters", "parameter": [{"name": name, "valueString": value} for name, value in sent]}
    return await house.ask("POST", path, headers=KICK_OFF, json=body)


async def found_by(house: House, level: Level, method: str, filters: Sequence[str], types: Sequence[str]) -> dict[str, list[str]]:
    response = await asked(house, level, method, filters, types)
    assert response.status_code == 202, response.text
    await house.runner.finish()
    manifest = (await house.ask("GET", response.headers["Content-Location"])).json()
    lines = await house.lines(manifest)
    return {type_: sorted(json.loads(line)["id"] for line in several) for type_, several in lines.items()}


async def fill(house: House) -> None:
    await populate(house)
    for resource in OBSERVATIONS:
        await house.resources.create("Observation", resource, resource["id"])
    house.clock.advance(1)


@pytest.mark.parametrize(("dialect", "level", "method"), WAYS, ids=way)
async def test_a_filter_is_read_as_a_url_is_in_every_dialect_and_by_both_methods(
    make_house: Any, dialect: Dialect, level: Level, method: str
) -> None:
    """TF-10, KO-62, law 39: no comma and no query of a client is lost in silence."""
    async with make_house(dialect, retry_after=1) as house:
        await fill(house)
        assert await found_by(house, level, method, [BOTH_CODES], ["Observation"]) == {"Observation": ["o1", "o2", "o3"]}
        joined = [(EITHER_QUERY, ["Observation"]), (TWO_TYPES, ["Observation", "Patient"])]
        for value, types in joined:
            if dialect.lists is Lists.REPETITION:
                refused = await asked(house, level, method, [value], types)
                assert refused.status_code == 400
                assert "repeated" in refused.json()["issue"][0]["diagnostics"]
                value_list = value.split(",")
            else:
                value_list = [value]
            found = await found_by(house, level, method, value_list, types)
            assert found == ({"Observation": ["o2"], "Patient": ["p1"]} if "Patient" in types else {"Observation": ["o2", "o3"]})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("value", ["Observation?code=%zz", "Observation?code=a%2", "Observation?code=%ff", "Observation?co%de=a"])
async def test_broken_encoding_within_a_filter_is_refused(clinic: House, method: str, value: str) -> None:
    """Law 39."""
    for values in ([value], ["Observation?status=final", value], [f"Observation?status=final,{value}"]):
        response = await asked(clinic, Level.SYSTEM, method, values)
        assert response.status_code == 400
        assert "percent" in response.json()["issue"][0]["diagnostics"]


async def test_broken_encoding_of_a_query_string_is_refused(clinic: House) -> None:
    for query in ("_type=%zz", "_typeFilter=Patient%3Fname%3D%", "_%since=x"):
        response = await clinic.ask("GET", f"/$export?{query}", headers=KICK_OFF)
        assert response.status_code == 400
        assert response.json()["issue"][0]["expression"] == ["http.query"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("category=laboratory%2Cvital-signs", ["o1", "o2", "o3", "o4"]),
        ("code=8302-2%26status=final", None),
        ("status%3Anot=final", ["o2", "o4"]),
        ("status:not=%ff", None),
        ("status:not=%zz", None),
    ],
)
async def test_a_granular_scope_is_read_as_a_url_is_and_never_wider(clinic: House, query: str, found: list[str] | None) -> None:
    """Law 39, law 8: what does not decode grants nothing."""
    scope = f"system/Observation.rs?{query}"
    response = await clinic.ask("GET", "/$export", headers=KICK_OFF, scope=scope)
    if found is None and "%26" not in query:
        assert response.status_code == 403
        return
    await clinic.runner.finish()
    manifest = (await clinic.ask("GET", response.headers["Content-Location"], scope=scope)).json()
    lines = await own_lines(clinic, manifest, scope)
    assert [json.loads(line)["id"] for line in lines.get("Observation", [])] == (found or [])


@pytest.mark.parametrize(("query", "found"), [("patient:missing=false", True), ("patient:missing=true", False)])
def test_the_type_of_a_contained_target_is_known_to_a_filter(query: str, found: bool) -> None:
    """TF-01: a line is parsed without the members that decide nothing; `contained` decides what a reference into it leads to."""
    filters = Filters([Filter("Observation", (Criteria.parse(FhirVersion.R4, "Observation", query),))], "Observation")
    patient = {"resourceType": "Patient", "id": "p"}
    line = {"resourceType": "Observation", "id": "o", "contained": [patient], "subject": {"reference": "#p"}, "status": "final"}
    assert filters.passes(json.dumps(line, separators=(",", ":")).encode()) is found


# --- Against a search that parses everything ---------------------------------------------------------------------------

_CODES = st.sampled_from(["final", "amended", "8302-2", "718-7", "x", "é", '"', "a b", "\\u0061"])
_QUERIES = st.sampled_from(
    [
        "status=final",
        "status=amended,final",
        "code=8302-2",
        "code:text=x",
        "status:not=final",
        "code=718-7&status=final",
        "value-quantity=gt1.10",
        "value-quantity=1.1",
        "subject=Patient/p1",
        "subject:missing=true",
        "category:missing=false",
        "code=x,8302-2&value-quantity=le2",
        "code-value-quantity=8302-2$gt1.1",
        "patient:missing=false",
        "patient=p1",
        "_id=o1,o2",
    ]
)
_RESOURCES = st.builds(
    lambda id_, status, code, value, patient, extra: {
        "resourceType": "Observation",
        "id": f"o{id_}",
        "status": status,
        "code": {"coding": [{"code": code}], "text": extra},
        "valueQuantity": {"value": value},
        **({"subject": {"reference": f"Patient/{patient}" if patient != "#p" else patient}} if patient else {}),
        **({"contained": [{"resourceType": "Patient", "id": "p"}]} if patient == "#p" else {}),
        **({"category": [{"text": extra}]} if extra else {}),
    },
    st.integers(0, 99),
    _CODES,
    _CODES,
    st.sampled_from([Decimal("1.1"), Decimal("1.10"), Decimal("1.101"), Decimal(2), Decimal("1e1"), Decimal("0.99")]),
    st.sampled_from(["", "p1", "p11", "p2", "#p"]),
    st.sampled_from(["", "x", "final", "8302-2", "Patient/p1"]),
)


@given(
    st.lists(_RESOURCES, max_size=12), st.lists(st.lists(_QUERIES, min_size=1, max_size=3), min_size=1, max_size=2), st.booleans()
)
def test_what_passes_is_what_a_search_without_short_cuts_finds(
    resources: Sequence[dict[str, Any]], queries: list[list[str]], escape: bool
) -> None:
    filters = [
        Filter("Observation", tuple(Criteria.parse(FhirVersion.R4, "Observation", query) for query in several))
        for several in queries
    ]
    lines = [canonical(resource).text(1, Instant(0)) for resource in resources]
    if escape:  # an adapter that escapes what it need not: slower, and the same
        lines = [line.replace(b'"final"', b'"\\u0066inal"') for line in lines]
    expected = [
        line
        for line in lines
        for parsed in [json.loads(line, parse_float=Decimal)]
        if all(any(Matcher(one).matches(parsed) for one in filter_.alternatives) for filter_ in filters)
    ]
    tried = Filters([*filters, Filter("Patient", filters[0].alternatives)], "Observation")
    page = b"".join(line + b"\n" for line in lines)
    assert list(filter(tried.judge, tried.candidates(page))) == expected if page else not expected
    assert [line for line in lines if tried.passes(line)] == expected
