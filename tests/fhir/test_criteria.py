"""What criteria are understood, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.search.escaping import escape, split, unescape
from fhir_bulk_middleware.fhir.search.values import TokenValue
from fhir_bulk_middleware.fhir.version import FhirVersion

R4 = FhirVersion.R4

REFUSED = [
    # result parameters (TF-06)
    ("Patient", "_sort=name", "_sort", "shapes a result"),
    ("Patient", "_count=5", "_count", "shapes a result"),
    ("Patient", "_include=Patient:organization", "_include", "shapes a result"),
    ("Patient", "_include:iterate=Patient:organization", "_include:iterate", "shapes a result"),
    ("Patient", "_revinclude=Observation:subject", "_revinclude", "shapes a result"),
    ("Patient", "_elements=id", "_elements", "shapes a result"),
    ("Patient", "_summary=true", "_summary", "shapes a result"),
    ("Patient", "_total=none", "_total", "shapes a result"),
    ("Patient", "_contained=true", "_contained", "shapes a result"),
    ("Patient", "_containedType=container", "_containedType", "shapes a result"),
    ("Patient", "_format=json", "_format", "shapes a result"),
    ("Patient", "active=true&_sort=name", "_sort", "shapes a result"),
    # advanced search
    ("Patient", "_has:Observation:patient:code=1", "_has:Observation:patient:code", "not supported"),
    ("Patient", "_filter=name eq x", "_filter", "not supported"),
    ("Patient", "_query=x", "_query", "not supported"),
    ("Patient", "_text=x", "_text", "not supported"),
    ("Patient", "_content=x", "_content", "not supported"),
    ("Patient", "_list=1", "_list", "not supported"),
    ("Patient", "_type=Patient", "_type", "not supported"),
    ("Observation", "subject.name=x", "subject.name", "chained"),
    ("Observation", "subject:Patient.name=x", "subject:Patient.name", "chained"),
    # names
    ("Patient", "nonsense=x", "nonsense", "no such search parameter"),
    ("Patient", "Name=x", "Name", "no such search parameter"),
    ("Observation", "birthdate=2000", "birthdate", "no such search parameter"),
    ("Patient", "age=5", "age", "HL7 defines no expression"),
    ("Patient", "phonetic=smith", "phonetic", "phonetic"),
    ("Location", "near=1|2|3|km", "near", "cannot be applied exactly"),
    ("Bundle", "composition=1", "composition", "cannot be applied exactly"),
    # modifiers
    ("Patient", "gender:exact=male", "gender:exact", "modifier is not supported"),
    ("Patient", "gender:in=http://x.org/vs", "gender:in", "modifier is not supported"),
    ("Patient", "gender:not-in=http://x.org/vs", "gender:not-in", "modifier is not supported"),
    ("Patient", "gender:below=male", "gender:below", "modifier is not supported"),
    ("Patient", "name:text=x", "name:text", "modifier is not supported"),
    ("Patient", "name:not=x", "name:not", "modifier is not supported"),
    ("Patient", "name:=x", "name:", "no modifier after the colon"),
    ("Patient", "birthdate:exact=2000", "birthdate:exact", "modifier is not supported"),
    ("Patient", "gender:not=male,female", "gender:not", "repeat the parameter"),
    ("Patient", "gender:text=male", "gender:text", "does not apply"),
    ("Patient", "gender:of-type=a|b|c", "gender:of-type", "does not apply"),
    ("Patient", "deceased:missing=true", "deceased:missing", "always has a value"),
    ("Patient", "gender:missing=yes", "gender:missing", "true or false"),
    ("Patient", "gender:missing=", "gender:missing", "true or false"),
    ("Patient", "gender:missing=true,false", "gender:missing", "true or false"),
    ("Observation", "code-value-quantity:missing=true", "code-value-quantity:missing", "modifier is not supported"),
    ("Observation", "subject:Organization=1", "subject:Organization", "never leads to"),
    ("Observation", "subject:Nonsense=1", "subject:Nonsense", "modifier is not supported"),
    ("Observation", "_profile:below=http://x.org", "_profile:below", "does not apply"),
    ("QuestionnaireResponse", "questionnaire:identifier=1", "questionnaire:identifier", "does not apply"),
    ("ValueSet", "url:below=urn:oid:1", "url:below", "urn"),
    # empty and malformed values
    ("Patient", "gender=", "gender", "value 1 is empty"),
    ("Patient", "gender=male,", "gender", "value 2 is empty"),
    ("Patient", "gender=,male", "gender", "value 1 is empty"),
    ("Patient", "name=.", "name", "nothing but spaces and punctuation"),
    ("Patient", "name:contains= ", "name:contains", "nothing but spaces and punctuation"),
    ("Patient", "name=a\\b", "name", "a backslash that escapes nothing"),
    ("Patient", "name=a\\", "name", "a backslash that escapes nothing"),
    ("Patient", "identifier=|", "identifier", "not a token"),
    ("Patient", "identifier=a|b|c", "identifier", "not a token"),
    ("Patient", "identifier:of-type=a|b", "identifier:of-type", "not system|code|value"),
    ("Patient", "identifier:of-type=a||c", "identifier:of-type", "not system|code|value"),
    ("Patient", "active=yes", "active", "neither true nor false"),
    ("Patient", "active=http://terminology.hl7.org/CodeSystem/special-values|true", "active", "names a system"),
    ("Patient", "deceased=1", "deceased", "neither true nor false"),
    ("Patient", "_id=|x", "_id", "names a system"),
    ("Patient", "phone=phone|555", "phone", "names a system"),
    ("Patient", "gender=|male", "gender", "does not tell its system"),
    ("Task", "intent=http://x.org|order", "intent", "does not tell its system"),
    ("Patient", "birthdate=20000101", "birthdate", "not a date"),
    ("Patient", "birthdate=2000-13", "birthdate", "not a date"),
    ("Patient", "birthdate=2001-02-29", "birthdate", "not a date"),
    ("Patient", "birthdate=0000", "birthdate", "not a date"),
    ("Patient", "birthdate=2000-01-01T10Z", "birthdate", "not a date"),
    ("Patient", "birthdate=2000-01-01T24:00Z", "birthdate", "not a date"),
    ("Patient", "birthdate=2000-01-01T10:00 01:00", "birthdate", "not a date"),
    ("Patient", "birthdate=xx2000", "birthdate", "not a date"),
    ("Patient", "birthdate=GE2000", "birthdate", "not a date"),
    ("Patient", "birthdate=ge", "birthdate", "not a date"),
    ("Patient", "birthdate=2000,nonsense", "birthdate", "value 2 is not a date"),
    ("RiskAssessment", "probability=abc", "probability", "not a number"),
    ("RiskAssessment", "probability=NaN", "probability", "not a number"),
    ("RiskAssessment", "probability=Infinity", "probability", "not a number"),
    ("RiskAssessment", "probability=1e9999", "probability", "not a number"),
    ("RiskAssessment", "probability=.5", "probability", "not a number"),
    ("RiskAssessment", "probability=1_0", "probability", "not a number"),
    ("RiskAssessment", "probability=1e2", "probability", "coarser than 1"),
    ("Observation", "value-quantity=5|mg", "value-quantity", "not a quantity"),
    ("Observation", "value-quantity=5||", "value-quantity", "not a quantity"),
    ("Observation", "value-quantity=5|http://unitsofmeasure.org|", "value-quantity", "not a quantity"),
    ("Observation", "value-quantity=mg", "value-quantity", "not a number"),
    ("Observation", "subject=Patient/", "subject", "not a reference"),
    ("Observation", "subject=a b", "subject", "not a reference"),
    ("Observation", "subject=Patient/1/_history/2", "subject", "not a reference"),
    ("Observation", "subject=Patient:1", "subject", "not a reference"),
    ("Observation", "subject=#p1", "subject", "not a reference"),
    ("Observation", "subject=Organization/1", "subject", "never leads to"),
    ("Observation", "patient=Device/1", "patient", "never leads to"),
    ("Observation", "subject:Patient=Patient/1", "subject:Patient", "not a reference"),
    ("Observation", "subject:Patient=http://x.org/Patient/1", "subject:Patient", "not a reference"),
    ("QuestionnaireResponse", "questionnaire=1", "questionnaire", "not an absolute URL"),
    ("Observation", "code-value-quantity=a", "code-value-quantity", "not a composite of 2 parts"),
    ("Observation", "code-value-quantity=a$", "code-value-quantity", "not a composite of 2 parts"),
    ("Observation", "code-value-quantity=a$5$6", "code-value-quantity", "not a composite of 2 parts"),
    ("Observation", "code-value-quantity=a$b", "code-value-quantity", "not a number"),
    ("Patient", "_id=..", "_id", "does not consist of dots"),
    ("Patient", "_id=a,.", "_id", "does not consist of dots"),
    # the query itself
    ("Patient", "", "Patient", "name=value"),
    ("Patient", "&", "Patient", "name=value"),
    ("Patient", "gender", "gender", "name=value"),
    ("Patient", "=male", "Patient", "name=value"),
    ("Patient", "gender=male&", "Patient", "name=value"),
    ("Nonsense", "gender=male", "Nonsense", "not a resource type"),
    ("DomainResource", "_id=1", "DomainResource", "not a resource type"),
]


@pytest.mark.parametrize(("type_", "query", "part", "problem"), REFUSED)
def test_what_cannot_be_applied_exactly_is_refused_by_name(type_: str, query: str, part: str, problem: str) -> None:
    with pytest.raises(CriteriaError) as refused:
        Criteria.parse(R4, type_, query)
    assert refused.value.part == part
    assert problem in str(refused.value)


def test_a_refusal_never_repeats_a_value_and_cuts_a_long_name() -> None:
    with pytest.raises(CriteriaError) as refused:
        Criteria.parse(R4, "Patient", "birthdate=secret-of-a-patient")
    assert "secret" not in str(refused.value)
    with pytest.raises(CriteriaError) as refused:
        Criteria.parse(R4, "Patient", "x" * 1000 + "=1")
    assert len(refused.value.part) == 80


def test_no_parameters_are_no_criteria() -> None:
    with pytest.raises(CriteriaError, match="an empty query would mean everything"):
        Criteria.of(R4, "Patient", [])


@pytest.mark.parametrize(
    ("type_", "query"),
    [("", ""), ("", "gender=male"), ("Patient", ""), ("Nonsense", "gender=male"), ("Patient/1", "gender=male")],
)
def test_criteria_are_a_type_and_a_query(type_: str, query: str) -> None:
    with pytest.raises(CriteriaError):
        Criteria.parse(R4, type_, query)


def test_a_query_is_parsed_into_its_parameters() -> None:
    assert Criteria.parse(R4, "Patient", "gender=male&active=true") == Criteria.of(
        R4, "Patient", [("gender", "male"), ("active", "true")]
    )


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("identifier=a%2Cb", [("identifier", "a,b")]),
        ("identifier=a%5C%2Cb+c", [("identifier", "a\\,b+c")]),
        ("identifier=a%26gender%3Dmale", [("identifier", "a&gender=male")]),
        ("identifier=a%252Cb", [("identifier", "a%2Cb")]),
        ("family%3Aexact=%C3%81lvarez", [("family:exact", "Álvarez")]),
        ("family=Álvarez", [("family", "Álvarez")]),
        ("identifier=a%20b&gender%3Dmale=", None),
    ],
)
def test_a_query_is_split_and_then_each_name_and_value_is_decoded(query: str, parameters: list[tuple[str, str]] | None) -> None:
    """Law 39."""
    if parameters is None:
        with pytest.raises(CriteriaError):
            Criteria.parse(R4, "Patient", query)
    else:
        assert list(Criteria.parse(R4, "Patient", query).parameters) == parameters


def test_an_encoded_comma_separates_values_as_a_plain_one_does() -> None:
    """Law 39."""
    (criterion,) = Criteria.parse(R4, "Patient", "identifier=a%2Cb").criteria
    assert criterion.values == (TokenValue(None, "a"), TokenValue(None, "b"))


@pytest.mark.parametrize("broken", ["%", "%4", "%zz", "%u0041", "a%2", "%ff", "%C3", "%C3%28", "%ED%A0%80"])
def test_broken_percent_encoding_is_malformed(broken: str) -> None:
    """Law 39: it is never read as some other text."""
    for query in (f"identifier={broken}", f"identifier{broken}=a"):
        with pytest.raises(CriteriaError, match="percent") as refused:
            Criteria.parse(R4, "Patient", query)
        assert refused.value.malformed


def test_a_value_may_contain_question_and_equals_signs() -> None:
    (criterion,) = Criteria.parse(R4, "Patient", "identifier=http://x.org?a=b|c").criteria
    assert criterion.values == (TokenValue("http://x.org?a=b", "c"),)


@pytest.mark.parametrize(
    ("type_", "query"),
    [
        ("Observation", "category=laboratory&date=ge2020-01-01,lt2019&patient=Patient/1"),
        ("Observation", "value-quantity=gt5.40|http://unitsofmeasure.org|mg&code-value-quantity=a$5"),
        ("Patient", "name:exact=a\\,b&gender:not=male&deceased=false&birthdate:missing=true"),
        ("Patient", "_lastUpdated=ge2020-01-01T00:00:00.000+01:00&_id=1,2"),
    ],
)
@pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
def test_criteria_survive_being_kept(version: FhirVersion, type_: str, query: str) -> None:
    criteria = Criteria.parse(version, type_, query)
    kept = json.loads(json.dumps(criteria.to_json()))
    assert Criteria.from_json(kept) == criteria
    assert kept == {
        "fhirVersion": str(version),
        "type": type_,
        "parameters": [part.split("=", 1) for part in query.split("&")],
    }


def test_kept_criteria_are_checked_again() -> None:
    with pytest.raises(CriteriaError):
        Criteria.from_json({"fhirVersion": "4.0.1", "type": "Patient", "parameters": [["_sort", "name"]]})


@given(st.text())
def test_an_escaped_text_is_one_part_and_comes_back(text: str) -> None:
    for separator in ",$|":
        assert split(escape(text), separator) == [escape(text)]
    assert unescape(escape(text)) == text


@given(st.lists(st.text(), min_size=1), st.sampled_from(",$|"))
def test_parts_that_were_joined_come_apart(parts: list[str], separator: str) -> None:
    assert [unescape(part) for part in split(separator.join(map(escape, parts)), separator)] == parts


@given(
    st.sampled_from(["name", "birthdate", "identifier", "general-practitioner", "active", "_profile", "phone"]),
    st.sampled_from(["", ":missing", ":not", ":exact", ":of-type", ":identifier", ":Practitioner"]),
    st.text(alphabet="ab12|,$\\.-:/T+ \u00e9", max_size=12),
)
def test_any_value_is_understood_or_refused(name: str, modifier: str, value: str) -> None:
    try:
        criteria = Criteria.of(R4, "Patient", [(name + modifier, value)])
    except CriteriaError as refused:
        assert refused.part == name + modifier  # noqa: PT017 - both ends are fine, and each has its promise
    else:
        assert Criteria.from_json(criteria.to_json()) == criteria
