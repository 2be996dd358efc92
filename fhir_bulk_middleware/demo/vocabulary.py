"""Names, codes and texts of the demo population, escaped for JSON strings."""

import json
from typing import NamedTuple

__all__ = [
    "CITIES",
    "DIAGNOSES",
    "DRUGS",
    "FAMILIES",
    "FEMALE",
    "MALE",
    "MEASUREMENTS",
    "NOTES",
    "SERVICES",
    "VISITS",
    "Measurement",
]


def _escaped(text: str) -> bytes:
    """Escape text for a canonical JSON string: only the escapes that JSON requires."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(_escaped(text) for text in texts)


def _codes(**displays: str) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of code and display; keywords are `c` and the code, since a name cannot begin with a digit."""
    return tuple((code[1:].encode(), _escaped(display)) for code, display in displays.items())


class Measurement(NamedTuple):
    """A kind of measurement, its unit, and the range of its value in hundredths."""

    code: bytes
    display: bytes
    category: bytes
    unit: bytes
    low: int
    high: int


# Some names are long, some need escapes, some are right-to-left, some are outside the Basic Multilingual Plane.
FAMILIES = _words(
    *("Adler", "Baker", "Chen", "Diaz", "Eze", "Fischer", "García Márquez", "Haddad", "Ivanova", "Jørgensen", "Kowalczyk"),
    *("Łukasiewicz", "Müller", "Nguyễn", "O'Brien", "Papadopoulos", "Quispe", "Rossi", "Şahin", "Tremblay", "Ueda", "Virtanen"),
    *("Wang", "Xu", "Yildiz", "Zhang", "van der Berg", "de la Cruz", "北村", "Смирнова", "العلي", "כהן", "𠮷田", "Ka'ahumanu"),
)
FEMALE = _words(
    *("Ada", "Beatriz", "Chloë", "Dörte", "Elena", "Fatima", "Grace", "Hana", "Ingrid", "Joana", "Keiko", "Léa", "Mei"),
    *("Nadia", "Olga", "Priya", "Rosa", "Sinéad", "Tuulikki", "Zoë", 'Margaret "Peggy"', "花子"),
)
MALE = _words(
    *("Ahmed", "Björn", "Carlos", "Dmitri", "Emeka", "François", "Giovanni", "Hiroshi", "István", "Jakub", "Kofi", "Liam"),
    *("Mateo", "Noah", "Oscar", "Paweł", "Raj", "Sven", "Tomáš", "Yusuf", 'Robert "Bob"', "太郎"),
)
CITIES = _words(
    *("Ashford", "Brookfield", "Cedar Falls", "Döbeln", "Elmira", "Fécamp", "Grünau", "Höfn", "Inverness", "Jönköping"),
    *("Kraków", "Lisbon", "Málaga", "Newport", "Oranjestad", "Piteå", "Querétaro", "Reykjavík", "São Tomé", "Tromsø"),
)
VISITS = _codes(
    c162673000="General examination of patient (procedure)",
    c185345009="Encounter for symptom (procedure)",
    c185349003="Encounter for check up (procedure)",
    c390906007="Follow-up encounter (procedure)",
    c50849002="Emergency room admission (procedure)",
)
DIAGNOSES = _codes(
    c38341003="Hypertensive disorder, systemic arterial (disorder)",
    c44054006="Diabetes mellitus type 2 (disorder)",
    c195662009="Acute viral pharyngitis (disorder)",
    c10509002="Acute bronchitis (disorder)",
    c40055000="Chronic sinusitis (disorder)",
    c162864005="Body mass index 30+ - obesity (finding)",
    c55822004="Hyperlipidemia (disorder)",
    c195967001="Asthma (disorder)",
    c13746004="Bipolar disorder (disorder)",
    c13213009="Sjögren's syndrome (disorder)",
)
DRUGS = _codes(
    c313782="Acetaminophen 325 MG Oral Tablet",
    c314076="lisinopril 10 MG Oral Tablet",
    c860975="24 HR Metformin hydrochloride 500 MG Extended Release Oral Tablet",
    c312961="Simvastatin 20 MG Oral Tablet",
    c308182="Amoxicillin 250 MG Oral Capsule",
    c895994="120 ACTUAT Fluticasone propionate 0.044 MG/ACTUAT Metered Dose Inhaler [Flovent]",
)
SERVICES = _codes(
    c430193006="Medication reconciliation (procedure)",
    c117015009="Throat culture (procedure)",
    c23426006="Measurement of respiratory function (procedure)",
    c399208008="Plain chest X-ray (procedure)",
    c104091002="Hemogram, automated, with red blood cells, white blood cells and platelet count (procedure)",
)
MEASUREMENTS = (
    Measurement(b"8302-2", b"Body Height", b"vital-signs", b"cm", 4800, 20000),
    Measurement(b"29463-7", b"Body Weight", b"vital-signs", b"kg", 280, 14000),
    Measurement(b"39156-5", b"Body Mass Index", b"vital-signs", b"kg/m2", 1400, 4500),
    Measurement(b"8310-5", b"Body temperature", b"vital-signs", b"Cel", 3550, 4050),
    Measurement(b"4548-4", b"Hemoglobin A1c/Hemoglobin.total in Blood", b"laboratory", b"%", 400, 1200),
    Measurement(b"2339-0", b"Glucose [Mass/volume] in Blood", b"laboratory", b"mg/dL", 6000, 20000),
    Measurement(b"38483-4", b"Creatinine [Mass/volume] in Blood", b"laboratory", b"mg/dL", 50, 250),
    Measurement(b"2093-3", b"Cholesterol [Mass/volume] in Serum or Plasma", b"laboratory", b"mg/dL", 11000, 30000),
)

# Hard cases for NDJSON writers: each escape, Unicode line separators, text that looks like JSON.
NOTES = _words(
    "Scan stored under \\\\records\\new\\table, see C:\\Users\\lab\\unit.txt",
    'Patient said: "better than yesterday".\nNext visit in two weeks.\r\n\tBring the diary.',
    "Ends in a backslash \\",
    'Copied from the old system: {"resourceType":"Patient","id":"not-a-resource"}',
    "First line\u2028second line\u2029third line\u0085fourth line",
    "Schmerz lässt nach \N{GRINNING FACE} / 痛みは和らいだ / الألم أخف",
    "a/b </script> <!-- %s %(id)s {0} ${HOME} -->",
    "combining: e\u0301 n\u0303, zero width:\u200b\ufeff.",
)
