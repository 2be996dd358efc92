"""What happens to exports on behalf of a caller: begin, look, cancel, fetch. It speaks reasons, not HTTP."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from fhir_bulk_middleware.export.coverage import Coverage, listed
from fhir_bulk_middleware.export.job import Job, JobState, Part, Request
from fhir_bulk_middleware.export.parameters import Asked
from fhir_bulk_middleware.export.query import Compartments, EveryPatient, Everything, Level, Rows, Selection, Window
from fhir_bulk_middleware.identifiers import NewJobId, is_job_id, job_of_file
from fhir_bulk_middleware.instant import Clock, Instant, Precision, after, seconds_between
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.principal import Principal
from fhir_bulk_middleware.protocols import JobRunner, JobStore, SupportsExport, SupportsGroups, SupportsSnapshot
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportService", "Terms"]

_FHIR_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_CANCEL_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a mount promises for its jobs.

    Attributes:
        mount: its name; a job answers through the mount that made it (law 10).
        precision: how much of the cut its clients are shown.
        retention: seconds that a finished job is kept.
    """

    mount: str
    precision: Precision
    retention: float


class ExportService:
    """The life of exports as their owners see it.

    Args:
        resources: the storage adapter.
        groups: who knows the members of groups, None if nobody does.
        jobs: where jobs are kept.
        runner: is told when there is work.
        coverage: which types an export holds.
        terms: what the mount promises.
        settings: limits.
        clock: what time it is.
        new_job_id: where job ids come from.
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        groups: SupportsGroups | None,
        jobs: JobStore,
        runner: JobRunner,
        coverage: Coverage,
        terms: Terms,
        settings: Settings,
        clock: Clock,
        new_job_id: NewJobId,
    ) -> None:
        self._resources = resources
        self._groups = groups
        self._jobs = jobs
        self._runner = runner
        self._coverage = coverage
        self._terms = terms
        self._settings = settings
        self._clock = clock
        self._new_job_id = new_job_id

    async def begin(self, principal: Principal, level: Level, group_id: str | None, asked: Asked, url: str) -> Job:
        """Accept an export, durably, and set it going (KO-110).

        Everything that can be checked is checked here, before it is accepted; what the principal may see is frozen.

        Raises:
            Refused: for whatever reason it is not accepted; then no job exists.
        """
        authorisation = await self._resources.authorise(principal)
        selection = await self._selection(principal, level, group_id)
        types = self._coverage.types(principal, selection, authorisation, asked.types)
        await self._check_since(asked.since)
        now = self._clock()
        job = Job(
            id=self._new_job_id(),
            mount=self._terms.mount,
            owner=principal.owner,
            request=Request(
                url=url,
                level=level,
                types=types,
                window=Window(since=asked.since),
                precision=self._terms.precision,
            ),
            created_at=now,
            changed_at=now,
        )
        limit = self._settings.jobs_per_owner
        if not await self._jobs.add(job, Rows(selection, authorisation.rights), working_at_most=limit):
            raise Refused(
                Reason.JOBS_TOO_MANY,
                f"At most {limit} exports of one client may run at once; wait for one to end, or cancel one.",
                retry_after=self._settings.retry_after_longest,
            )
        self._runner.wake()
        return job

    async def look(self, principal: Principal, job_id: str) -> Job:
        """The job, as it stands (section 2).

        Raises:
            Refused: it is unknown to this caller, cancelled, expired or failed, or the token's scopes no longer cover it.
        """
        job = await self._own(principal, job_id)
        self._check_scopes(principal, job)
        if job.state is JobState.FAILED and job.failure is not None:
            raise Refused(job.failure.reason, job.failure.detail)
        return job

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """End the job for good: whatever works on it stops, and nothing of it is served again (DL-01 to DL-11).

        Ownership alone is needed (law 7).

        Raises:
            Refused: it is unknown to this caller, or was cancelled or had expired before.
        """
        for _ in range(_CANCEL_TRIES):
            job = await self._own(principal, job_id)
            cancelled = job.cancelled(self._clock())
            if await self._jobs.replace(cancelled):
                return cancelled
        raise Refused(Reason.BUSY, "The export is changing too quickly; try again.", retry_after=self._settings.retry_after)

    async def parts(self, job: Job) -> Collection[Part]:
        """The files of a completed job, in the order of its plan."""
        return await self._jobs.parts(job.id)

    async def file(self, principal: Principal, file_id: str) -> Part:
        """A file of a completed job.

        Raises:
            Refused: its job is unknown to this caller, or gone; there is no such file; or the scopes no longer cover it.
        """
        job = await self._own(principal, job_of_file(file_id) or "")
        self._check_scopes(principal, job)
        part = await self._jobs.part(job.id, file_id) if job.state is JobState.COMPLETED else None
        if part is None:
            raise Refused(Reason.FILE_UNKNOWN)
        return part

    def expires_at(self, job: Job) -> Instant:
        """When a finished job and its files go."""
        return after(job.changed_at, self._terms.retention)

    def pause(self, job: Job) -> int:
        """Seconds after which another poll is worth its while, from the rate so far (ST-04)."""
        shortest, longest = self._settings.retry_after, self._settings.retry_after_longest
        if not job.done or job.cut is None:
            return shortest
        elapsed = seconds_between(job.created_at, self._clock())
        left = max(job.estimate - job.done, 0) / job.done * max(elapsed, 0.0)
        return min(max(round(left), shortest), longest)

    async def _own(self, principal: Principal, job_id: str) -> Job:
        """The one way to a job on behalf of a caller: it cannot find somebody else's (law 7)."""
        job = await self._jobs.find(job_id, self._terms.mount, principal.owner) if is_job_id(job_id) else None
        if job is None:
            raise Refused(Reason.JOB_UNKNOWN)
        if job.state is JobState.CANCELLED:
            raise Refused(Reason.JOB_CANCELLED)
        finished = job.state in {JobState.COMPLETED, JobState.FAILED}
        if job.state is JobState.EXPIRED or (finished and self.expires_at(job) <= self._clock()):
            raise Refused(Reason.JOB_EXPIRED)
        return job

    def _check_scopes(self, principal: Principal, job: Job) -> None:
        """Status and files need scopes for what the job holds, as its kick-off did (SE-03, FR-04)."""
        types = frozenset(job.request.types)
        if missing := types - Scopes.parse(principal.scopes).readable(types):
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {listed(missing)}, which this export holds.")

    async def _selection(self, principal: Principal, level: Level, group_id: str | None) -> Selection:
        if level is Level.SYSTEM:
            return Everything()
        if level is Level.PATIENT:
            return EveryPatient()
        known = self._groups is not None and group_id is not None and _FHIR_ID.fullmatch(group_id) is not None
        members = await self._groups.members(group_id, principal) if known and self._groups and group_id else None
        if members is None:
            raise Refused(Reason.GROUP_UNKNOWN)
        return Compartments(members)

    async def _check_since(self, since: Instant | None) -> None:
        """A change after an instant that has not come cannot be asked for; by the storage's own clock (law 2, KO-76)."""
        if since is None:
            return
        now = await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()
        if since > now:
            raise Refused(Reason.VALUE_MALFORMED, "_since lies in the future.", part="http._since")
