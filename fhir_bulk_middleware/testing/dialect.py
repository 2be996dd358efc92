"""The suite that each dialect must pass, a host's own included (section 12.3 of the requirements).

```python
class TestMyDialect(DialectSuite):
    @pytest.fixture
    def dialect(self):
        return replace(STANDARD, name="mine", ...)
```
"""

from dataclasses import replace

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, JobState, Request
from fhir_bulk_middleware.contract.query import Level, Window
from fhir_bulk_middleware.dialects.model import Answer, Dialect
from fhir_bulk_middleware.export.manifest import ManifestPage, manifest
from fhir_bulk_middleware.export.status import export_progress
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant, Precision, parse
from fhir_bulk_middleware.outcomes import Operation, Reason

__all__ = ["ISSUE_TYPES", "DialectSuite"]

_CLIENT_ERRORS = range(400, 500)
_ERRORS = range(400, 600)
_SEVERITIES = {"fatal", "error"}
# FHIR R4's issue-type code system. `transient` and its child codes tell a client to retry.
_TRANSIENT = {"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"}
ISSUE_TYPES = _TRANSIENT | {
    "invalid",
    "structure",
    "required",
    "value",
    "invariant",
    "security",
    "login",
    "unknown",
    "expired",
    "forbidden",
    "suppressed",
    "processing",
    "not-supported",
    "duplicate",
    "multiple-matches",
    "not-found",
    "deleted",
    "too-long",
    "code-invalid",
    "extension",
    "too-costly",
    "business-rule",
    "conflict",
    "informational",
}
"""The codes of FHIR's issue types."""


class DialectSuite:
    """The rules that no dialect may break."""

    def _answers(self, dialect: Dialect) -> list[tuple[Operation, Reason, Answer]]:
        return [(operation, reason, dialect.answer(operation, reason)) for operation in Operation for reason in Reason]

    def test_a_kick_off_and_a_cancel_are_accepted_with_202(self, dialect: Dialect) -> None:
        """KO-110, DL-01."""
        assert dialect.accepted == dialect.cancelled == 202, "a kick-off and a cancel are accepted with 202"
        if dialect.cancelled_answer is not None:
            assert dialect.cancelled_answer.status == 202, "a cancel is accepted with 202, with a body too"

    def test_a_manifest_comes_with_200_and_progress_does_not(self, dialect: Dialect) -> None:
        """ST-01, ST-20."""
        assert dialect.completed == 200, "a manifest comes with 200"
        assert dialect.in_progress == 202, "a job that runs is 202"

    def test_every_refusal_is_an_error_with_a_code_of_fhirs(self, dialect: Dialect) -> None:
        """KO-112, DL-03, KO-104."""
        for operation, reason, answer in self._answers(dialect):
            assert answer.status in _ERRORS, f"{operation} {reason} is an error"
            assert answer.severity in _SEVERITIES, f"{operation} {reason} has the severity of an error"
            assert answer.code in ISSUE_TYPES, f"{operation} {reason} has a code of FHIR's issue types"

    def test_a_job_that_is_gone_is_404(self, dialect: Dialect) -> None:
        """DL-05, ST-27, DL-08."""
        for operation in (Operation.STATUS, Operation.CANCEL, Operation.FILE):
            for reason in (Reason.JOB_CANCELLED, Reason.JOB_EXPIRED):
                assert dialect.answer(operation, reason).status == 404, "a job that is gone is 404"
        for operation in (Operation.STATUS, Operation.FILE):
            assert dialect.answer(operation, Reason.JOB_UNKNOWN).status == 404, "an unknown job is 404 to a GET"

    def test_what_a_stranger_is_told_has_nothing_of_the_request(self, dialect: Dialect) -> None:
        """Law 7: the text is the dialect's own, so it cannot differ from one job to another."""
        for operation in Operation:
            assert dialect.answer(operation, Reason.JOB_UNKNOWN).text, "an unknown job is told in a fixed text"
            assert dialect.answer(operation, Reason.GROUP_UNKNOWN).text, "an unknown group is told in a fixed text"
            assert dialect.answer(operation, Reason.FAULT).text, "a fault is told in a fixed text"

    def test_an_unknown_patient_of_a_path_is_answered_like_an_unknown_group(self, dialect: Dialect) -> None:
        """Law 7: whether a patient exists is told to nobody who may not see it."""
        patient, group = (
            dialect.answer(Operation.KICK_OFF, reason) for reason in (Reason.PATIENT_OF_PATH_UNKNOWN, Reason.GROUP_UNKNOWN)
        )
        assert patient.text, "an unknown patient of a path is told in a fixed text"
        promise = "an unknown patient of a path is answered like an unknown group"
        assert replace(patient, text="") == replace(group, text=""), promise

    def test_a_missing_or_bad_token_is_401_in_a_fixed_text(self, dialect: Dialect) -> None:
        """SE-13."""
        for operation in Operation:
            for reason in (Reason.TOKEN_MISSING, Reason.TOKEN_INVALID):
                answer = dialect.answer(operation, reason)
                assert answer.status == 401, "a missing or bad token is 401"
                assert answer.text, "a missing or bad token is told in a fixed text"

    def test_what_can_pass_is_transient_and_what_is_final_is_not(self, dialect: Dialect) -> None:
        """ST-13, ST-14."""
        for reason in (Reason.BUSY, Reason.POLLED_TOO_OFTEN, Reason.JOBS_TOO_MANY):
            assert dialect.answer(Operation.STATUS, reason).code in _TRANSIENT, f"{reason} can pass"
        assert dialect.answer(Operation.STATUS, Reason.JOB_FAILED).code not in _TRANSIENT, "a failed job stays failed"

    def test_a_manifest_says_that_a_token_is_needed_as_a_boolean(self, dialect: Dialect) -> None:
        """MF-03."""
        shown = manifest(dialect, self._job(), ManifestPage(0, (), (), more=False), str, notes={"exactSnapshot": False})
        assert shown["requiresAccessToken"] is True, "requiresAccessToken is a boolean"
        assert parse(shown["transactionTime"]) <= Instant(1_767_225_600_123_456), "transactionTime never lies after the cut"
        assert shown["output"] == [], "an export of nothing has an empty output"

    def test_progress_stays_below_100_characters_and_below_the_end(self, dialect: Dialect) -> None:
        """ST-03."""
        for job in (self._job(JobState.QUEUED), self._job(JobState.RUNNING)):
            said = export_progress(dialect, job)
            assert 0 < len(said) < 100, "X-Progress has fewer than 100 characters"
            assert "100%" not in said.replace(" ", ""), "100 comes with the manifest only"

    def test_job_and_file_have_paths_of_their_own(self, dialect: Dialect) -> None:
        """AS-06, AS-08."""
        assert dialect.status_path != dialect.file_path, "a job's path is not a file's"
        assert dialect.jobs_path not in {dialect.status_path, dialect.file_path}, "the list of jobs has a path of its own"
        assert "DELETE" not in dialect.file_methods, "a file is not deleted on its own"

    def test_every_level_is_kicked_off_by_get_or_post(self, dialect: Dialect) -> None:
        """KO-04 to KO-07."""
        assert dialect.kick_off, "a dialect offers at least one level"
        for methods in dialect.kick_off.values():
            assert methods, "a level that is offered has a method"
            assert set(methods) <= {"GET", "POST"}, "a kick-off is a GET or a POST"

    def _job(self, state: JobState = JobState.COMPLETED) -> Job:
        request = Request(
            url="https://ehr.example/fhir/$export",
            level=Level.SYSTEM,
            types=("Patient",),
            window=Window(),
            retention=1,
            precision=Precision.MICROSECONDS,
        )
        at = Instant(1_767_225_600_123_456)
        return Job(
            id=new_job_id(),
            mount="fhir",
            owner=Owner("issuer", "subject"),
            request=request,
            state=state,
            created_at=at,
            changed_at=at,
            cut=at,
            estimate=10**15,
            done=10**15,
        )
