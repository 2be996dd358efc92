"""The dialects that we ship pass the suite that we ship, and broken ones do not."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.dialects.model import Answer
from fhir_bulk_middleware.outcomes import Operation, Reason
from fhir_bulk_middleware.testing.dialect import DialectSuite


class TestOurDialects(DialectSuite):
    @pytest.fixture(params=list(DIALECTS.values()), ids=list(DIALECTS))
    def dialect(self, request: pytest.FixtureRequest) -> Dialect:
        found: Dialect = request.param
        return found


def answering(**answers: Answer) -> Mapping[Reason, Answer]:
    return MappingProxyType({**STANDARD.answers, **{Reason[name]: answer for name, answer in answers.items()}})


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("a kick-off and a cancel are accepted with 202", {"accepted": 200}),
    ("a kick-off and a cancel are accepted with 202", {"cancelled": 204}),
    ("a cancel is accepted with 202, with a body too", {"cancelled_answer": Answer(200, "informational", "gone")}),
    ("a manifest comes with 200", {"completed": 303}),
    ("a job that runs is 202", {"in_progress": 200}),
    ("is an error", {"answers": answering(BODY_MALFORMED=Answer(200, "structure"))}),
    ("has a code of FHIR's issue types", {"answers": answering(BODY_MALFORMED=Answer(400, "nonsense"))}),
    ("has the severity of an error", {"answers": answering(BODY_MALFORMED=Answer(400, "invalid", severity="warning"))}),
    ("a job that is gone is 404", {"answers": answering(JOB_CANCELLED=Answer(410, "deleted", "gone"))}),
    ("an unknown job is 404 to a GET", {"answers": answering(JOB_UNKNOWN=Answer(403, "forbidden", "no"))}),
    ("an unknown job is told in a fixed text", {"answers": answering(JOB_UNKNOWN=Answer(404, "not-found"))}),
    ("an unknown patient of a path is told in", {"answers": answering(PATIENT_OF_PATH_UNKNOWN=Answer(404, "not-found"))}),
    ("answered like an unknown group", {"answers": answering(PATIENT_OF_PATH_UNKNOWN=Answer(403, "forbidden", "no"))}),
    ("the list of jobs has a path of its own", {"jobs_path": STANDARD.status_path}),
    ("a missing or bad token is 401", {"answers": answering(TOKEN_INVALID=Answer(400, "login", "no"))}),
    ("a missing or bad token is told in a fixed text", {"answers": answering(TOKEN_INVALID=Answer(401, "login"))}),
    ("a failed job stays failed", {"answers": answering(JOB_FAILED=Answer(500, "exception"))}),
    ("can pass", {"answers": answering(BUSY=Answer(503, "processing"))}),
    ("a fault is told in a fixed text", {"answers": answering(FAULT=Answer(500, "processing"))}),
    ("X-Progress has fewer than 100 characters", {"progress_text": "x" * 100}),
    ("a file is not deleted on its own", {"file_methods": ("GET", "DELETE")}),
    ("a level that is offered has a method", {"kick_off": dict.fromkeys(STANDARD.kick_off, ())}),
    ("a kick-off is a GET or a POST", {"kick_off": dict.fromkeys(STANDARD.kick_off, ("PUT",))}),
]


@pytest.mark.parametrize(("promise", "change"), BROKEN, ids=[f"{number} {promise}" for number, (promise, _) in enumerate(BROKEN)])
def test_a_dialect_that_breaks_an_invariant_is_told_which(promise: str, change: dict[str, Any]) -> None:
    dialect = replace(STANDARD, name="broken", **change)
    said = []
    for name in dir(DialectSuite):
        if name.startswith("test_"):
            try:
                getattr(DialectSuite(), name)(dialect)
            except AssertionError as error:
                said.append(str(error))

    assert any(promise in message for message in said)


def test_a_table_with_a_hole_is_refused() -> None:
    holed = dict(STANDARD.answers)
    del holed[Reason.BUSY]

    with pytest.raises(ValueError, match="no answer for BUSY"):
        replace(STANDARD, answers=holed)


@pytest.mark.parametrize(
    ("field", "path"), [("status_path", "/status"), ("file_path", "file/{file}"), ("status_path", "/{job}/{job}")]
)
def test_a_path_without_its_placeholder_is_refused(field: str, path: str) -> None:
    with pytest.raises(ValueError, match="must begin with a slash"):
        replace(STANDARD, **{field: path})  # type: ignore[arg-type]


def test_an_exception_is_for_its_operation_only() -> None:
    own = Answer(418, "processing", "own")
    dialect = replace(STANDARD, exceptions={(Operation.FILE, Reason.BUSY): own})

    assert dialect.answer(Operation.FILE, Reason.BUSY) is own
    assert dialect.answer(Operation.STATUS, Reason.BUSY) is STANDARD.answers[Reason.BUSY]
