"""What a token's scopes permit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.scopes import Scope, Scopes

TYPES = frozenset({"Patient", "Observation"})

# scopes of the token -> what it may do with Patient, and with Observation, of r(ead), s(earch), d(elete)
TABLE = [
    # version 1
    ("system/Patient.read", "rs", ""),
    ("system/*.read", "rs", "rs"),
    ("system/Patient.write", "d", ""),
    ("system/*.write", "d", "d"),
    ("system/Patient.*", "rsd", ""),
    ("system/*.*", "rsd", "rsd"),
    # version 2
    ("system/Patient.rs", "rs", ""),
    ("system/*.rs", "rs", "rs"),
    ("system/Patient.r", "r", ""),
    ("system/Patient.s", "s", ""),
    ("system/Patient.d", "d", ""),
    ("system/Patient.c", "", ""),
    ("system/Patient.u", "", ""),
    ("system/Patient.cu", "", ""),
    ("system/Patient.cud", "d", ""),
    ("system/Patient.ds", "sd", ""),
    ("system/Patient.rd", "rd", ""),
    ("system/Patient.rds", "rsd", ""),
    ("system/Patient.cruds", "rsd", ""),
    ("system/*.cruds", "rsd", "rsd"),
    ("system/*.d", "d", "d"),
    # several scopes are a union
    ("system/Patient.r system/Patient.s", "rs", ""),
    ("system/*.r system/Patient.s", "rs", "r"),
    ("system/*.s system/Observation.r", "s", "rs"),
    ("system/Patient.rs system/Patient.rs", "rs", ""),
    ("system/Patient.rs system/Observation.d", "rs", "d"),
    ("system/Patient.read system/Patient.write", "rsd", ""),
    ("system/Patient.read system/Observation.rs", "rs", "rs"),
    ("launch openid system/Patient.rs offline_access", "rs", ""),
    # out of order, unknown or empty suffixes
    ("system/Patient.sr", "", ""),
    ("system/Patient.dr", "", ""),
    ("system/Patient.rss", "", ""),
    ("system/Patient.rrs", "", ""),
    ("system/Patient.rsx", "", ""),
    ("system/Patient.x", "", ""),
    ("system/Patient.", "", ""),
    ("system/Patient", "", ""),
    ("system/Patient.reads", "", ""),
    ("system/Patient.READ", "", ""),
    ("system/Patient.RS", "", ""),
    ("system/Patient.**", "", ""),
    ("system/Patient.read.rs", "", ""),
    ("system/Patient.sr system/Patient.r", "r", ""),
    # other contexts
    ("user/Patient.rs", "", ""),
    ("user/*.*", "", ""),
    ("user/*.cruds", "", ""),
    ("patient/Patient.rs", "", ""),
    ("patient/*.read", "", ""),
    ("user/*.rs system/Patient.r", "r", ""),
    ("patient/*.cruds system/Observation.rs", "", "rs"),
    # granular scopes neither widen nor narrow
    ("system/Observation.rs?category=laboratory", "", ""),
    ("system/*.rs?_tag=public", "", ""),
    ("system/Observation.rs?category=laboratory system/Observation.r", "", "r"),
    ("system/Observation.rs?category=laboratory system/*.rs", "rs", "rs"),
    ("system/Observation.rs?", "", ""),
    ("system/Observation.read?category=laboratory", "", ""),
    ("system/Observation.*?category=laboratory", "", ""),
    ("system/Observation.r?x=1 system/Observation.s?x=1", "", ""),
    # what is no scope
    ("", "", ""),
    ("*", "", ""),
    ("*.*", "", ""),
    ("*/*.*", "", ""),
    ("system", "", ""),
    ("system/", "", ""),
    ("system/.rs", "", ""),
    ("system/*", "", ""),
    ("system.Patient.rs", "", ""),
    ("System/Patient.rs", "", ""),
    ("SYSTEM/*.rs", "", ""),
    ("system/patient.rs", "", ""),
    ("system/Patient*.rs", "", ""),
    ("system/Pat.*.rs", "", ""),
    ("system/Patient,Observation.rs", "", ""),
    ("system//Patient.rs", "", ""),
    ("xsystem/Patient.rs", "", ""),
    ("/system/Patient.rs", "", ""),
    ("system/Patient.rs/", "", ""),
    ("system/Patient.rs;", "", ""),
    ("system/\uff30atient.rs", "", ""),
    ("fhir/system/Patient.rs", "", ""),
    ("https://ehr.example/system/Patient.rs", "", ""),
    ("system/Encounter.rs", "", ""),
]


def allowed(scopes: Scopes, type_: str) -> str:
    return "".join(letter for letter in "rsd" if scopes.restrictions(type_, letter) is None)


@pytest.mark.parametrize(("granted", "patient", "observation"), TABLE, ids=[repr(row[0]) for row in TABLE])
def test_scopes_permit_what_they_say_and_no_more(granted: str, patient: str, observation: str) -> None:
    scopes = Scopes.parse(granted.split(" "))
    assert allowed(scopes, "Patient") == patient
    assert allowed(scopes, "Observation") == observation
    exportable = {type_ for type_, letters in (("Patient", patient), ("Observation", observation)) if {*"rs"} <= {*letters}}
    assert scopes.readable(TYPES) == exportable


@pytest.mark.parametrize("text", [" system/*.rs", "system/*.rs ", "system/*.rs\n", "system/*.rs\x00", "system/*.rs?a=b c"])
def test_a_scope_with_blanks_or_control_characters_grants_nothing(text: str) -> None:
    assert Scopes.parse([text]) == Scopes({})


def test_granular_scopes_are_kept_to_be_applied_as_filters_and_personal_ones_add_nothing() -> None:
    scopes = Scopes.parse(["system/Observation.rs?category=http://x.example|lab&status=final", "user/*.read", "system/*.r"])
    assert scopes.granular == (Scope("system", "Observation", frozenset("rs"), "category=http://x.example|lab&status=final"),)
    assert scopes.granted == {"*": frozenset("r")}


_WORDS = st.sampled_from(sorted({word for row in TABLE for word in row[0].split(" ")}))


@given(st.lists(_WORDS | st.text(max_size=30)), st.lists(_WORDS))
def test_more_scopes_never_take_a_right_away(some: list[str], more: list[str]) -> None:
    for type_ in TYPES:
        assert set(allowed(Scopes.parse(some), type_)) <= set(allowed(Scopes.parse(some + more), type_))


@given(st.lists(_WORDS))
def test_the_order_of_scopes_does_not_matter(words: list[str]) -> None:
    assert Scopes.parse(words).granted == Scopes.parse(words[::-1]).granted


@given(st.text())
def test_arbitrary_text_never_fails_and_grants_only_if_it_is_a_system_scope(text: str) -> None:
    assert not Scopes.parse([text]).granted or text.startswith("system/")


@given(_WORDS.filter(lambda word: "?" in word or not word.startswith("system/")))
def test_a_scope_with_a_query_or_of_another_context_grants_nothing_by_itself(word: str) -> None:
    assert not Scopes.parse([word]).granted
