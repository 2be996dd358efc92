"""The parameter index has a key for each resource that meets a criterion, whatever else it has."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.canonical import canonical_and_content
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.search.matching import Matcher
from fhir_bulk_middleware.fhir.search.parameter_index import INDEXED, ParameterIndex, decoded, indexed
from fhir_bulk_middleware.fhir.version import FhirVersion

BASE = "https://ehr.example/fhir"
INDEX = ParameterIndex(FhirVersion.R4)

SYSTEMS = st.sampled_from(["http://loinc.org", "urn:x", ""])
CODES = st.sampled_from(["a", "b", "B", "8302-2", "é", "1"])
CODINGS = st.fixed_dictionaries({}, optional={"system": SYSTEMS, "code": CODES | st.just(1), "display": CODES})
CONCEPTS = st.fixed_dictionaries({}, optional={"coding": st.lists(CODINGS, max_size=2) | st.just([None]), "text": CODES})
IDENTIFIERS = st.fixed_dictionaries({}, optional={"system": SYSTEMS, "value": CODES, "type": CONCEPTS})
ENCOUNTERS = st.sampled_from(
    [
        "Encounter/1",
        "Encounter/2",
        f"{BASE}/Encounter/1",
        "https://other.example/Encounter/1",
        "Encounter/1/_history/2",
        "urn:uuid:1",
        "#1",
        "1",
        "",
    ]
)
DAYS = st.dates().map(str) | st.sampled_from(["2020-02-29", "2020-03-01", "2020-01-31", "0001-01-01", "9999-12-31"])
TIMES = st.sampled_from(["", "T00:00:00Z", "T23:30:00-11:00", "T00:30:00+14:00", "T12:00:00.5Z", "T12:00"])
DATES = st.builds("{}{}".format, DAYS, TIMES) | st.sampled_from(["2020", "2020-02", "0001", "9999", "nonsense", "2020-13-01"])
PERIODS = st.fixed_dictionaries({}, optional={"start": DATES, "end": DATES})
TIMINGS = st.fixed_dictionaries(
    {}, optional={"event": st.lists(DATES, max_size=2), "repeat": st.fixed_dictionaries({"boundsPeriod": PERIODS})}
)

RESOURCES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "Observation": st.fixed_dictionaries(
        {"resourceType": st.just("Observation"), "id": st.just("1")},
        optional={
            "status": CODES,
            "category": st.lists(CONCEPTS, max_size=2),
            "code": CONCEPTS,
            "identifier": st.lists(IDENTIFIERS, max_size=2),
            "effectiveDateTime": DATES,
            "effectiveInstant": DATES,
            "effectivePeriod": PERIODS,
            "effectiveTiming": TIMINGS,
        },
    ),
    "Condition": st.fixed_dictionaries(
        {"resourceType": st.just("Condition"), "id": st.just("1")},
        optional={
            "encounter": st.fixed_dictionaries({}, optional={"reference": ENCOUNTERS}),
            "recordedDate": DATES,
            "clinicalStatus": CONCEPTS,
        },
    ),
    "QuestionnaireResponse": st.fixed_dictionaries(
        {"resourceType": st.just("QuestionnaireResponse"), "id": st.just("1")},
        optional={"questionnaire": st.sampled_from(["http://x/Questionnaire/1", "http://x/Questionnaire/1|2", "urn:q"])},
    ),
}

TOKENS = CODES | st.builds("{}|{}".format, SYSTEMS, CODES)
SEVERAL = st.lists(TOKENS, min_size=1, max_size=3).map(",".join)
PREFIXES = st.sampled_from(["", "eq", "ne", "gt", "ge", "lt", "le", "sa", "eb", "ap"])
QUERIES: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "Observation": st.tuples(st.sampled_from(["status", "status:not"]), CODES)
    | st.tuples(st.sampled_from(["category", "code", "identifier"]), SEVERAL | st.just("http://loinc.org|"))
    | st.tuples(st.sampled_from(["code:not", "code:text"]), TOKENS.filter(lambda token: token[:1] != "|"))
    | st.tuples(st.just("code:missing"), st.sampled_from(["true", "false"]))
    | st.tuples(st.just("identifier:of-type"), st.builds("urn:x|{}|{}".format, CODES, CODES))
    | st.tuples(st.just("date"), st.builds("{}{}".format, PREFIXES, DATES)),
    "Condition": st.tuples(st.sampled_from(["encounter", "encounter:Encounter"]), st.sampled_from(["1", "2"]))
    | st.tuples(
        st.just("encounter"), st.sampled_from(["Encounter/1", f"{BASE}/Encounter/1", "https://other.example/Encounter/1"])
    )
    | st.tuples(st.just("recorded-date"), st.builds("{}{}".format, PREFIXES, DATES))
    | st.tuples(st.just("clinical-status"), SEVERAL),
    "QuestionnaireResponse": st.tuples(
        st.just("questionnaire"), st.sampled_from(["http://x/Questionnaire/1", "http://x/Questionnaire/1|2", "urn:q"])
    ),
}


def named(resource: dict[str, Any]) -> list[tuple[str, int]]:
    """The keys of a resource, with the names of their parameters."""
    names = indexed(resource["resourceType"])
    return [(names[place], number) for place, number in map(decoded, INDEX.keys(resource))]


def asked(type_: str, name: str, value: str) -> Criteria | None:
    try:
        return Criteria.of(FhirVersion.R4, type_, [(name, value)])
    except ValueError:
        return None


@settings(max_examples=500)
@given(data=st.sampled_from(sorted(RESOURCES)).flatmap(lambda type_: st.tuples(RESOURCES[type_], QUERIES[type_])))
@example(({"resourceType": "Observation", "id": "1", "effectiveDateTime": "2020-03-01T00:30:00+14:00"}, ("date", "2020-02-29")))
@example(({"resourceType": "Observation", "id": "1", "effectivePeriod": {"end": "2020"}}, ("date", "ap2019")))
@example(({"resourceType": "Observation", "id": "1", "effectivePeriod": {"start": "2020", "end": "1999"}}, ("date", "eb2001")))
@example(({"resourceType": "Observation", "id": "1", "effectivePeriod": {"start": "1990-05-01"}}, ("date", "ge2020")))
def test_what_meets_a_criterion_has_a_key_for_it(data: tuple[dict[str, Any], tuple[str, str]]) -> None:
    """Also as the text is parsed when it is written, where numbers are placeholders."""
    resource, (name, value) = data
    criteria = asked(resource["resourceType"], name, value)
    if criteria is None or not Matcher(criteria, [BASE]).matches(resource):
        return
    ranges = INDEX.ranges(criteria.criteria[0], criteria.type)
    if ranges is None:
        return
    for content in (resource, *(canonical_and_content(json.dumps(resource), fast=fast)[1] for fast in (True, False))):
        keys = named({**content})
        assert any(key == name and low <= number <= high for key, number in keys for name, low, high in ranges)


@pytest.mark.parametrize(
    "query",
    [
        *("status=final", "code=http://loinc.org|1", "code=|1", "code=1,2", "identifier=1", "identifier:of-type=a|b|c"),
        *("date=2020", "date=ge2020-01-01", "date=lt2020", "date=sa2020", "date=eb2020", "date=ap2020"),
    ],
)
def test_the_index_has_these(query: str) -> None:
    assert INDEX.ranges(Criteria.of(FhirVersion.R4, "Observation", parse_qsl(query)).criteria[0], "Observation")


@pytest.mark.parametrize(
    "query",
    [
        *("status:not=final", "code=http://loinc.org|", "code=1,http://loinc.org|", "code:missing=false", "code:text=a"),
        *("date=ne2020", "date=2020,ne2021", "value-string=a", "component-code=a"),
    ],
)
def test_the_index_says_nothing_about_these(query: str) -> None:
    assert INDEX.ranges(Criteria.of(FhirVersion.R4, "Observation", parse_qsl(query)).criteria[0], "Observation") is None


def test_days_lie_apart_from_the_ends_of_long_intervals() -> None:
    """What began lately is asked for without what ended lately."""
    since = Criteria.of(FhirVersion.R4, "Observation", [("date", "sa2020-01-01")]).criteria[0]
    ((name, low, high),) = INDEX.ranges(since, "Observation") or ()
    long_ago = {"resourceType": "Observation", "effectivePeriod": {"start": "1990-01-01", "end": "2021-01-01"}}
    assert not any(key == name and low <= number <= high for key, number in named(long_ago))


@pytest.mark.parametrize("version", FhirVersion)
def test_each_listed_parameter_is_read_in_each_release_that_has_it(version: FhirVersion) -> None:
    """R5 has no `code` of ServiceRequest any more; nothing else is missing."""
    index, known = ParameterIndex(version), definitions(version)
    values = {"date": "2020-01-01", "token": "a", "reference": "http://x/Encounter/1"}
    unread = set()
    for type_ in INDEXED:
        for name in indexed(type_):
            parameter = known.parameters(type_).get(name)
            criteria = None if parameter is None else Criteria.of(version, type_, [(name, values[parameter.type])])
            if criteria is None or index.ranges(criteria.criteria[0], type_) is None:
                unread.add((type_, name))
    lacking = {(type_, "identifier") for type_ in INDEXED if "identifier" not in known.parameters(type_)}
    assert unread == lacking | ({("ServiceRequest", "code")} if version is FhirVersion.R5 else set())
