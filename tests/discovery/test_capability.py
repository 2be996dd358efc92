"""The CapabilityStatement says what the mount has, neither more nor less (CS-01 to CS-06, CS-10)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mounts import SMART, Bare, mount

from fhir_bulk_middleware import AIDBOX, FHIR_R4
from fhir_bulk_middleware.dialects import DIALECTS, HEALTH_CONNECT_AU, SOARIAN, STANDARD, STU4, SUBJECT_BOUND, Dialect
from fhir_bulk_middleware.discovery.capability import Capability
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion

HL7 = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/"
OPERATIONS: dict[str, set[str]] = {
    "standard": {"export", "patient-export", "group-export"},
    "stu2": {"export", "patient-export", "group-export"},
    "stu4": {"export", "patient-export", "group-export"},
    "health-connect-au": {"export"},
    "soarian": {"patient-export", "group-export"},
    "subject-bound": {"group-export"},
}


def rest(statement: dict[str, Any]) -> dict[str, Any]:
    (server,) = statement["rest"]
    return dict(server)


def resource(statement: dict[str, Any], type_: str) -> dict[str, Any]:
    (found,) = [resource for resource in rest(statement)["resource"] if resource["type"] == type_]
    return dict(found)


def places(statement: dict[str, Any]) -> dict[str, str]:
    """Definitions of our operations, by where they stand."""
    found = {operation["definition"]: "" for operation in rest(statement).get("operation", [])}
    for entry in rest(statement).get("resource", []):
        found |= {operation["definition"]: entry["type"] for operation in entry.get("operation", [])}
    return found


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_operations_stand_where_the_guide_wants_them_and_only_those_of_the_mount(dialect: Dialect) -> None:
    statement = mount(dialect).capability.fragment()

    where = {f"{HL7}export": "", f"{HL7}patient-export": "Patient", f"{HL7}group-export": "Group"}
    assert places(statement) == {f"{HL7}{name}": where[f"{HL7}{name}"] for name in OPERATIONS[dialect.name]}
    operations = [*rest(statement).get("operation", [])]
    operations += [one for entry in rest(statement)["resource"] for one in entry.get("operation", [])]
    assert {operation["name"] for operation in operations} == {"export"}
    assert statement["instantiates"] == ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"]


def test_every_dialect_is_in_the_table() -> None:
    assert DIALECTS.keys() == OPERATIONS.keys()


def test_an_adapter_that_knows_no_groups_has_no_group_operation() -> None:
    assert places(mount(resources=Bare()).capability.fragment()) == {f"{HL7}export": "", f"{HL7}patient-export": "Patient"}


def test_an_adapter_that_does_not_name_its_types_has_none_listed() -> None:
    assert [entry["type"] for entry in rest(mount(resources=Bare()).capability.fragment())["resource"]] == ["Patient"]


def test_each_search_parameter_that_is_listed_can_be_used_and_no_other() -> None:
    """CS-06: what `_typeFilter` takes is what is listed."""
    from fhir_bulk_middleware.fhir.definitions import definitions

    statement = mount().capability.fragment()
    for type_ in ("Patient", "Observation", "Encounter"):
        listed = {entry["name"]: entry["type"] for entry in resource(statement, type_)["searchParam"]}
        for name, parameter in definitions(FhirVersion.R4).parameters(type_).items():
            if parameter.type == "composite":  # there `:missing` means nothing
                continue
            query = f"{name}=true" if parameter.holds else f"{name}:missing=true"
            try:
                Criteria.parse(FhirVersion.R4, type_, query)
                usable = True
            except CriteriaError:
                usable = False
            assert (name in listed) == usable, (type_, name)


def test_the_text_names_limits_and_promises() -> None:
    full = rest(mount(part_bytes=5_000_000, retention=7200).capability.fragment())["documentation"]
    bare = rest(mount(resources=Bare()).capability.fragment())["documentation"]

    assert "5,000,000 bytes" in full
    assert "2 hours" in full
    assert "shows the data as of its `transactionTime`" in full
    assert "may hold changes" in bare
    assert "Group" not in bare
    assert "kept for 168 hours" in rest(mount(SUBJECT_BOUND, retention=60).capability.fragment())["documentation"]
    assert "must carry" not in rest(mount(HEALTH_CONNECT_AU).capability.fragment())["documentation"]
    assert "GET or POST" in rest(mount(STANDARD).capability.fragment())["operation"][0]["documentation"]
    assert "GET" not in rest(mount(STU4).capability.fragment())["operation"][0]["documentation"]


def test_where_to_get_a_token_is_said_if_it_is_known() -> None:
    """The extension's own definition requires `authorize`; where nobody signs in, SMART's configuration alone says it."""
    users = {**SMART, "authorization_endpoint": "https://auth.example/authorize"}
    security = rest(mount(smart=users).capability.fragment())["security"]

    assert security["extension"] == [
        {
            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
            "extension": [
                {"url": "token", "valueUri": "https://auth.example/token"},
                {"url": "authorize", "valueUri": "https://auth.example/authorize"},
            ],
        }
    ]
    backend = rest(mount(smart=SMART).capability.fragment())["security"]
    assert "extension" not in backend
    for each in (security, backend):
        assert each["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    assert "security" not in rest(mount().capability.fragment())


def test_deletes_are_said_where_the_table_has_them() -> None:
    statement = {"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": [{"type": "Own"}]}]}

    for type_ in ("Patient", "Own"):
        for policy, several in ((AIDBOX, "multiple"), (FHIR_R4, "single")):
            entry = resource(mount(deletes=policy).capability.amend(statement), type_)
            assert entry["interaction"] == [{"code": "delete"}]
            assert entry["conditionalDelete"] == several
    for without in (mount(deletes=None), mount(resources=Bare())):
        assert all("interaction" not in entry for entry in rest(without.capability.fragment()).get("resource", []))


def test_what_the_host_lists_and_an_export_cannot_do_is_marked() -> None:
    """CS-07."""
    parameters = [{"name": "birthdate", "type": "date"}, {"name": "of-our-own", "type": "token"}]
    listed = [{"type": "Patient", "searchParam": parameters}, {"type": "OfOurOwn"}]
    statement = {"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": listed}]}
    marked = [
        {
            "url": "http://hl7.org/fhir/uv/bulkdata/Extension/operation-not-supported",
            "valueCanonical": "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data",
        }
    ]
    capability = mount().capability
    amended = capability.amend(capability.amend(statement))

    found = {entry["name"]: entry.get("extension") for entry in resource(amended, "Patient")["searchParam"]}
    assert found["of-our-own"] == marked
    assert [name for name, extension in found.items() if extension] == ["of-our-own"]
    assert resource(amended, "OfOurOwn")["extension"] == marked
    assert "extension" not in resource(amended, "Patient")
    assert "extension" not in str(mount(resources=Bare()).capability.amend(statement)), "nobody says what can be exported"


HOST: dict[str, Any] = {
    "resourceType": "CapabilityStatement",
    "id": "host",
    "instantiates": ["http://host.example/profile"],
    "rest": [
        {"mode": "client"},
        {
            "mode": "server",
            "documentation": "The host's own words.",
            "security": {"cors": True, "service": [{"text": "Kerberos"}], "extension": [{"url": "urn:x", "valueString": "y"}]},
            "resource": [
                {
                    "type": "Patient",
                    "documentation": "Ours.",
                    "interaction": [{"code": "read"}],
                    "searchParam": [{"name": "name", "type": "string", "documentation": "As we have it."}],
                    "operation": [
                        {"name": "everything", "definition": "http://hl7.org/fhir/OperationDefinition/Patient-everything"}
                    ],
                },
                {"type": "Basic"},
            ],
            "operation": [{"name": "export", "definition": f"{HL7}export|2.0.0", "documentation": "The host's."}],
        },
    ],
}


def contains(larger: Any, smaller: Any) -> bool:
    """Whether all of `smaller` is somewhere in `larger`, lists in their order."""
    match smaller:
        case dict():
            return isinstance(larger, dict) and all(key in larger and contains(larger[key], smaller[key]) for key in smaller)
        case list():
            return isinstance(larger, list) and all(any(contains(one, other) for one in larger) for other in smaller)
        case str():
            return isinstance(larger, str) and smaller in larger
    return bool(larger == smaller)


def test_nothing_of_the_hosts_is_lost_and_what_it_says_of_ours_stays() -> None:
    before = repr(HOST)
    amended = mount(smart=SMART).capability.amend(HOST)

    assert contains(amended, HOST)
    assert repr(HOST) == before, "the argument is left as it was"
    server = amended["rest"][1]
    assert server["operation"] == HOST["rest"][1]["operation"], "it named the operation already, with a version"
    (patient,) = [entry for entry in server["resource"] if entry["type"] == "Patient"]
    assert [one["name"] for one in patient["operation"]] == ["everything", "export"]
    (name,) = [one for one in patient["searchParam"] if one["name"] == "name"]
    assert name["documentation"] == "As we have it."
    assert server["documentation"].startswith("The host's own words.\n\n")
    assert amended["rest"][0] == {"mode": "client"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "mode", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"resourceType": st.just("CapabilityStatement")},
    optional={"instantiates": JSON, "rest": JSON | st.just(HOST["rest"]), "text": JSON},
)


class Small(Bare):
    """An adapter that says what it exports."""

    def exportable_types(self) -> frozenset[str]:
        return frozenset({"Patient"})


CAPABILITY = mount(SOARIAN, resources=Bare(), smart=SMART).capability
SAYING = mount(SOARIAN, resources=Small()).capability


@given(PARTS, st.sampled_from([CAPABILITY, SAYING]))
def test_amending_is_idempotent_and_only_adds_or_refuses(statement: dict[str, Any], capability: Capability) -> None:
    try:
        once = capability.amend(statement)
    except ValueError:
        return
    assert capability.amend(once) == once
    assert contains(once, statement)


@pytest.mark.parametrize(
    "wrong", [{}, {"resourceType": "Patient"}, {"resourceType": "CapabilityStatement", "rest": {"mode": "server"}}]
)
def test_what_is_no_capability_statement_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"CapabilityStatement|rest"):
        CAPABILITY.amend(wrong)
