"""Search criteria against resources: one row, one sentence about FHIR's search."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.search.matching import Matcher
from fhir_bulk_middleware.fhir.version import FhirVersion

R4, R4B, R5 = FhirVersion
OURS = ("https://ehr.example.org/fhir",)
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"


def concept(*codes: str, text: str | None = None) -> dict[str, Any]:
    """`system|code` or `code`, each with a display of its own."""
    codings = []
    for code in codes:
        system, bar, plain = code.rpartition("|")
        codings.append({"code": plain, "display": f"Display of {plain}"} | ({"system": system} if bar else {}))
    return {"coding": codings} | ({"text": text} if text else {})


def quantity(value: str, unit: str | None = None, **more: Any) -> dict[str, Any]:
    coded = {"system": UCUM, "code": unit, "unit": f"human {unit}"} if unit else {}
    return {"value": Decimal(value), **coded, **more}


OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "meta": {
        "lastUpdated": "2024-03-05T10:11:12.345+01:00",
        "tag": [{"system": "http://example.org/tags", "code": "keep"}],
        "security": [{"code": "R"}],
        "profile": ["http://example.org/profiles/lab|1.0"],
        "source": "http://example.org/source#a",
    },
    "identifier": [
        {
            "system": "http://example.org/ids",
            "value": "A|1,2",
            "type": concept("http://example.org/types|MR", text="Record number"),
        },
        {"value": "bare"},
    ],
    "status": "final",
    "category": [concept("http://example.org/cat|laboratory", "local"), concept("http://example.org/cat|other")],
    "code": concept(f"{LOINC}|8480-6", text="Systolic Pressure"),
    "subject": {"reference": "Patient/p1", "identifier": {"system": "http://example.org/mrn", "value": "77"}},
    "encounter": {"reference": "https://ehr.example.org/fhir/Encounter/e1/_history/3"},
    "performer": [{"reference": "Practitioner/dr"}, {"reference": "https://other.example.org/fhir/Practitioner/x"}],
    "derivedFrom": [{"reference": "#inner"}, {"reference": "urn:uuid:6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2"}],
    "effectiveDateTime": "2024-03-05T10:00:00Z",
    "valueQuantity": quantity("120.0", "mm[Hg]"),
    "component": [
        {"code": concept("a"), "valueQuantity": quantity("5", "mg")},
        {"code": concept("b"), "valueQuantity": quantity("50", "mg")},
    ],
}

OBSERVATION_ROWS = [
    # token: Coding, CodeableConcept
    ("category=laboratory", True),
    ("category=local", True),
    ("category=Laboratory", False),
    ("category=labo", False),
    ("category=http://example.org/cat|laboratory", True),
    ("category=http://example.org/dog|laboratory", False),
    ("category=|laboratory", False),
    ("category=|local", True),
    ("category=http://example.org/cat|", True),
    ("category=http://example.org/dog|", False),
    ("category=nothing,other", True),
    ("category=nothing,nowhere", False),
    ("category=laboratory&category=other", True),
    ("category=laboratory&category=nothing", False),
    ("category:not=laboratory", False),
    ("category:not=nothing", True),
    ("category:not=nothing&category:not=other", False),
    ("category:not=http://example.org/dog|laboratory", True),
    ("method:not=anything", True),
    ("method=anything", False),
    ("method:missing=true", True),
    ("method:missing=false", False),
    ("category:missing=false", True),
    ("category:missing=true", False),
    ("code:text=systolic", True),
    ("code:text=SYSTOLIC P", True),
    ("code:text=pressure", False),
    ("code:text=display of 8480", True),
    (f"code={LOINC}|8480-6", True),
    ("code=8480-6,8462-4", True),
    # token: code, with the system of its value set
    ("status=final", True),
    ("status=amended", False),
    ("status=amended,final", True),
    ("status=http://hl7.org/fhir/observation-status|final", True),
    ("status=http://hl7.org/fhir/observation-status|amended", False),
    ("status=http://hl7.org/fhir/observation-status|", True),
    ("status=http://example.org/other|final", False),
    ("status=http://example.org/other|", False),
    ("status:not=final", False),
    ("status:not=amended&status:not=cancelled", True),
    # token: Identifier, with escapes
    ("identifier=http://example.org/ids|A\\|1\\,2", True),
    ("identifier=A\\|1\\,2", True),
    ("identifier=bare", True),
    ("identifier=|bare", True),
    ("identifier=|A\\|1\\,2", False),
    ("identifier=http://example.org/ids|", True),
    ("identifier=http://example.org/ids|bare", False),
    ("identifier:of-type=http://example.org/types|MR|A\\|1\\,2", True),
    ("identifier:of-type=http://example.org/types|SS|A\\|1\\,2", False),
    ("identifier:of-type=http://example.org/types|MR|bare", False),
    ("identifier:text=record", True),
    ("identifier:text=number", False),
    # the parameters of every resource
    ("_id=o1", True),
    ("_id=o1,o2", True),
    ("_id=o2", False),
    ("_id=O1", False),
    ("_tag=keep", True),
    ("_tag=http://example.org/tags|keep", True),
    ("_tag=http://example.org/other|keep", False),
    ("_tag:not=keep", False),
    ("_security=R", True),
    ("_security=|R", True),
    ("_profile=http://example.org/profiles/lab", True),
    ("_profile=http://example.org/profiles/lab|1.0", True),
    ("_profile=http://example.org/profiles/lab|2.0", False),
    ("_profile=http://example.org/profiles", False),
    ("_source=http://example.org/source#a", True),
    ("_source=http://example.org/source", False),
    ("_lastUpdated=2024-03-05", True),
    ("_lastUpdated=2024-03-05T09:11:12.345Z", True),
    ("_lastUpdated=2024-03-05T09:11:12Z", True),
    ("_lastUpdated=2024-03-05T10:11:12.345Z", False),
    ("_lastUpdated=gt2024-03-05T09:11:12.344Z", True),
    ("_lastUpdated=gt2024-03-05T09:11:12.345Z", False),
    ("_lastUpdated=ge2024-03-05T09:11:12.345Z", True),
    ("_lastUpdated=lt2024-03-05T09:11:12.346Z", True),
    # reference
    ("patient=p1", True),
    ("patient=Patient/p1", True),
    ("patient=https://ehr.example.org/fhir/Patient/p1", True),
    ("patient=https://other.example.org/fhir/Patient/p1", False),
    ("patient=p2", False),
    ("patient=P1", False),
    ("patient=p2,p1", True),
    ("patient:Patient=p1", True),
    ("patient:missing=false", True),
    ("subject=Patient/p1", True),
    ("subject=Group/p1", False),
    ("subject=p1", True),
    ("subject:Patient=p1", True),
    ("subject:Group=p1", False),
    ("subject:identifier=http://example.org/mrn|77", True),
    ("subject:identifier=77", True),
    ("subject:identifier=|77", False),
    ("subject:identifier=http://example.org/mrn|78", False),
    ("encounter=e1", True),
    ("encounter=Encounter/e1", True),
    ("encounter=https://ehr.example.org/fhir/Encounter/e1", False),
    ("performer=dr", True),
    ("performer=x", False),
    ("performer=https://other.example.org/fhir/Practitioner/x", True),
    ("performer=Practitioner/dr", True),
    ("performer:Practitioner=dr", True),
    ("performer:Patient=dr", False),
    ("specimen:missing=true", True),
    ("derived-from=inner", False),
    ("derived-from=urn:uuid:6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2", True),
    ("derived-from=urn:uuid:00000000-0000-0000-0000-000000000000", False),
    # quantity
    ("value-quantity=120", True),
    ("value-quantity=120.0", True),
    ("value-quantity=119.6", False),
    ("value-quantity=1.20e2", True),
    ("value-quantity=eq120", True),
    ("value-quantity=ne120", False),
    ("value-quantity=ne121", True),
    ("value-quantity=gt119.99", True),
    ("value-quantity=gt120", False),
    ("value-quantity=ge120", True),
    ("value-quantity=lt120.00001", True),
    ("value-quantity=lt120", False),
    ("value-quantity=le120", True),
    ("value-quantity=sa119", True),
    ("value-quantity=sa120", False),
    ("value-quantity=eb121", True),
    ("value-quantity=eb120", False),
    ("value-quantity=ap110", True),
    ("value-quantity=ap109", False),
    (f"value-quantity=120|{UCUM}|mm[Hg]", True),
    (f"value-quantity=120|{UCUM}|kPa", False),
    ("value-quantity=120|http://example.org/units|mm[Hg]", False),
    ("value-quantity=120||mm[Hg]", True),
    ("value-quantity=120||human mm[Hg]", True),
    ("value-quantity=120||Human mm[Hg]", False),
    (f"value-quantity=gt100|{UCUM}|mm[Hg]", True),
    ("value-quantity=1,120", True),
    ("value-quantity:missing=false", True),
    ("value-date:missing=true", True),
    # composite
    (f"code-value-quantity={LOINC}|8480-6$gt100", True),
    (f"code-value-quantity={LOINC}|8480-6$gt200", False),
    ("code-value-quantity=other$gt100", False),
    ("component-code-value-quantity=a$5", True),
    ("component-code-value-quantity=a$50", False),
    (f"component-code-value-quantity=b$50|{UCUM}|mg", True),
    ("component-code-value-quantity=a$50,b$50", True),
    ("combo-code-value-quantity=8480-6$120", True),
    ("combo-code-value-quantity=b$ge50", True),
    ("combo-code-value-quantity=8480-6$5", False),
    # date on a point in time
    ("date=2024", True),
    ("date=2024-03", True),
    ("date=2024-03-05", True),
    ("date=2024-03-05T10:00Z", True),
    ("date=2024-03-05T11:00+01:00", True),
    ("date=2024-03-05T10:00:00", True),
    ("date=2024-03-06", False),
    ("date=ne2024-03-05", False),
    ("date=ne2024-03-06", True),
    ("date=gt2024-03-04", True),
    ("date=gt2024-03-05", False),
    ("date=ge2024-03-05", True),
    ("date=ge2024-03-06", False),
    ("date=lt2024-03-06", True),
    ("date=lt2024-03-05", False),
    ("date=le2024-03-05", True),
    ("date=sa2024-03-04", True),
    ("date=sa2024-03-05", False),
    ("date=eb2024-03-06", True),
    ("date=eb2024-03-05", False),
    ("date=ap2024-03", True),
    ("date=ap2023", False),
    ("date=ge2024-01-01&date=lt2025-01-01", True),
    ("date=ge2024-01-01&date=lt2024-02-01", False),
    ("date=2023,2024", True),
]

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "active": True,
    "name": [
        {"use": "official", "family": "Müller-Łukasz", "given": ["Anna Maria", "Zoë"], "prefix": ["Dr."]},
        {"text": "Annie"},
    ],
    "telecom": [
        {"system": "phone", "value": "+31 20 555"},
        {"system": "email", "value": "anna@example.org"},
    ],
    "gender": "female",
    "_birthDate": {"extension": [{"url": "http://example.org/unknown", "valueCode": "x"}]},
    "address": [{"line": ["Dam 1"], "city": "Amsterdam", "postalCode": "1012", "country": "NL", "use": "home"}],
    "communication": [{"language": {"extension": [{"url": "http://example.org/unknown", "valueCode": "x"}]}}],
    "generalPractitioner": [{"reference": "Organization/g"}],
    "link": [{"other": {"reference": "Patient/p2"}, "type": "seealso"}],
}

PATIENT_ROWS = [
    ("family=mül", True),
    ("family=mul", True),
    ("family=MULLER", True),
    ("family=mu\u0308ller", True),
    ("family=ller", False),
    ("family:contains=LLER", True),
    ("family:contains=xyz", False),
    ("family:exact=Müller-Łukasz", True),
    ("family:exact=müller-Łukasz", False),
    ("family:exact=Müller", False),
    ("given=anna", True),
    ("given=zoe", True),
    ("given=maria", False),
    ("given:contains=maria", True),
    ("given=bob,zo", True),
    ("name=annie", True),
    ("name=dr", True),
    ("name=muller", True),
    ("name=official", False),
    ("name:exact=Annie", True),
    ("name:missing=false", True),
    ("address=amster", True),
    ("address=dam", True),
    ("address=1012", True),
    ("address=home", False),
    ("address-city=amsterdam", True),
    ("address-city:exact=amsterdam", False),
    ("address-use=home", True),
    ("phone=+31 20 555", True),
    ("phone=anna@example.org", False),
    ("email=anna@example.org", True),
    ("telecom=anna@example.org", True),
    ("telecom=ANNA@example.org", False),
    ("given=anna   maria", True),
    ("given=(anna)", True),
    ("name=Dr.", True),
    ("name:exact=Dr", False),
    ("phone:missing=false", True),
    ("gender=female", True),
    ("gender:not=male", True),
    ("active=true", True),
    ("active=false", False),
    ("active:not=false", True),
    ("birthdate:missing=true", True),
    ("birthdate=2000", False),
    ("birthdate=ne2000", False),
    ("language:missing=true", True),
    ("deceased=false", True),
    ("deceased=true", False),
    ("deceased=true,false", True),
    ("deceased:not=true", True),
    ("general-practitioner=g", True),
    ("general-practitioner=Organization/g", True),
    ("general-practitioner:Practitioner=g", False),
    ("link=p2", True),
    ("death-date:missing=true", True),
]

OTHER_ROWS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("Patient", {"deceasedBoolean": True}, "deceased=true", True),
    ("Patient", {"deceasedBoolean": False}, "deceased=true", False),
    ("Patient", {"deceasedBoolean": False}, "deceased=false", True),
    ("Patient", {"deceasedDateTime": "2020"}, "deceased=true", True),
    ("Patient", {"deceasedDateTime": "2020"}, "death-date=lt2021", True),
    ("Patient", {"birthDate": "1980-02"}, "birthdate=1980", True),
    ("Patient", {"birthDate": "1980-02"}, "birthdate=1980-02-01", False),
    ("Patient", {"birthDate": "1980-02"}, "birthdate=ge1980-02-15", True),
    ("Patient", {"birthDate": "1980-02"}, "birthdate=sa1980-02-15", False),
    ("Patient", {"birthDate": "1980-02"}, "birthdate=ap1980-02-15", True),
    ("Patient", {"birthDate": "9999-12-31"}, "birthdate=9999", True),
    ("Patient", {"birthDate": "nonsense"}, "birthdate=ne1980", False),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=2024-01", True),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=2024-01-15", False),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=ap2024-01-15", True),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=gt2024-01-15", True),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=sa2024-01-15", False),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=sa2024-01-09", True),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=eb2024-01-21", True),
    ("Encounter", {"period": {"start": "2024-01-10", "end": "2024-01-20"}}, "date=eb2024-01-20", False),
    ("Encounter", {"period": {"start": "2024-01-10"}}, "date=gt2050", True),
    ("Encounter", {"period": {"start": "2024-01-10"}}, "date=lt2024-01-10", False),
    ("Encounter", {"period": {"start": "2024-01-10"}}, "date=2024", False),
    ("Encounter", {"period": {"end": "2024-01-10"}}, "date=lt1900", True),
    ("Encounter", {"period": {"end": "2024-01-10"}}, "date=sa1900", False),
    ("Encounter", {"period": {}}, "date=ne1900", False),
    ("Observation", {"effectiveInstant": "2024-03-05T10:00:00.5Z"}, "date=2024-03-05T10:00:00Z", True),
    ("Observation", {"effectivePeriod": {"start": "2024-03-05"}}, "date=ge2024-03-05", True),
    ("Observation", {"effectiveTiming": {"event": ["2024-01-05", "2024-03-05"]}}, "date=ap2024-02-01", True),
    ("Observation", {"effectiveTiming": {"event": ["2024-01-05", "2024-03-05"]}}, "date=ap2024-04-01", False),
    ("Observation", {"effectiveTiming": {"repeat": {"boundsPeriod": {"start": "2024"}}}}, "date=gt2030", True),
    ("Observation", {"effectiveTiming": {"repeat": {"frequency": 1}}}, "date=ne2030", False),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator="<")}, "value-quantity=5", False),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator="<")}, "value-quantity=lt5", True),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator="<")}, "value-quantity=ge5", False),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator="<=")}, "value-quantity=ge5", True),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator=">")}, "value-quantity=gt1000", True),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator=">")}, "value-quantity=sa5", True),
    ("Observation", {"valueQuantity": quantity("5", "mg", comparator=">=")}, "value-quantity=sa5", False),
    ("Observation", {"valueQuantity": {"unit": "mg"}}, "value-quantity=ne1", False),
    ("Observation", {"valueSampledData": {"origin": {"value": 5}}}, "value-quantity=5", False),
    ("Observation", {"valueString": "Very high"}, "value-string=very", True),
    ("Observation", {"valueString": "Very high"}, "value-string:exact=Very high", True),
    ("Observation", {"valueCodeableConcept": {"text": "Found it"}}, "value-string=found", True),
    ("Observation", {"valueDateTime": "2020-05"}, "value-date=2020", True),
    ("Observation", {"code": concept("x"), "valueDateTime": "2020-05"}, "code-value-date=x$ge2020", True),
    ("Observation", {"code": concept("x"), "valueString": "a$b"}, "code-value-string=x$a\\$b", True),
    ("Condition", {"onsetAge": quantity("40", "a")}, f"onset-age=gt30|{UCUM}|a", True),
    ("Condition", {"onsetRange": {"low": quantity("40", "a"), "high": quantity("50", "a")}}, "onset-age=gt45", True),
    ("Condition", {"onsetRange": {"low": quantity("40", "a"), "high": quantity("50", "a")}}, "onset-age=sa45", False),
    ("Condition", {"onsetRange": {"low": quantity("40", "a"), "high": quantity("50", "a")}}, "onset-age=ap45", True),
    ("Condition", {"onsetRange": {"low": quantity("40", "a")}}, "onset-age=gt100||a", True),
    ("Condition", {"onsetRange": {"low": quantity("40", "a")}}, "onset-age=gt100||mo", False),
    ("Condition", {"onsetRange": {"low": quantity("40", "a"), "high": "x"}}, "onset-age=gt100||a", True),
    (
        "Condition",
        {"onsetRange": {"low": quantity("40", "a"), "high": quantity("50", "mo")}},
        "onset-age=gt1||a",
        False,
    ),
    ("Condition", {"onsetRange": {}}, "onset-age=gt1", False),
    ("Condition", {"onsetString": "as a child"}, "onset-info=as a", True),
    ("Invoice", {"totalGross": {"value": Decimal("9.50"), "currency": "EUR"}}, "totalgross=9.50||EUR", True),
    (
        "Invoice",
        {"totalGross": {"value": Decimal("9.50"), "currency": "EUR"}},
        "totalgross=9.50|urn:iso:std:iso:4217|EUR",
        True,
    ),
    ("Invoice", {"totalGross": {"value": Decimal("9.50"), "currency": "EUR"}}, "totalgross=9.50||USD", False),
    ("RiskAssessment", {"prediction": [{"probabilityDecimal": Decimal("0.8")}]}, "probability=gt0.75", True),
    ("RiskAssessment", {"prediction": [{"probabilityDecimal": Decimal("0.8")}]}, "probability=0.80", True),
    ("RiskAssessment", {"prediction": [{"probabilityDecimal": Decimal("0.8")}]}, "probability=0.81", False),
    ("RiskAssessment", {"prediction": [{"probabilityDecimal": Decimal("0.8")}]}, "probability=ne0.8", False),
    ("ValueSet", {"url": "http://example.org/fhir/ValueSet/x"}, "url=http://example.org/fhir/ValueSet/x", True),
    ("ValueSet", {"url": "http://example.org/fhir/ValueSet/x"}, "url=http://example.org/fhir/valueset/x", False),
    ("ValueSet", {"url": "http://example.org/fhir/ValueSet/x"}, "url:below=http://example.org/fhir", True),
    ("ValueSet", {"url": "http://example.org/fhir/ValueSet/x"}, "url:below=http://example.org/fh", False),
    ("ValueSet", {"url": "http://example.org/fhir"}, "url:above=http://example.org/fhir/ValueSet/x", True),
    ("ValueSet", {"url": "http://example.org/fh"}, "url:above=http://example.org/fhir/ValueSet/x", False),
    ("ValueSet", {"url": "urn:oid:1.2.3"}, "url=urn:oid:1.2.3", True),
    ("QuestionnaireResponse", {"questionnaire": "http://x.org/q|2"}, "questionnaire=http://x.org/q", True),
    ("QuestionnaireResponse", {"questionnaire": "http://x.org/q|2"}, "questionnaire=http://x.org/q|2", True),
    ("QuestionnaireResponse", {"questionnaire": "http://x.org/q|2"}, "questionnaire=http://x.org/q|1", False),
    ("DeviceRequest", {"codeReference": {"reference": "Device/d"}}, "device=d", True),
    ("Group", {"characteristic": [{"code": concept("g"), "valueBoolean": True}]}, "characteristic-value=g$true", True),
    (
        "Group",
        {"characteristic": [{"code": concept("g"), "valueBoolean": True}]},
        "characteristic-value=g$false",
        False,
    ),
]

RELEASE_ROWS = [
    (R4B, "Observation", {"status": "final", "effectiveDateTime": "2020"}, "status=final&date=le2020", True),
    (R4B, "Observation", {"subject": {"reference": "Patient/1"}}, "patient=1", True),
    (R4B, "Patient", {"name": [{"family": "Å"}]}, "family=a", True),
    (R4B, "Encounter", {"status": "finished"}, "status=http://hl7.org/fhir/encounter-status|finished", True),
    (R4B, "RiskAssessment", {"prediction": [{"probabilityDecimal": Decimal("0.8")}]}, "probability=lt0.9", True),
    (R5, "Observation", {"effectiveInstant": "2020-01-01T00:00:00Z"}, "date=2020", True),
    (R5, "Observation", {"code": concept("x")}, "code:not=x", False),
    (R5, "Encounter", {"actualPeriod": {"start": "2020-02-02"}}, "date=ge2020", True),
    (R5, "Encounter", {"period": {"start": "2020-02-02"}}, "date=ge2020", False),
    (R5, "Appointment", {"start": "2020-01-01T10:00:00Z", "requestedPeriod": [{"start": "2024"}]}, "date=2020", True),
    (R5, "Appointment", {"start": "2020-01-01T10:00:00Z", "requestedPeriod": [{"start": "2024"}]}, "date=2024", False),
    (R5, "Appointment", {"requestedPeriod": [{"start": "2024"}, {"start": "2025"}]}, "date=2024", True),
    (R5, "Appointment", {"requestedPeriod": [{"start": "2024"}, {"start": "2025"}]}, "date=2025", False),
    (R5, "MedicationRequest", {"medication": {"concept": concept("m")}}, "code=m", True),
    (
        R5,
        "MedicationRequest",
        {"medication": {"reference": {"reference": "Medication/1"}}},
        "medication=Medication/1",
        True,
    ),
    (R5, "Patient", {"meta": {"profile": ["http://x.org/p|3"]}}, "_profile=http://x.org/p", True),
    (R5, "Patient", {"language": "nl"}, "_language=nl", True),
    (R5, "Observation", {"code": concept("x"), "valueQuantity": quantity("1.5")}, "code-value-quantity=x$1.5", True),
]


def matches(version: FhirVersion, type_: str, query: str, resource: dict[str, Any]) -> bool:
    return Matcher(Criteria.parse(version, type_, query), OURS).matches(resource)


@pytest.mark.parametrize("version", [R4, R4B], ids=["R4", "R4B"])
@pytest.mark.parametrize(("query", "expected"), OBSERVATION_ROWS)
def test_an_observation_is_found_as_fhir_says(version: FhirVersion, query: str, expected: bool) -> None:
    assert matches(version, "Observation", query, OBSERVATION) is expected


@pytest.mark.parametrize(("query", "expected"), PATIENT_ROWS)
def test_a_patient_is_found_as_fhir_says(query: str, expected: bool) -> None:
    assert matches(R4, "Patient", query, PATIENT) is expected


@pytest.mark.parametrize(("type_", "content", "query", "expected"), OTHER_ROWS)
def test_other_elements_are_found_as_fhir_says(type_: str, content: dict[str, Any], query: str, expected: bool) -> None:
    assert matches(R4, type_, query, {"resourceType": type_, **content}) is expected


@pytest.mark.parametrize(("version", "type_", "content", "query", "expected"), RELEASE_ROWS)
def test_each_release_has_its_own_parameters(
    version: FhirVersion, type_: str, content: dict[str, Any], query: str, expected: bool
) -> None:
    assert matches(version, type_, query, {"resourceType": type_, **content}) is expected


SINGLE = [(query, expected) for query, expected in OBSERVATION_ROWS if "&" not in query and "," not in query]


@given(st.lists(st.sampled_from(OBSERVATION_ROWS), min_size=1, max_size=4))
def test_parameters_are_joined_by_and(rows: list[tuple[str, bool]]) -> None:
    query = "&".join(query for query, _ in rows)
    assert matches(R4, "Observation", query, OBSERVATION) is all(expected for _, expected in rows)


@given(st.data())
def test_values_are_joined_by_or(data: st.DataObject) -> None:
    names = {query.partition("=")[0] for query, _ in SINGLE if ":missing" not in query}
    name = data.draw(st.sampled_from(sorted(names)))
    same = [(query, expected) for query, expected in SINGLE if query.partition("=")[0] == name]
    rows = data.draw(st.lists(st.sampled_from(same), min_size=1, max_size=1 if name.endswith(":not") else 4))
    query = f"{name}={','.join(query.partition('=')[2] for query, _ in rows)}"
    assert matches(R4, "Observation", query, OBSERVATION) is any(expected for _, expected in rows)


@pytest.mark.parametrize("query", [query for query, _ in SINGLE if ":not" in query])
def test_not_turns_the_answer_round(query: str) -> None:
    plain = query.replace(":not", "")
    assert matches(R4, "Observation", query, OBSERVATION) is not matches(R4, "Observation", plain, OBSERVATION)


@pytest.mark.parametrize(("query", "expected"), OBSERVATION_ROWS)
def test_needles_occur_in_whatever_matches(query: str, expected: bool) -> None:
    matcher = Matcher(Criteria.parse(R4, "Observation", query), OURS)
    text = json.dumps(OBSERVATION, default=str, separators=(",", ":")).encode()
    if expected and matcher.needles is not None:
        assert any(needle in text for needle in matcher.needles)


@pytest.mark.parametrize(
    ("query", "needles"),
    [
        ("category=laboratory", (b'"laboratory"',)),
        ("category=a,b", (b'"a"', b'"b"')),
        ("status=http://hl7.org/fhir/observation-status|final", (b'"final"',)),
        ("patient=Patient/p1", (b"p1",)),
        ("patient=https://ehr.example.org/fhir/Patient/p1", (b"p1",)),
        ("category=laboratory&status=final", (b'"laboratory"',)),
        ("category=laboratory&date=ge2020", (b'"laboratory"',)),
        ("category=caf\u00e9", None),
        ('category=a"b', None),
        ("category=a,b/c", None),
        ("category:not=laboratory", None),
        ("category:missing=true", None),
        ("category=http://example.org/cat|", None),
        ("date=2020", None),
        ("performer=https://other.example.org/fhir/Practitioner/x", None),
    ],
)
def test_needles_are_given_only_where_the_text_must_have_them(query: str, needles: tuple[bytes, ...] | None) -> None:
    assert Matcher(Criteria.parse(R4, "Observation", query), OURS).needles == needles


def test_a_boolean_has_no_needle() -> None:
    assert Matcher(Criteria.parse(R4, "Patient", "active=true")).needles is None
    assert Matcher(Criteria.parse(R4, "Patient", "deceased=true")).needles is None


def test_a_resource_of_another_type_never_matches() -> None:
    assert not matches(R4, "Patient", "_id=o1", OBSERVATION)
    assert not matches(R4, "Observation", "category:not=x", {"id": "o1"})


@pytest.mark.parametrize(
    "content",
    [
        {"code": "text"},
        {"code": ["text", 1, None]},
        {"code": {"coding": "text"}},
        {"code": {"coding": [None, 1, {"code": 1}]}},
        {"valueQuantity": {"value": "5"}},
        {"valueQuantity": {"value": True}},
        {"valueQuantity": 5},
        {"valueQuantity": {"value": 5, "code": {}, "unit": []}},
        {"valueQuantity": {"value": 5, "comparator": {}}},
        {"subject": {"reference": "#p"}, "contained": "p"},
        {"subject": {"reference": "#p"}, "contained": [1, {"id": {}}, {"id": "p"}]},
        {"effectiveDateTime": 2020},
        {"effectivePeriod": "2020"},
        {"effectivePeriod": {"start": 2020}},
        {"effectiveTiming": {"event": "2020"}},
        {"effectiveTiming": []},
        {"subject": "Patient/1"},
        {"subject": {"reference": 1}},
        {"component": [{"code": 1}, 2]},
        {"valueString": {}},
        {"status": {}},
        {"identifier": [[]]},
    ],
)
@pytest.mark.parametrize(
    "query",
    [
        "code=x",
        "code:text=x",
        "identifier:of-type=a|b|c",
        "value-quantity=5||mg",
        "value-string=x",
        "date=2020",
        "patient=1",
        "subject:identifier=1",
        "status=final",
        "combo-code-value-quantity=x$5",
    ],
)
def test_a_malformed_element_does_not_match_and_does_no_harm(content: dict[str, Any], query: str) -> None:
    assert not matches(R4, "Observation", query, {"resourceType": "Observation", **content})
