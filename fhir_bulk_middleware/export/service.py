"""What happens to exports on behalf of a caller: begin, look, cancel, fetch. It speaks reasons, not HTTP."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from fhir_bulk_middleware.delete.rights import check_covered
from fhir_bulk_middleware.events import Cancelled, FileServed, KickedOff
from fhir_bulk_middleware.export.admission import Admission, Wish
from fhir_bulk_middleware.export.coverage import listed
from fhir_bulk_middleware.export.job import Idempotency, Job, JobKind, JobState, Part, Request
from fhir_bulk_middleware.export.query import Compartments, Rows
from fhir_bulk_middleware.export.throttle import Throttle
from fhir_bulk_middleware.identifiers import NewJobId, is_job_id, job_of_file
from fhir_bulk_middleware.instant import Clock, seconds_between
from fhir_bulk_middleware.observing import Observers
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.principal import Principal
from fhir_bulk_middleware.protocols import JobRunner, JobStore
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportService"]

_CANCEL_TRIES = 20
_KICK_OFFS_AT_ONCE = 10
_SCOPES_REMEMBERED = 200
"""Scopes of a token that is remembered: one for each type is usual, more would only fill memory (law 38)."""


class ExportService:
    """The life of exports as their owners see it.

    Args:
        admission: decides what a kick-off comes to.
        jobs: where jobs are kept.
        runner: is told when there is work.
        mount: the name of the mount; a job answers through the mount that made it (law 10).
        settings: limits.
        clock: what time it is.
        new_job_id: where job ids come from.
        observers: who is told what happens.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        jobs: JobStore,
        runner: JobRunner,
        mount: str,
        settings: Settings,
        clock: Clock,
        new_job_id: NewJobId,
        observers: Observers | None = None,
    ) -> None:
        self._admission = admission
        self._jobs = jobs
        self._runner = runner
        self._mount = mount
        self._settings = settings
        self._clock = clock
        self._new_job_id = new_job_id
        self._observers = observers or Observers()
        self._throttle = Throttle(settings.poll_burst, settings.polls_per_second, clock)
        most = settings.kick_offs_per_minute
        self._kick_offs = Throttle(min(most, max(_KICK_OFFS_AT_ONCE, most // 6)), most / 60, clock)

    def pace(self, principal: Principal) -> None:
        """Count a kick-off, before anything in it is looked at (law 38).

        Raises:
            Refused: `REQUESTS_TOO_MANY`.
        """
        if wait := self._kick_offs.wait(principal.owner):
            most = self._settings.kick_offs_per_minute
            detail = f"At most {most} kick-offs of one client are looked at in a minute; try again in {wait} seconds."
            raise Refused(Reason.REQUESTS_TOO_MANY, detail, retry_after=wait)

    async def begin(self, principal: Principal, wish: Wish) -> Job:
        """Accept an export, durably, and set it going (KO-110).

        The same wish under the same idempotency key comes to the same job (law 12).

        Raises:
            Refused: for whatever reason it is not accepted; then no job exists.
        """
        request, rows = await self._admission.decide(principal, wish)
        return await self.accept(principal, request, rows, wish.idempotency_key)

    async def accept(self, principal: Principal, request: Request, rows: Rows, idempotency_key: str | None) -> Job:
        """Keep a job that was decided on, and set it going.

        Raises:
            Refused: too many run already, or the key came with another request.
        """
        now = self._clock()
        job = Job(
            id=self._new_job_id(),
            mount=self._mount,
            owner=principal.owner,
            request=request,
            created_at=now,
            changed_at=now,
            idempotency=_idempotency(idempotency_key, request, rows),
        )
        limit = self._settings.jobs_per_owner
        kept = await self._jobs.add(job, rows, working_at_most=limit)
        if kept is None:
            raise Refused(
                Reason.JOBS_TOO_MANY,
                f"At most {limit} exports of one client may run at once; wait for one to end, or cancel one.",
                retry_after=self._settings.retry_after_longest,
            )
        if kept.idempotency != job.idempotency:
            raise Refused(
                Reason.IDEMPOTENCY_MISMATCH,
                "Another request came under this Idempotency-Key; use a new key for a new request.",
                part="http.Idempotency-Key",
            )
        self._runner.wake()
        if kept.id == job.id:
            await self._observers.tell(
                KickedOff(
                    at=now,
                    mount=job.mount,
                    owner=job.owner,
                    job_id=job.id,
                    kind=request.kind,
                    level=request.level,
                    types=request.types,
                )
            )
        return kept

    async def look(self, principal: Principal, job_id: str) -> Job:
        """The job, as it stands (section 2).

        Raises:
            Refused: it is unknown to this caller, cancelled or expired; the token's scopes no longer cover it; or it was asked
                for too often (ST-05). A failed job is no refusal: its `failure` says why it failed.
        """
        job = await self._own(principal, job_id)
        self._check_scopes(principal, job)
        if wait := self._throttle.wait(job.id):
            raise Refused(Reason.POLLED_TOO_OFTEN, f"Poll again in {wait} seconds; the export goes on.", retry_after=wait)
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
                await self._observers.tell(Cancelled(at=cancelled.changed_at, mount=job.mount, owner=job.owner, job_id=job.id))
                return cancelled
        raise Refused(Reason.BUSY, "The export is changing too quickly; try again.", retry_after=self._settings.retry_after)

    async def published(self, job: Job) -> Sequence[Part]:
        """The files that a manifest may list, in the order of the plan.

        Of a job that runs it is those before every file still to come, so that the list only ever grows at its end (law 20);
        and none, if the client did not allow partial manifests.
        """
        if job.state is JobState.COMPLETED:
            return await self._jobs.parts(job.id)
        if job.state is not JobState.RUNNING or not job.request.options.partial_manifests:
            return ()
        unfinished = await self._jobs.unfinished(job.id)  # before the parts: what was settled then is settled now
        return [part for part in await self._jobs.parts(job.id) if unfinished is None or part.slice <= unfinished]

    async def file(self, principal: Principal, file_id: str) -> Part:
        """A file of a completed job.

        Raises:
            Refused: its job is unknown to this caller, or gone; there is no such file; or the scopes no longer cover it.
        """
        job = await self._own(principal, job_of_file(file_id) or "")
        self._check_scopes(principal, job)
        early = job.state is JobState.RUNNING and job.request.options.partial_manifests
        part = await self._jobs.part(job.id, file_id) if early or job.state is JobState.COMPLETED else None
        if part is None or job.request.kind is not JobKind.EXPORT:  # what a remove-all keeps of its work is no file
            raise Refused(Reason.FILE_UNKNOWN)
        return part

    async def served(self, principal: Principal, part: Part, size: int) -> None:
        """Say that this file is about to be handed over, `size` bytes of it as they go over the wire."""
        await self._observers.tell(
            FileServed(
                at=self._clock(),
                mount=self._mount,
                owner=principal.owner,
                job_id=job_of_file(part.file_id) or "",
                file_id=part.file_id,
                type=part.type,
                size=size,
            )
        )

    def pause(self, job: Job) -> int:
        """Seconds after which another poll is worth its while, from the rate so far (ST-04).

        Never longer than the job has taken yet: the first moments, in which workers start and plans are made, say little
        about the rest, and a client sent away for a minute would sleep past the end of an export of seconds.
        """
        shortest, longest = self._settings.retry_after, self._settings.retry_after_longest
        if not job.done:
            return shortest
        elapsed = max(seconds_between(job.created_at, self._clock()), 0.0)
        left = max(job.estimate - job.done, 0) / job.done * elapsed
        return min(max(round(min(left, elapsed)), shortest), longest)

    async def _own(self, principal: Principal, job_id: str) -> Job:
        """The one way to a job on behalf of a caller: it cannot find somebody else's (law 7)."""
        job = await self._jobs.find(job_id, self._mount, principal.owner) if is_job_id(job_id) else None
        if job is None:
            raise Refused(Reason.JOB_UNKNOWN)
        if job.state is JobState.CANCELLED:
            raise Refused(Reason.JOB_CANCELLED)
        if job.state is JobState.EXPIRED or (not job.state.working and job.expires_at <= self._clock()):
            raise Refused(Reason.JOB_EXPIRED)
        return job

    def _check_scopes(self, principal: Principal, job: Job) -> None:
        """Status and files need scopes for what the job holds, as its kick-off did (SE-03, FR-04)."""
        scopes = _scopes(principal.scopes)
        if job.request.kind is JobKind.REMOVE_ALL:
            check_covered(scopes, job.request)
            return
        types = frozenset(job.request.types)
        missing = types - scopes.readable(types)
        if not missing:
            return
        restricted: dict[str, set[str]] = {}
        for type_, query in job.request.granular:
            restricted.setdefault(type_, set()).add(query)
        missing -= {type_ for type_, queries in restricted.items() if queries <= set(scopes.queries(type_))}
        if missing:
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {listed(missing)}, which this export holds.")


def _scopes(scopes: tuple[str, ...]) -> Scopes:
    """A token's scopes; a client polls and fetches with the same ones."""
    return Scopes.parse(scopes) if len(scopes) > _SCOPES_REMEMBERED else _remembered_scopes(scopes)


@lru_cache(maxsize=64)
def _remembered_scopes(scopes: tuple[str, ...]) -> Scopes:
    return Scopes.parse(scopes)


def _idempotency(key: str | None, request: Request, rows: Rows) -> Idempotency | None:
    """Digests of the key and of all that the client asked for and may have; the job's id and times do not count."""
    if key is None:
        return None
    selection = rows.selection
    whose = sorted(selection.references) if isinstance(selection, Compartments) else type(selection).__name__
    fingerprint = repr((request, whose, rows.rights, rows.filters))
    return Idempotency(*(hashlib.sha256(text.encode()).hexdigest() for text in (key, fingerprint)))
