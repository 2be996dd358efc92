"""`If-Match` in all spellings, and what it says of a resource that is gone (law 25, CD-26)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.removal import AlreadyDeleted, NeverExisted, VersionMismatch
from fhir_bulk_middleware.delete.if_match import IfMatch

VERSIONS = st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True)


def spelled(version: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f'W/"{version}"', f'"{version}"', version])


@given(st.lists(VERSIONS, min_size=1, max_size=5), st.data())
def test_every_spelling_of_a_list_names_its_versions(versions: list[str], data: st.DataObject) -> None:
    tags = [data.draw(spelled(version)) for version in versions]
    gap = data.draw(st.sampled_from([",", ", ", " ,\t"]))
    split = data.draw(st.integers(0, len(tags) - 1))
    headers = [gap.join(some) for some in (tags[:split], tags[split:]) if some]

    assert IfMatch.parse(headers) == IfMatch(frozenset(versions))


@given(st.text(max_size=12))
def test_whatever_is_sent_is_versions_or_refused(text: str) -> None:
    try:
        parsed = IfMatch.parse([text])
    except ValueError:
        return
    assert parsed is not None
    assert parsed.versions is None or parsed.versions, "never an empty list, which would mean no version at all"
    if parsed.versions is not None:
        assert all(version in text for version in parsed.versions)


@given(VERSIONS, st.frozensets(VERSIONS, min_size=1))
def test_of_what_is_gone_only_the_removed_version_may_be_named(removed: str, named: frozenset[str]) -> None:
    gone = AlreadyDeleted(removed)

    assert IfMatch(named).judge(gone) == (gone if removed in named else VersionMismatch())
    assert IfMatch(None).judge(gone) == VersionMismatch()
    assert IfMatch(named).judge(NeverExisted()) == VersionMismatch()
    assert IfMatch(None).judge(NeverExisted()) == VersionMismatch()
    assert IfMatch(named).judge(AlreadyDeleted(None)) == VersionMismatch(), "what nobody knows is not confirmed"


@given(st.frozensets(VERSIONS, min_size=1), VERSIONS)
def test_a_version_that_begins_like_a_named_one_is_another(named: frozenset[str], more: str) -> None:
    longer = {f"{version}{more}" for version in named}

    assert all(IfMatch(named).allows(version) for version in named)
    assert [version for version in longer - named if IfMatch(named).allows(version)] == []


@pytest.mark.parametrize("headers", [["*", "*"], ["*", '"1"'], ['"1"', ""]])
def test_a_star_stands_alone(headers: list[str]) -> None:
    with pytest.raises(ValueError, match="required"):
        IfMatch.parse(headers)
