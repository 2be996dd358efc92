"""No line leaves a slice that is of another type or names none of the job's patients (law 17)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Page, Selection
from fhir_bulk_middleware.export.firewall import Firewall, FirewallBreach
from fhir_bulk_middleware.export.page_form import MalformedPage, PageForm

ONES = Compartments(frozenset({"Patient/1", "Patient/abc-9.Z"}))
STAFF = Compartments(frozenset({"Practitioner/7", "Device/d"}))


def page(*lines: str) -> Page:
    return Page("".join(f"{line}\n" for line in lines).encode(), len(lines), "cursor")


def observation(subject: str, **others: object) -> str:
    return json.dumps(
        {"resourceType": "Observation", "id": "o", "subject": {"reference": subject}, **others}, separators=(",", ":")
    )


def breaches(type: str, selection: Selection, page: Page) -> bool:  # noqa: A002 - FHIR's word for it
    try:
        Firewall(type, selection).check(page)
    except FirewallBreach:
        return True
    return False


def malformed(type: str, page: Page) -> str:  # noqa: A002 - as above
    try:
        PageForm(type, 1_000, None).check(page)
        Firewall(type, Everything()).check(page)
    except MalformedPage as fault:
        return str(fault)
    return "nothing"


PATIENT = '{"resourceType":"Patient","id":"1","name":[{"id":"2"}]}'
MINE = observation("Patient/1")


@pytest.mark.parametrize("selection", [Everything(), EveryPatient(), ONES], ids=["everything", "every-patient", "ones"])
def test_a_page_of_what_was_asked_for_passes(selection: Selection) -> None:
    assert not breaches("Observation", selection, page(MINE, MINE, observation("Patient/abc-9.Z")))
    assert not breaches("Patient", selection, page(PATIENT))


def test_a_page_without_lines_holds_nothing_wrong() -> None:
    assert not breaches("Patient", ONES, Page(b"", 0, "c"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Page(b"", 1, "c"), "page 1 of Patient is malformed: it has no lines and says that there are 1"),
        (Page(b"\n", 1, "c"), "line 1 of a page of Patient is malformed: it is not JSON: is it empty"),
        (Page(PATIENT.encode(), 1, "c"), "line 1 of a page of Patient is malformed: it does not end with a newline"),
        (Page((PATIENT + "\n" + PATIENT + "\n").encode(), 1, "c"), "it has 2 lines and says that there are 1"),
        (Page((PATIENT + "\n").encode(), 2, "c"), "it has 1 lines and says that there are 2"),
        (Page((PATIENT + "\n\n").encode(), 2, "c"), "line 2 of a page of Patient is malformed: it is not JSON: is it empty"),
        (Page(("\n" + PATIENT + "\n").encode(), 2, "c"), "line 1 of a page of Patient is malformed: it is not JSON: is it empty"),
        (Page((" " + PATIENT + "\n").encode(), 1, "c"), "it must be compact, without blanks"),
        (Page((PATIENT + " \n").encode(), 1, "c"), "it must be compact, without blanks"),
        (Page((PATIENT + "\r\n").encode(), 1, "c"), "line 1 of a page of Patient is malformed: it ends with a carriage return"),
        (Page((PATIENT + "\r" + PATIENT + "\n").encode(), 2, "c"), "it has 1 lines and says that there are 2"),
        (Page((PATIENT[:-1] + "\n}\n").encode(), 1, "c"), "a part of a resource that was written on several lines"),
        (Page(b'{"resourceType":"Patient"}\n', 1, "c"), 'it does not begin with {"resourceType":"Patient",'),
        (Page(b'{"id":"1","resourceType":"Patient"}\n', 1, "c"), "its first member is not resourceType"),
        (Page(b'{"resourceType": "Patient","id":"1"}\n', 1, "c"), 'json.dumps needs separators=(",", ":")'),
        (Page(b'[{"resourceType":"Patient","id":"1"}]\n', 1, "c"), "it is no JSON object with a resourceType"),
        (Page(b'{"id":"1"}\n', 1, "c"), "it is no JSON object with a resourceType"),
        (Page(b'\xef\xbb\xbf{"resourceType":"Patient","id":"1"}\n', 1, "c"), "it begins with a byte order mark"),
        (Page('{"resourceType":"Patient","id":"1"}\n'.encode("utf-16"), 1, "c"), "not in UTF-8"),
        (Page(b'{"resourceType":"Patient","id":"1"\n', 1, "c"), "it is not JSON"),
    ],
)
def test_a_page_that_is_malformed_is_told_as_that_and_where_to_read(bad: Page, said: str) -> None:
    """Law 43: line, fault, and where to read; never as a breach."""
    message = malformed("Patient", bad)
    assert said in message
    assert "see Page in fhir_bulk_middleware.contract.query" in message


@pytest.mark.parametrize(
    "bad",
    [
        Page((MINE + "\n" + PATIENT + "\n").encode(), 2, "c"),
        Page((PATIENT + "\n" + MINE).encode(), 2, "c"),
        Page((PATIENT + "\n" + MINE.replace(":", ": ") + "\n").encode(), 2, "c"),
        Page(b'{"resourceType":"PatientX","id":"1"}\n', 1, "c"),
    ],
)
def test_a_resource_of_another_type_is_a_breach(bad: Page) -> None:
    assert breaches("Patient", Everything(), bad)


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/1",
        "Patient/1/_history/4",
        "https://ehr.example/fhir/Patient/1",
        "https://ehr.example/Patient/99/fhir/Patient/1",
        "https://ehr.example/fhir/Patient/1/_history/2",
    ],
)
def test_every_form_of_a_reference_to_one_of_the_jobs_patients_names_it(reference: str) -> None:
    assert not breaches("Observation", ONES, page(observation(reference)))
    assert not breaches("Observation", ONES, page(observation("Patient/2", performer=[{"reference": reference}])))
    assert not breaches("Observation", EveryPatient(), page(observation(reference)))


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/2",
        "Patient/11",
        "Patient/1-1",
        "Patient/1.1",
        "Patient/abc-9.Zz",
        "Patient/abc-9",
        "Patient/2/_history/1",
        "Patient/11/_history/1",
        "Patient/1/_historyx",
        "Patient/1/Observation/2",
        "Patient/1?x",
        "Patient/",
        "Patient",
        "patient/1",
        "RelatedPatient/1",
        "Group/1",
        "#Patient/1",
        "see Patient/1",
        "Patient/1 ",
        "https://ehr.example/fhir/Patient/11",
        "https://ehr.example/fhir/Patient/1/",
        "Patient/" + "1" * 200,
        "Patient/é",
        '"Patient/1"',
        "Patient/1\n",
        "Patient?identifier=1",
    ],
)
def test_nothing_else_names_one_of_the_jobs_patients(reference: str) -> None:
    assert breaches("Observation", ONES, page(observation(reference)))


def test_one_foreign_line_among_many_is_found_wherever_it_stands() -> None:
    for place in range(5):
        lines = [MINE] * 5
        lines[place] = observation("Patient/2")
        assert breaches("Observation", ONES, page(*lines))


def test_a_line_does_not_borrow_a_reference_from_its_neighbour() -> None:
    nobody = '{"resourceType":"Observation","id":"o"}'
    assert breaches("Observation", ONES, page(nobody, MINE))
    assert breaches("Observation", ONES, page(MINE, nobody))
    assert breaches("Observation", EveryPatient(), page(nobody, MINE))


def test_a_patient_of_the_job_names_itself_by_its_own_id_only() -> None:
    assert not breaches("Patient", ONES, page('{"resourceType":"Patient","meta":{"versionId":"3"},"id":"1"}'))
    for foreign in (
        '{"resourceType":"Patient","id":"11"}',
        '{"resourceType":"Patient","id":"2","name":[{"id":"1"}]}',
        '{"resourceType":"Patient","meta":{"id":"1"},"id":"2"}',
        '{"resourceType":"Patient","contained":[{"resourceType":"Patient","id":"1"}],"id":"2"}',
        '{"resourceType":"Patient","meta":{"id":"1"}}',
        '{"resourceType":"Patient","id":""}',
        '{"resourceType":"Patient","broken":}',
    ):
        assert breaches("Patient", ONES, page(foreign))


def test_a_patient_who_is_linked_to_one_of_the_jobs_is_in_that_compartment() -> None:
    assert not breaches("Patient", ONES, page('{"resourceType":"Patient","id":"2","link":[{"other":{"reference":"Patient/1"}}]}'))


def test_at_patient_level_any_patient_will_do_but_there_must_be_one() -> None:
    assert not breaches("Patient", EveryPatient(), page('{"resourceType":"Patient","id":"999"}'))
    assert not breaches("Observation", EveryPatient(), page(observation("Patient/999")))
    for nobodys in (observation("Group/1"), observation("Patient/"), observation("Patient?identifier=1")):
        assert breaches("Observation", EveryPatient(), page(nobodys))
    assert breaches("Practitioner", EveryPatient(), page('{"resourceType":"Practitioner","id":"1"}'))


def test_groups_may_have_members_that_are_no_patients() -> None:
    assert not breaches("Observation", STAFF, page(observation("Practitioner/7"), observation("Device/d")))
    assert not breaches("Device", STAFF, page('{"resourceType":"Device","id":"d"}'))
    assert breaches("Observation", STAFF, page(observation("Patient/7")))
    assert breaches("Observation", STAFF, page(observation("Device/7")))
    assert breaches("Patient", STAFF, page('{"resourceType":"Patient","id":"7"}'))


@pytest.mark.parametrize("selection", [Compartments(frozenset())])
def test_an_empty_selection_lets_nothing_pass(selection: Selection) -> None:
    assert breaches("Patient", selection, page(PATIENT))
    assert breaches("Observation", selection, page(MINE))


def test_slashes_may_be_escaped_as_some_encoders_do() -> None:
    assert not breaches("Observation", ONES, page(MINE.replace("/", "\\/")))
    assert breaches("Observation", ONES, page(observation("Patient/2").replace("/", "\\/")))


def test_a_breach_tells_the_type_and_nothing_of_the_page() -> None:
    with pytest.raises(FirewallBreach) as caught:
        Firewall("Observation", ONES).check(page(observation("Patient/secret")))
    assert caught.value.type == "Observation"
    assert "Observation" in str(caught.value)
    assert "secret" not in str(caught.value)


IDS = st.text("019aAzZ.-", min_size=1, max_size=6)


@given(members=st.frozensets(IDS, min_size=1, max_size=4), subjects=st.lists(IDS, min_size=1, max_size=6), text=st.text())
def test_a_page_passes_exactly_if_each_of_its_subjects_is_a_member(
    members: frozenset[str], subjects: list[str], text: str
) -> None:
    selection = Compartments(frozenset(f"Patient/{member}" for member in members))
    lines = page(*(observation(f"Patient/{subject}", note=[{"text": text}]) for subject in subjects))
    assert breaches("Observation", selection, lines) == (not members.issuperset(subjects))
