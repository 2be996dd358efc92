"""No law and no requirement is forgotten, and every one that is cited can be looked up in this repository."""

import re

from matrix import NOT_OURS, PROOFS, ROOT, citations, cited_in, everywhere, known, proofs


def test_every_requirement_has_a_test_or_a_reason() -> None:
    found = citations()

    assert [name for name in known() if name not in found and name not in NOT_OURS] == []


def test_reasons_are_given_only_for_what_is_known_and_has_no_test() -> None:
    assert set(NOT_OURS) <= set(known())
    assert [name for name in citations() if name in NOT_OURS] == []


def test_every_law_and_requirement_that_is_cited_anywhere_is_listed_here() -> None:
    listed = set(known())

    assert {name: sorted(files) for name, files in everywhere().items() if name not in listed} == {}


def test_the_list_of_proofs_is_that_of_today() -> None:
    assert PROOFS.read_text("utf-8") == proofs(), "run `python tests/requirements/matrix.py --write`"


def test_each_law_on_the_page_of_promises_is_cited_by_a_test_beside_it() -> None:
    page = (ROOT / "examples" / "promises.md").read_text("utf-8")
    files = {name: {test.partition("::")[0] for test in tests} for name, tests in citations().items()}
    rows = re.findall(r"^\| (\d[\d, ]*) \| .* \| (.*) \|$", page, re.MULTILINE)
    found = {f"law {law}": set(re.findall(r"\(\.\./([^)]+)\)", tests)) for laws, tests in rows for law in laws.split(", ")}

    assert len(found) > 20
    assert {law: tests for law, tests in found.items() if tests.isdisjoint(files[law])} == {}


def test_no_id_is_listed_twice() -> None:
    assert len(known()) == len(set(known()))


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
