"""The generator, on a package small enough to read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from generate.__main__ import main
from generate.fhirpath import FhirPathError, branches, parse
from generate.lowering import LoweringError
from generate.tables import table

from fhir_bulk_middleware.fhir.version import FhirVersion

HL7 = "http://hl7.org/fhir"


def type_of(text: str) -> dict[str, Any]:
    """The type of an element; after a colon the targets of a reference."""
    code, _, targets = text.partition(":")
    profiles = [f"{HL7}/StructureDefinition/{target}" for target in targets.split(",") if target]
    return {"code": code, "targetProfile": profiles} if profiles else {"code": code}


def structure(name: str, kind: str, elements: dict[str, list[str]], **more: Any) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"path": name, "min": 0}]
    rows += [{"path": f"{name}.{path}", "min": 0, "type": [type_of(text) for text in types]} for path, types in elements.items()]
    return {
        "resourceType": "StructureDefinition",
        "id": name,
        "url": f"{HL7}/StructureDefinition/{name}",
        "type": name,
        "kind": kind,
        "abstract": False,
        "snapshot": {"element": rows},
        **more,
    }


def parameter(code: str, base: str, kind: str, expression: str, **more: Any) -> dict[str, Any]:
    id_ = f"{base}-{code}"
    url = f"{HL7}/SearchParameter/{id_}"
    row = {"id": id_, "url": url, "code": code, "base": [base], "type": kind, "expression": expression}
    return {"resourceType": "SearchParameter", **row, **more}


TEST = structure(
    "Test",
    "resource",
    {
        "subject": ["Reference"],
        "value[x]": ["Quantity", "string"],
        "part": ["BackboneElement"],
        "part.kind": ["code"],
        "part.when[x]": ["dateTime", "Period"],
        "flag[x]": ["boolean", "dateTime"],
    },
)
SOURCES = [
    TEST,
    {**structure("Fancy", "resource", {}), "derivation": "constraint"},
    structure("Resource", "resource", {"id": ["id"]}, abstract=True),
    structure("Quantity", "complex-type", {"code": ["code"], "value": ["decimal"]}),
    structure("Reference", "complex-type", {"reference": ["string"]}),
    parameter("_id", "Resource", "token", "Resource.id"),
    parameter("patient", "Test", "reference", "Test.subject.where(resolve() is Patient) | Other.patient", target=["Patient"]),
    parameter("quantity", "Test", "quantity", "(Test.value as Quantity)"),
    parameter("value", "Test", "string", "Test.value"),
    parameter("when", "Test", "date", "Test.part.where(kind='x').when"),
    parameter("flag", "Test", "token", "Test.flag.exists() and Test.flag != false"),
    parameter("early", "Test", "date", "(Test.part.when | flag.ofType(dateTime)).first()"),
    parameter("lost", "Test", "string", "Test.nowhere"),
    parameter("sound", "Test", "string", "Test.value", xpathUsage="phonetic"),
    parameter("example", "Test", "string", "Test.value", id="example"),
    parameter("foreign", "Test", "string", "Test.value", url="http://example.org/SearchParameter/foreign"),
    {
        "resourceType": "CompartmentDefinition",
        "id": "patient",
        "url": f"{HL7}/CompartmentDefinition/patient",
        "code": "Patient",
        "resource": [
            {"code": "Test", "param": ["patient"]},
            {"code": "Other"},
            {"code": "Patient", "param": ["{def}"]},
        ],
    },
]
PACKAGE = {"name": "hl7.fhir.r4.test", "version": "4.0.1", "fhirVersions": ["4.0.1"], "license": "CC0-1.0"}


def unpack(folder: Path, *more: dict[str, Any], **package: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(json.dumps(PACKAGE | package))
    for source in [*SOURCES, *more]:
        (folder / f"{source['resourceType']}-{source['id']}.json").write_text(json.dumps(source))
    return folder


def test_expressions_become_typed_concrete_paths(tmp_path: Path) -> None:
    rows = table(unpack(tmp_path / "package"), FhirVersion.R4)["parameters"]
    found = {name: row["paths"] for name, row in rows["Test"].items()}
    assert found == {
        "patient": [["subject.where(resolve() is Patient)", "Reference"]],
        "quantity": [["valueQuantity", "Quantity"]],
        "value": [["valueString", "string"]],
        "when": [["part.where(kind='x').whenDateTime", "dateTime"], ["part.where(kind='x').whenPeriod", "Period"]],
        "flag": [["flagBoolean", "boolean"], ["flagDateTime", "dateTime"]],
        "early": [["part.whenDateTime", "dateTime"], ["part.whenPeriod", "Period"], ["flagDateTime", "dateTime"]],
        "lost": [],
        "sound": [],
    }
    assert rows["Test"]["flag"]["holds"]
    assert rows["Test"]["early"]["first"]
    assert rows["Test"]["lost"]["unsupported"] == "there is no element 'nowhere' at Test"
    assert rows["Test"]["patient"]["expression"] == "Test.subject.where(resolve() is Patient)"
    assert rows["Test"]["sound"]["unsupported"] == "its values are matched in a 'phonetic' way"
    assert rows["Resource"]["_id"]["paths"] == [["id", "id"]]


def test_a_compartment_is_joined_with_its_parameters(tmp_path: Path) -> None:
    found = table(unpack(tmp_path / "package"), FhirVersion.R4)["compartments"]
    assert found == {"Patient": {"Test": ["subject"], "Patient": []}}


def test_a_type_with_a_parameter_patient_that_the_compartment_lacks_is_a_forgotten_one(tmp_path: Path) -> None:
    patient = structure("Patient", "resource", {"general": ["Reference"]})
    orphan = structure("Orphan", "resource", {"for": ["Reference"], "code": ["string"]})
    found = parameter("patient", "Orphan", "reference", "Orphan.for.where(resolve() is Patient)")
    named = structure("Named", "resource", {"patient": ["string"]})
    no_reference = parameter("patient", "Named", "string", "Named.patient")
    folder = unpack(tmp_path / "package", patient, orphan, found, named, no_reference)
    assert table(folder, FhirVersion.R4)["forgotten"] == {"Orphan": ["for"]}


NOTE = structure("Annotation", "complex-type", {"author[x]": ["Reference:Doctor", "string"], "note": ["Annotation"]})
EXTENSION = structure("Extension", "complex-type", {"value[x]": ["Reference:Secret"]})
DOCTOR = structure("Doctor", "resource", {"note": ["Annotation"], "contained": ["Resource"], "extension": ["Extension"]})
WARD = structure(
    "Ward",
    "resource",
    {"any": ["Reference:Resource", "Reference"], "part": ["BackboneElement"], "part.of": ["CodeableReference:Ward,Test"]},
)
SECRET = structure("Secret", "resource", {"profile": ["canonical:Ward"]})


def test_references_are_tabulated_at_any_depth_and_those_to_any_type_are_not(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "package", NOTE, EXTENSION, DOCTOR, WARD, SECRET)
    assert table(folder, FhirVersion.R4)["references"] == {
        "Doctor": ["Doctor"],
        "Secret": [],
        "Test": [],
        "Ward": ["Test", "Ward"],
    }


def test_a_reference_never_loses_a_target_silently(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "package", structure("Doctor", "resource", {"ward": ["Reference:Ward"]}))
    with pytest.raises(LoweringError, match="names Ward"):
        table(folder, FhirVersion.R4)


@pytest.mark.parametrize("name", ["lost", "value"])
def test_a_compartment_never_loses_a_parameter_silently(tmp_path: Path, name: str) -> None:
    compartment = {**SOURCES[-1], "resource": [{"code": "Test", "param": [name]}]}
    folder = unpack(tmp_path / "package", compartment)
    with pytest.raises(LoweringError, match="compartment needs"):
        table(folder, FhirVersion.R4)


def test_the_same_package_gives_the_same_bytes(tmp_path: Path) -> None:
    unpack(tmp_path / "package")
    written = []
    for output in (tmp_path / "a", tmp_path / "b"):
        main(["--r4", str(tmp_path), "--output", str(output)])
        written.append((output / "r4.json.gz").read_bytes())
    assert written[0] == written[1]
    assert json.loads(gzip.decompress(written[0]))["provenance"]["sources"]["SearchParameter"]["files"] == 9


@pytest.mark.parametrize("package", [{"fhirVersions": ["5.0.0"]}, {"license": "proprietary"}])
def test_another_package_is_refused(tmp_path: Path, package: dict[str, Any]) -> None:
    folder = unpack(tmp_path / "package", **package)
    with pytest.raises(ValueError, match=r"not the CC0-1\.0 package"):
        table(folder, FhirVersion.R4)


@pytest.mark.parametrize("text", ["", "a.", "a.where(", "a[x]", "a b", "(a", "a ~ b", "a.where(b='c'"])
def test_text_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises((FhirPathError, ValueError)):
        parse(text)


def test_a_union_is_split_at_its_own_level_only() -> None:
    assert branches("A.b | (A.c | d.e).first() | A.where(x='|')") == ["A.b", "(A.c | d.e).first()", "A.where(x='|')"]
    assert branches("") == []
