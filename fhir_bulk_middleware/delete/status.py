"""Responses about remove-all jobs: progress, result, failure, and the tally of a cancel (law 26, AS-03)."""

from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import FileKind, Job, JobState, Part, Standing
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.removal import Tally
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.record import Record
from fhir_bulk_middleware.delete.responses import as_answer, removed_entry
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.dialects.model import Answer, Dialect
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.progress import pause, progress
from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation, Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["RemovalStatus"]

_PROGRESS = "Deleting - {done:,} of {estimate:,} resources"


class RemovalStatus:
    """The `View` of remove-all jobs.

    Args:
        outputs: keeps the records of each job.
        runs: knows the tally of jobs that did not complete.
        policy: renders the outcome of each resource.
        dialect: renders progress and cancel.
        replies: makes responses.
        addresses: builds URLs.
        settings: how often clients should poll.
        clock: the current time.
    """

    def __init__(
        self,
        *,
        outputs: OutputStore,
        runs: RemovalRuns,
        policy: DeletePolicy,
        dialect: Dialect,
        replies: Replies,
        addresses: Addresses,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._outputs = outputs
        self._runs = runs
        self._policy = policy
        self._dialect = dialect
        self._replies = replies
        self._addresses = addresses
        self._settings = settings
        self._clock = clock

    async def polled(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
        """The response to a poll; a remove-all has one page only.

        Raises:
            Refused: the job failed, or another page was asked for.
        """
        job = standing.job
        if not job.state.working:
            return await self._ended(request, principal, standing)
        if number:
            raise Refused(Reason.FILE_UNKNOWN)
        headers = {
            "X-Progress": self.progress(job),
            "Retry-After": self._replies.retry_after(pause(job, self._clock(), self._settings)),
        }
        return self._replies.empty(self._dialect.in_progress, headers)

    def progress(self, job: Job) -> str:
        """See `View.progress`."""
        return progress(self._dialect, job, queued="Delete queued", running=_PROGRESS)

    async def _ended(self, request: Request, principal: Principal, standing: Standing) -> Response:
        """The result of a completed job: a batch-response Bundle, or counts if the caller may not read what was removed.

        Raises:
            Refused: the job failed; the text has the tally until then.
        """
        job, parts = standing.job, standing.parts
        if job.state is JobState.FAILED:
            raise Refused(Reason.JOB_FAILED, f"The delete could not be finished. {_tally_text(await self._runs.end(job))}")
        if self._readable(principal, job):
            bundle = self._bundle(parts, self._addresses.base(request), job.request.types[0])
            return self._replies.streamed(self._dialect.completed, bundle, {"Expires": instant.http_date(job.expires_at)})
        removed = sum(part.count for part in parts if part.kind is FileKind.OUTPUT)
        left = sum(part.count for part in parts if part.kind is FileKind.ERROR)
        counted = self._policy.counted
        answer = Answer(self._dialect.completed, counted.code, severity=counted.severity)
        return self._replies.told(answer, _tally_text(Tally(removed, left)))

    async def cancelled(self, job: Job) -> Response:
        """The response to a cancel, with the tally: what was removed stays removed."""
        tally = _tally_text(await self._runs.end(job))
        answer = self._dialect.cancelled_answer
        if answer is None:
            counted = self._policy.counted
            return self._replies.told(Answer(self._dialect.cancelled, counted.code, severity=counted.severity), tally)
        now = instant.render(job.changed_at, instant.Precision.SECONDS)
        return self._replies.told(answer, f"{answer.text.format(job=job.id, now=now)} {tally}")

    async def cancelled_before(self, job: Job) -> Response | None:
        """The response to a repeated cancel: the job is gone (DL-05), and the tally is that of the first (law 36)."""
        answer = self._dialect.answer(Operation.CANCEL, Reason.JOB_CANCELLED)
        return self._replies.told(answer, f"{answer.text} {_tally_text(await self._runs.end(job))}".strip())

    def _readable(self, principal: Principal, job: Job) -> bool:
        """Whether the caller may read everything that the job may have removed (law 24)."""
        restricted_to = Scopes.parse(principal.scopes).restrictions(job.request.types[0], "r")
        granted = {query for _, query in job.request.granular}
        return restricted_to is None or (bool(granted) and granted <= set(restricted_to))

    async def _bundle(self, parts: Sequence[Part], base: str, type_: str) -> AsyncIterator[bytes]:
        yield b'{"resourceType":"Bundle","type":"batch-response"'
        before = b',"entry":['
        for part in parts:
            async with closing(PartReader(self._outputs, part).read(0, part.size)) as chunks:
                rest = b""
                async for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield before + b",".join(self._entry(Record.of(line), base, type_) for line in lines)
                        before = b","
        yield b"]}" if before == b"," else b"}"

    def _entry(self, record: Record, base: str, type_: str) -> bytes:
        if record.outcome is DeleteOutcome.DELETED:
            return removed_entry(base, type_, record.version, self._policy.without_content.status)
        cell = self._policy.cells[record.outcome]
        text = _LEFT[record.outcome]
        response = {"status": str(cell.status), "outcome": self._replies.outcome(as_answer(cell), text)}
        entry = {"fullUrl": f"{base}/{type_}/{record.version.id}", "response": response}
        return compact_json(entry).encode()


_LEFT = {
    DeleteOutcome.ALREADY_DELETED: "The resource had been deleted by somebody else.",
    DeleteOutcome.VERSION_MISMATCH: "The resource has changed since the delete was asked for; it was left alone.",
    DeleteOutcome.PROTECTED: "This server keeps the resource; it was left alone.",
}


def _tally_text(tally: Tally | None) -> str:
    if tally is None:
        return "What was deleted until then stands in the history of the resources."
    text = f"{tally.removed} resources were deleted, {tally.left} were left alone."
    return text + (f" Of {tally.doubtful} more it is not known yet." if tally.doubtful else "")
