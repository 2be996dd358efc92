"""No requirement is forgotten: each has a test that cites it, or a reason why none is needed."""

from matrix import NOT_OURS, citations, cited_in, known


def test_every_requirement_has_a_test_or_a_reason() -> None:
    found = citations()

    assert [name for name in known() if name not in found and name not in NOT_OURS] == []


def test_reasons_are_given_only_where_there_is_no_test_and_only_for_what_is_known() -> None:
    assert set(NOT_OURS) <= set(known())


def test_citations_are_read_with_their_spans() -> None:
    assert list(cited_in("KO-01 to KO-03, ST-20; laws 2 and 3, law 7")) == [
        "KO-01",
        "KO-02",
        "KO-03",
        "ST-20",
        "law 2",
        "law 3",
        "law 7",
    ]
