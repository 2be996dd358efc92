"""JSON templates of the demo population's resources.

They are bytes, because the population is also the data of the benchmarks: filling in a template takes about a microsecond,
building and dumping a dict fifty. Inserted values must be escaped already.
"""

import re

__all__ = [
    "BLOOD_PRESSURE",
    "CONDITION",
    "ENCOUNTER",
    "EXPLANATION",
    "EXPLANATION_ITEM",
    "GROUP",
    "LINK",
    "MEDICATION_REQUEST",
    "MEMBER",
    "NOTE",
    "OBSERVATION",
    "ORGANIZATION",
    "PATIENT",
    "PERFORMER",
    "PRACTITIONER",
]

_INDENT = re.compile(r"\n *")


def _form(text: str) -> bytes:
    """The template on one line, without the line breaks of this file."""
    return _INDENT.sub("", text.strip()).encode()


def _resource(text: str) -> bytes:
    return _form(text) + b"\n"


ORGANIZATION = _resource("""
{"resourceType":"Organization","id":"%(id)b",
 "identifier":[{"system":"https://registry.example/organizations","value":"%(number)d"}],"active":true,
 "type":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/organization-type","code":"prov",
 "display":"Healthcare Provider"}],"text":"Healthcare Provider"}],
 "name":"%(city)b General Hospital","telecom":[{"system":"phone","value":"555-01%(phone)02d"}],
 "address":[{"line":["%(house)d Station Road"],"city":"%(city)b","country":"XX"}]}
""")

PRACTITIONER = _resource("""
{"resourceType":"Practitioner","id":"%(id)b",
 "identifier":[{"system":"https://registry.example/practitioners","value":"%(number)d"}],"active":true,
 "name":[{"family":"%(family)b","given":["%(given)b"],"prefix":["Dr."]}],
 "telecom":[{"system":"email","value":"practitioner.%(number)d@example.com","use":"work"}],"gender":"%(gender)b"}
""")

PATIENT = _resource("""
{"resourceType":"Patient","id":"%(id)b",
 "meta":{"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]},
 "text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\"><p>%(given)b %(family)b, born %(born)b.</p>
 <p>Made by a seeded generator: no such person ever lived. Patient number %(number)d of the population.</p></div>"},
 "extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex","valueCode":"%(sex)b"},
 {"url":"http://hl7.org/fhir/StructureDefinition/patient-birthPlace","valueAddress":{"city":"%(city)b","country":"XX"}},
 {"url":"http://synthetichealth.github.io/synthea/quality-adjusted-life-years","valueDecimal":%(years)d.%(part)02d0}],
 "identifier":[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR",
 "display":"Medical Record Number"}],"text":"Medical Record Number"},"system":"https://hospital.example/mrn",
 "value":"%(id)b"},{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"SS",
 "display":"Social Security Number"}],"text":"Social Security Number"},"system":"https://registry.example/ssn",
 "value":"999-%(part)02d-%(house)04d"}],"active":true,
 "name":[{"use":"official","family":"%(family)b","given":["%(given)b"]}],
 "telecom":[{"system":"phone","value":"555-01%(part)02d","use":"home"}],"gender":"%(gender)b","birthDate":"%(born)b",
 "address":[{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/geolocation","extension":[
 {"url":"latitude","valueDecimal":42.%(house)04d4395224480},{"url":"longitude","valueDecimal":-71.%(house)04d0}]}],
 "line":["%(house)d Orchard Lane"],"city":"%(city)b","postalCode":"0%(house)04d","country":"XX"}],
 "maritalStatus":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-MaritalStatus","code":"M",
 "display":"Married"}],"text":"Married"},"communication":[{"language":{"coding":[{"system":"urn:ietf:bcp:47","code":"en-US",
 "display":"English"}],"text":"English"}}],%(link)b
 "generalPractitioner":[{"reference":"Practitioner/%(practitioner)b"}],
 "managingOrganization":{"reference":"Organization/%(organization)b"}}
""")

LINK = _form("""
"link":[{"other":{"reference":"Patient/%b"},"type":"seealso"}],
""")

ENCOUNTER = _resource("""
{"resourceType":"Encounter","id":"%(id)b","status":"finished",
 "class":{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"AMB"},
 "type":[{"coding":[{"system":"http://snomed.info/sct","code":"%(code)b","display":"%(display)b"}],"text":"%(display)b"}],
 "subject":{"reference":"Patient/%(patient)b","display":"%(name)b"},
 "participant":[{"type":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ParticipationType","code":"PPRF",
 "display":"primary performer"}],"text":"primary performer"}],
 "period":{"start":"%(day)bT%(hour)02d:00:00+01:00","end":"%(day)bT%(hour)02d:30:00+01:00"},
 "individual":{"reference":"Practitioner/%(practitioner)b"}}],
 "period":{"start":"%(day)bT%(hour)02d:00:00+01:00","end":"%(day)bT%(hour)02d:30:00+01:00"},
 "serviceProvider":{"reference":"Organization/%(organization)b"}}
""")

OBSERVATION = _resource("""
{"resourceType":"Observation","id":"%(id)b","status":"final",
 "category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"%(category)b",
 "display":"%(category)b"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"%(code)b","display":"%(display)b"}],
 "text":"%(display)b"},"subject":{"reference":"Patient/%(patient)b"},"encounter":{"reference":"Encounter/%(encounter)b"},
 "effectiveDateTime":"%(day)bT%(hour)02d:10:00+01:00","issued":"%(day)bT%(hour)02d:10:00.825+01:00",%(performer)b
 "valueQuantity":{"value":%(whole)d.%(part)02d,"unit":"%(unit)b","system":"http://unitsofmeasure.org","code":"%(unit)b"}%(note)b}
""")

BLOOD_PRESSURE = _resource("""
{"resourceType":"Observation","id":"%(id)b",
 "meta":{"profile":["http://hl7.org/fhir/StructureDefinition/bp","http://hl7.org/fhir/StructureDefinition/vitalsigns"]},
 "status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category",
 "code":"vital-signs","display":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"85354-9",
 "display":"Blood pressure panel with all children optional"}],"text":"Blood Pressure"},
 "subject":{"reference":"Patient/%(patient)b"},"encounter":{"reference":"Encounter/%(encounter)b"},
 "effectiveDateTime":"%(day)bT%(hour)02d:10:00+01:00","issued":"%(day)bT%(hour)02d:10:00.825+01:00",%(performer)b
 "component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4","display":"Diastolic Blood Pressure"}],
 "text":"Diastolic Blood Pressure"},"valueQuantity":{"value":%(low)d.0,"unit":"mm[Hg]","system":"http://unitsofmeasure.org",
 "code":"mm[Hg]"}},{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6","display":"Systolic Blood Pressure"}],
 "text":"Systolic Blood Pressure"},"valueQuantity":{"value":%(high)d.0,"unit":"mm[Hg]","system":"http://unitsofmeasure.org",
 "code":"mm[Hg]"}}]%(note)b}
""")

# Performed by a relative: the observation is in the compartments of two patients.
PERFORMER = _form("""
"performer":[{"reference":"Practitioner/%b"},{"reference":"Patient/%b"}],
""")

NOTE = _form("""
,"note":[{"authorString":"Dr. A","time":"%b","text":"%b"}]
""")

CONDITION = _resource("""
{"resourceType":"Condition","id":"%(id)b",
 "clinicalStatus":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/condition-clinical","code":"active"}]},
 "verificationStatus":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/condition-ver-status","code":"confirmed"}]},
 "category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/condition-category","code":"encounter-diagnosis",
 "display":"Encounter Diagnosis"}]}],"code":{"coding":[{"system":"http://snomed.info/sct","code":"%(code)b",
 "display":"%(display)b"}],"text":"%(display)b"},"subject":{"reference":"Patient/%(patient)b"},
 "encounter":{"reference":"Encounter/%(encounter)b"},"onsetDateTime":"%(day)bT%(hour)02d:00:00+01:00","recordedDate":"%(day)b"%(note)b}
""")

MEDICATION_REQUEST = _resource("""
{"resourceType":"MedicationRequest","id":"%(id)b","status":"active","intent":"order",
 "medicationCodeableConcept":{"coding":[{"system":"http://www.nlm.nih.gov/research/umls/rxnorm","code":"%(code)b",
 "display":"%(display)b"}],"text":"%(display)b"},"subject":{"reference":"Patient/%(patient)b"},
 "encounter":{"reference":"Encounter/%(encounter)b"},"authoredOn":"%(day)bT%(hour)02d:20:00+01:00",
 "requester":{"reference":"Practitioner/%(practitioner)b"}%(note)b,
 "dosageInstruction":[{"sequence":1,"text":"Take as directed","timing":{"repeat":{"frequency":1,"period":1.0,"periodUnit":"d"}},
 "asNeededBoolean":false,"doseAndRate":[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/dose-rate-type",
 "code":"ordered","display":"Ordered"}]},"doseQuantity":{"value":1.10}}]}]}
""")

EXPLANATION = _resource("""
{"resourceType":"ExplanationOfBenefit","id":"%(id)b","contained":[{"resourceType":"ServiceRequest","id":"referral",
 "status":"completed","intent":"order","subject":{"reference":"Patient/%(patient)b"},
 "requester":{"reference":"Practitioner/%(practitioner)b"},"performer":[{"reference":"Practitioner/%(practitioner)b"}]},
 {"resourceType":"Coverage","id":"coverage","status":"active","type":{"text":"Public"},
 "beneficiary":{"reference":"Patient/%(patient)b"},"payor":[{"display":"Public"}]}],
 "identifier":[{"system":"https://payer.example/claims","value":"%(id)b"},
 {"system":"https://payer.example/claim-groups","value":"99999999999"}],"status":"active",
 "type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/claim-type","code":"institutional"}]},"use":"claim",
 "patient":{"reference":"Patient/%(patient)b"},"billablePeriod":{"start":"%(day)bT%(hour)02d:30:00+01:00"},
 "created":"%(day)bT%(hour)02d:30:00+01:00","insurer":{"display":"Public"},
 "provider":{"reference":"Practitioner/%(practitioner)b"},"facility":{"display":"%(city)b General Hospital"},
 "referral":{"reference":"#referral"},"outcome":"complete",
 "careTeam":[{"sequence":1,"provider":{"reference":"Practitioner/%(practitioner)b"},
 "role":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/claimcareteamrole","code":"primary",
 "display":"Primary Care Practitioner"}]}}],"insurance":[{"focal":true,"coverage":{"reference":"#coverage","display":"Public"}}],
 "item":[%(items)b],"total":[{"category":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/adjudication",
 "code":"submitted","display":"Submitted Amount"}],"text":"Submitted Amount"},
 "amount":{"value":%(whole)d.%(part)02d,"currency":"USD"}}],"payment":{"amount":{"value":%(whole)d.00,"currency":"USD"}}}
""")

EXPLANATION_ITEM = _form("""
{"sequence":%(sequence)d,"category":{"coding":[{"system":"https://payer.example/service-types","code":"1",
 "display":"Medical care"}]},"productOrService":{"coding":[{"system":"http://snomed.info/sct","code":"%(code)b",
 "display":"%(display)b"}],"text":"%(display)b"},"servicedPeriod":{"start":"%(day)bT%(hour)02d:00:00+01:00",
 "end":"%(day)bT%(hour)02d:30:00+01:00"},"locationCodeableConcept":{"coding":[
 {"system":"http://terminology.hl7.org/CodeSystem/ex-serviceplace","code":"21","display":"Inpatient Hospital"}]},
 "encounter":[{"reference":"Encounter/%(encounter)b"}],"net":{"value":%(whole)d.%(part)02d,"currency":"USD"},
 "adjudication":[{"category":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/adjudication","code":"deductible",
 "display":"Deductible"}]},"amount":{"value":0.00,"currency":"USD"}},{"category":{"coding":[
 {"system":"http://terminology.hl7.org/CodeSystem/adjudication","code":"benefit","display":"Benefit Amount"}]},
 "amount":{"value":%(whole)d.%(part)02d,"currency":"USD"}}]}
""")

GROUP = _resource("""
{"resourceType":"Group","id":"%(id)b","type":"person","actual":true,"name":"%(name)b","quantity":%(quantity)d%(members)b}
""")

MEMBER = _form("""
{"entity":{"reference":"Patient/%b"}}
""")
