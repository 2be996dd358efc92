"""A client gets the part of what it asks for that it may have, and never more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.scopes import Scope, Scopes
from fhir_bulk_middleware.smart.grants import granted

TYPES = frozenset({"Patient", "Observation", "Group"})

CASES: list[tuple[str, str, str]] = [
    # asked, allowed, granted
    ("system/*.rs", "system/*.rs", "system/*.rs"),
    ("system/*.read", "system/*.rs", "system/*.read"),
    ("system/*.rs", "system/*.read", "system/*.rs"),
    ("system/*.cruds", "system/*.rs", "system/*.rs"),
    ("system/*.*", "system/*.rs", "system/*.rs"),
    ("system/*.rs", "system/*.cruds", "system/*.rs"),
    ("system/Patient.rs", "system/*.rs", "system/Patient.rs"),
    ("system/*.rs", "system/Patient.rs system/Group.rs", "system/Patient.rs system/Group.rs"),
    ("system/Patient.rs", "system/Patient.r system/*.s", "system/Patient.rs"),
    ("system/Patient.rs system/*.rs", "system/*.rs", "system/*.rs"),
    ("system/Patient.rs openid", "system/*.rs", "system/Patient.rs"),
    ("system/Patient.d", "system/*.rs", ""),
    ("system/Group.rs", "system/Patient.rs", ""),
    ("system/Nonsense.rs", "system/*.rs", ""),
    ("user/Patient.rs", "system/*.rs", ""),
    ("patient/*.rs", "system/*.rs", ""),
    ("nonsense", "system/*.rs", ""),
    ("", "system/*.rs", ""),
    ("system/*.sr", "system/*.rs", ""),
    ("system/Observation.rs?category=a", "system/*.rs", "system/Observation.rs?category=a"),
    ("system/Observation.rs", "system/Observation.rs?category=a", "system/Observation.rs?category=a"),
    ("system/*.rs", "system/Observation.rs?category=a", "system/Observation.rs?category=a"),
    ("system/Observation.rs?category=a", "system/Observation.rs?category=a", "system/Observation.rs?category=a"),
    ("system/Observation.rs?category=b", "system/Observation.rs?category=a", ""),
    ("system/Observation.cruds?category=a", "system/Observation.r", "system/Observation.r?category=a"),
    ("system/Observation.rs system/Observation.rs?category=a", "system/*.rs", "system/Observation.rs"),
    ("system/*.rs?_security=x", "system/Patient.rs", "system/Patient.rs?_security=x"),
    ("system/Patient.rs", "system/*.rs?_security=x", "system/Patient.rs?_security=x"),
]


@pytest.mark.parametrize(("asked", "allowed", "wanted"), CASES)
def test_what_is_granted(asked: str, allowed: str, wanted: str) -> None:
    assert granted(asked.split(), parsed(allowed.split()), TYPES) == tuple(wanted.split())


def parsed(texts: list[str]) -> list[Scope]:
    return [scope for text in texts if (scope := Scope.parse(text)) is not None]


SCOPES = st.lists(
    st.builds(
        "{}/{}.{}{}".format,
        st.sampled_from(["system", "system", "user"]),
        st.sampled_from(["*", *sorted(TYPES), "Other"]),
        st.sampled_from(["r", "s", "rs", "d", "cruds", "read", "write", "*"]),
        st.sampled_from(["", "", "?a=1", "?b=2"]),
    ),
    max_size=4,
)


@given(SCOPES, SCOPES)
def test_a_grant_is_within_the_wish_and_within_the_rights(asked: list[str], allowed: list[str]) -> None:
    given_ = granted(asked, [scope for scope in parsed(allowed) if scope.context == "system"], TYPES)

    got, wish, rights = Scopes.parse(given_), Scopes.parse(asked), Scopes.parse(allowed)
    for type_ in TYPES:
        for letter in "rsd":
            assert whole(got, type_, letter) == (whole(wish, type_, letter) and whole(rights, type_, letter))
        for query in got.queries(type_):
            for larger in (wish, rights):
                every = whole(larger, type_, "r") and whole(larger, type_, "s")
                assert every or any(query == other for other in partial(larger, type_)), (given_, query)


def whole(scopes: Scopes, type_: str, letter: str) -> bool:
    """Whether the permission covers the whole type."""
    return scopes.restrictions(type_, letter) is None


def partial(scopes: Scopes, type_: str) -> list[str]:
    """Queries with any letters on the type: two scopes on the same rows add up."""
    return [scope.query for scope in scopes.granular if scope.type in {type_, "*"} and scope.query is not None]


@given(SCOPES)
def test_who_may_have_what_it_asks_for_gets_it(asked: list[str]) -> None:
    mine = [scope for scope in parsed(asked) if scope.context == "system"]
    got, wish = Scopes.parse(granted(asked, mine, TYPES)), Scopes.parse(asked)

    for type_ in TYPES:
        for letter in "rd":
            assert whole(got, type_, letter) == whole(wish, type_, letter)
