"""Jobs on behalf of a client: accept, look, cancel, fetch. It raises `Refused` with reasons and knows no HTTP."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import urlsplit

from fhir_bulk_middleware.caps import HOLD_SECONDS, LOOKED_AT
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.events import FileServed, KickedOff
from fhir_bulk_middleware.contract.job import Idempotency, Job, JobState, Part, Request, Standing
from fhir_bulk_middleware.contract.job_store import JobStore, ListPlace
from fhir_bulk_middleware.contract.query import Compartments, Rows
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.http.throttle import Throttle
from fhir_bulk_middleware.identifiers import NewJobId, is_job_id, job_of_file
from fhir_bulk_middleware.instant import Clock, seconds_between
from fhir_bulk_middleware.jobs.cancelling import Cancelling, check_live
from fhir_bulk_middleware.jobs.endings import Endings
from fhir_bulk_middleware.jobs.held_polls import HeldPolls
from fhir_bulk_middleware.jobs.kind import EffectsOfJobs
from fhir_bulk_middleware.jobs.view import Kind
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.tracing import span, traceparent

__all__ = ["JobList", "JobService", "KickOffDetail", "Polled"]

_CANCEL_TRIES = 20
_LOOKED_AT_ONCE = 100
_KICK_OFFS_AT_ONCE = 10
_SCOPES_REMEMBERED = 200
"""The maximum number of scopes of a token that is cached: one for each type is usual (law 38)."""


@dataclass(frozen=True, slots=True)
class KickOffDetail:
    """Details of a kick-off for its audit record.

    Attributes:
        group_id: the requested group, if any.
        patients: the requested patients.
        criteria: the criteria of the request and of the scopes.
    """

    group_id: str | None = None
    patients: frozenset[str] = frozenset()
    criteria: tuple[Criteria, ...] = ()


@dataclass(frozen=True, slots=True)
class JobList:
    """A page of the list of an owner's jobs.

    Attributes:
        jobs: the jobs, newest first.
        more: where the next page begins; None if this is the last.
    """

    jobs: tuple[Job, ...]
    more: ListPlace | None


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll found.

    Attributes:
        standing: the job, as `JobService.look` gives it.
        waited: for how many seconds at most the client's `wait` was honoured; None without one, or if no more polls can be held.
    """

    standing: Standing
    waited: int | None


class JobService:
    """The jobs of one mount, for their owners.

    Args:
        kinds: the kinds of job.
        jobs: the job store.
        runner: woken when there is work.
        mount: the name of the mount; only the mount that made a job answers for it (law 10).
        settings: limits.
        clock: the current time.
        new_job_id: makes job ids.
        observers: receive the events of jobs.
        effects: stops effects of jobs other than files; None if they have none.
        adapter: the identity of the adapter of new jobs (law 32).
        endings: announces ended jobs to polls that are held open.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[Kind],
        jobs: JobStore,
        runner: JobRunner,
        mount: str,
        settings: Settings,
        clock: Clock,
        new_job_id: NewJobId,
        observers: Observers | None = None,
        effects: EffectsOfJobs | None = None,
        adapter: str = "",
        endings: Endings | None = None,
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._jobs = jobs
        self._runner = runner
        self._mount = mount
        self._adapter = adapter
        self._settings = settings
        self._clock = clock
        self._new_job_id = new_job_id
        self._observers = Observers() if observers is None else observers
        self._cancelling = Cancelling(jobs, effects, self._observers, settings, clock)
        self._held = HeldPolls(endings or Endings())
        self._throttle = Throttle(settings.poll_burst, settings.polls_per_second, clock)
        most = settings.kick_offs_per_minute
        self._kick_offs = Throttle(min(most, max(_KICK_OFFS_AT_ONCE, most // 6)), most / 60, clock)

    @property
    def held_polls(self) -> int:
        """The number of polls that this process holds open."""
        return self._held.count

    def pace(self, principal: Principal) -> None:
        """Count a kick-off against the client's rate, before it is parsed (law 38).

        Raises:
            Refused: `REQUESTS_TOO_MANY`.
        """
        if wait := self._kick_offs.wait(principal.owner):
            most = self._settings.kick_offs_per_minute
            detail = f"At most {most} kick-offs of one client are looked at in a minute; try again in {wait} seconds."
            raise Refused(Reason.REQUESTS_TOO_MANY, detail, retry_after=wait)

    async def accept(
        self, principal: Principal, request: Request, rows: Rows, idempotency_key: str | None, asked: KickOffDetail
    ) -> Job:
        """Store a new job, record its kick-off and wake the runner. A repeated idempotency key returns the job that has it.

        Raises:
            Refused: the owner has too many jobs, or the key came with another request; or an audit cannot record the kick-off,
                and the job was cancelled.
        """
        job_id = self._new_job_id()
        with span("kick_off", {"mount": self._mount, "job": job_id, "kind": request.kind.value, "level": request.level.value}):
            return await self._accept(job_id, principal, request, rows, idempotency_key=idempotency_key, asked=asked)

    async def _accept(
        self,
        job_id: str,
        principal: Principal,
        request: Request,
        rows: Rows,
        *,
        idempotency_key: str | None,
        asked: KickOffDetail,
    ) -> Job:
        now = self._clock()
        job = Job(
            id=job_id,
            mount=self._mount,
            adapter=self._adapter,
            owner=principal.owner,
            request=replace(request, traceparent=traceparent()),
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
        if kept.id == job.id:
            await self._record(principal, kept, asked)
        self._runner.wake()
        return kept

    async def _record(self, principal: Principal, job: Job, asked: KickOffDetail) -> None:
        detail = self._observers.detail
        event = KickedOff(
            at=job.created_at,
            mount=job.mount,
            owner=job.owner,
            caller=principal.caller,
            job_id=job.id,
            kind=job.request.kind,
            level=job.request.level,
            types=job.request.types,
            group=asked.group_id,
            patients=await detail.patients(asked.patients),
            criteria=await detail.criteria(asked.criteria),
        )
        try:
            await self._observers.require(event)
        except Refused:
            await self._end(principal, job.id)
            raise

    async def _end(self, principal: Principal, job_id: str) -> None:
        """Cancel a job whose id no client has learnt."""
        for _ in range(_CANCEL_TRIES):
            job = await self._jobs.find(job_id, self._mount, principal.owner)
            if job is None or not job.state.live or await self._jobs.replace(job.cancelled(self._clock())):
                return

    async def poll(self, principal: Principal, job_id: str, wait: int | None, gone: Callable[[], Awaitable[None]]) -> Polled:
        """`look`, held open while the job has not ended and has no file to list (law 19).

        The first poll of a job is held for `Settings.first_poll_wait`, any poll for the `wait` of its client; never longer than
        its token is valid. It counts as one poll. A poll of an unknown job is never held (law 7).

        Args:
            principal: the client.
            job_id: the job.
            wait: how many seconds the client is willing to wait; None if it does not say.
            gone: returns when the client has disconnected.

        Raises:
            Refused: as `look`; also if the job is cancelled meanwhile.
        """
        honoured = None if wait is None else min(wait, HOLD_SECONDS)
        first = self._settings.first_poll_wait
        seconds = (0 if self._throttle.knows(job_id) else first) if honoured is None else honoured
        seconds = min(seconds, seconds_between(self._clock(), principal.expires_at)) if seconds else 0
        if seconds <= 0:
            return Polled(await self.look(principal, job_id), honoured)
        with self._held.awaiting(job_id) as woken:
            standing = await self.look(principal, job_id)
            if _tells(standing):
                return Polled(standing, honoured)
            with self._held.place(principal.owner) as free:
                if not free:
                    return Polled(standing, None)
                async with self._held.held(woken, seconds, gone) as again:
                    while not _tells(standing) and await again():
                        standing = await self._standing(principal, await self._own(principal, job_id))
        return Polled(standing, honoured)

    async def look(self, principal: Principal, job_id: str) -> Standing:
        """The job for a poll (section 2), with its parts if the answer lists them, all as of one instant (law 35).

        A poll that lists none is one indexed read (law 19).

        Raises:
            Refused: it is unknown to this caller, cancelled or expired; the token's scopes no longer cover it; or it was asked
                for too often (ST-05). A failed job is no refusal: its `failure` says why it failed.
        """
        job = await self._own(principal, job_id)
        self._check_scopes(principal, job)
        if wait := self._throttle.wait(job.id):
            raise Refused(Reason.POLLED_TOO_OFTEN, f"Poll again in {wait} seconds; the export goes on.", retry_after=wait)
        return await self._standing(principal, job)

    async def _standing(self, principal: Principal, job: Job) -> Standing:
        """The job with its parts, if the answer lists them."""
        early = job.state is JobState.RUNNING and job.request.options.partial_manifests
        if job.state is not JobState.COMPLETED and not early:
            return Standing(job)
        standing = await self._jobs.standing(job.id, self._mount, principal.owner)
        if standing is None:
            raise Refused(Reason.JOB_UNKNOWN)
        check_live(standing.job, self._clock)
        return standing

    async def listed(self, principal: Principal, after: ListPlace | None, count: int) -> JobList:
        """The caller's own live jobs of this mount that its scopes cover, newest first (laws 7 and 10).

        No audit event tells of a list: it holds nothing but what the caller itself sent, and nothing of a resource.

        Args:
            principal: the caller.
            after: where the list goes on; None for its beginning.
            count: the largest number of jobs.

        Raises:
            Refused: the caller lists its jobs too often.
        """
        if wait := self._throttle.wait(principal.owner):
            raise Refused(Reason.POLLED_TOO_OFTEN, f"List your jobs again in {wait} seconds.", retry_after=wait)
        found: list[Job] = []
        for _ in range(0, LOOKED_AT, _LOOKED_AT_ONCE):
            jobs = await self._jobs.owned(self._mount, principal.owner, after=after, limit=_LOOKED_AT_ONCE)
            for job in jobs:
                if self._shown(principal, job):
                    if len(found) == count:
                        return JobList(tuple(found), after)
                    found.append(job)
                after = ListPlace.of(job)
            if len(jobs) < _LOOKED_AT_ONCE:
                return JobList(tuple(found), None)
        return JobList(tuple(found), after)

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """Cancel the job: its work stops, and nothing of it is served again (DL-01 to DL-11). No scopes are needed (law 7).

        Raises:
            Refused: it is unknown to this caller, or was cancelled or had expired before.
        """
        return await self._cancelling.cancel(lambda: self._known(principal, job_id), principal.caller)

    async def cancelled_before(self, principal: Principal, job_id: str) -> Job | None:
        """The job if its owner cancelled it before: a repeated cancel gets the answer of the first."""
        job = await self._jobs.find(job_id, self._mount, principal.owner) if is_job_id(job_id) else None
        return job if job is not None and job.state is JobState.CANCELLED else None

    async def file(self, principal: Principal, file_id: str) -> Part:
        """A file of a completed job, or of a running one with partial manifests.

        Raises:
            Refused: its job is unknown to this caller, or gone; there is no such file; or the scopes no longer cover it.
        """
        job_id = job_of_file(file_id) or ""
        standing = None
        if is_job_id(job_id):
            standing = await self._jobs.standing(job_id, self._mount, principal.owner, file_id=file_id)
        if standing is None:
            raise Refused(Reason.JOB_UNKNOWN)
        job = standing.job
        check_live(job, self._clock)
        self._check_scopes(principal, job)
        early = job.state is JobState.RUNNING and job.request.options.partial_manifests
        open_ = early or job.state is JobState.COMPLETED
        if not standing.parts or not open_ or not self._kinds[job.request.kind].has_files:
            raise Refused(Reason.FILE_UNKNOWN)
        return standing.parts[0]

    async def served(self, principal: Principal, part: Part, size: int) -> None:
        """Record that `size` bytes of this file, as they go over the wire, are about to be sent.

        Raises:
            Refused: an audit cannot record it, so nothing may be sent (law 37).
        """
        await self._observers.require(
            FileServed(
                at=self._clock(),
                mount=self._mount,
                owner=principal.owner,
                caller=principal.caller,
                job_id=job_of_file(part.file_id) or "",
                file_id=part.file_id,
                type=part.type,
                size=size,
            )
        )

    async def _own(self, principal: Principal, job_id: str) -> Job:
        """The live job of this caller; a stranger's is unknown (law 7)."""
        job = await self._known(principal, job_id)
        check_live(job, self._clock)
        return job

    async def _known(self, principal: Principal, job_id: str) -> Job:
        job = await self._jobs.find(job_id, self._mount, principal.owner) if is_job_id(job_id) else None
        if job is None:
            raise Refused(Reason.JOB_UNKNOWN)
        return job

    def _check_scopes(self, principal: Principal, job: Job) -> None:
        """Require the scopes that the kick-off needed (SE-03, FR-04)."""
        if missing := self._uncovered(principal, job):
            raise Refused(Reason.SCOPE_MISSING, missing)

    def _uncovered(self, principal: Principal, job: Job) -> str | None:
        return self._kinds[job.request.kind].uncovered(_scopes(principal.scopes), job.request)

    def _shown(self, principal: Principal, job: Job) -> bool:
        """Whether a list shows the job: it has not expired, swept or not, and the token's scopes cover it."""
        return (job.state.working or job.expires_at > self._clock()) and self._uncovered(principal, job) is None


def _tells(standing: Standing) -> bool:
    """Whether a poll has more to tell than that the job goes on: it has ended, or its partial manifest may have a page."""
    return not standing.job.state.working or bool(standing.parts)


def _scopes(scopes: tuple[str, ...]) -> Scopes:
    """The scopes of a token, cached, because a client polls with the same ones."""
    return Scopes.parse(scopes) if len(scopes) > _SCOPES_REMEMBERED else _remembered_scopes(scopes)


@lru_cache(maxsize=64)
def _remembered_scopes(scopes: tuple[str, ...]) -> Scopes:
    return Scopes.parse(scopes)


def _idempotency(key: str | None, request: Request, rows: Rows) -> Idempotency | None:
    """Digests of the key, and of the request with its rights (law 12), but not of the address that the request came to.

    A client whose answer was lost may retry by another host name or port.
    """
    if key is None:
        return None
    selection, group = rows.selection, rows.membership
    whose: object = sorted(selection.references) if isinstance(selection, Compartments) else type(selection).__name__
    if group is not None:
        whose = (group.group_id, None if group.patients is None else sorted(group.patients), group.older)
    options = replace(request.options, base_url=None, base_urls=())
    asked = replace(request, url=urlsplit(request.url).query, options=options)
    fingerprint = repr((asked, whose, rows.rights, rows.filters))
    return Idempotency(*(hashlib.sha256(text.encode()).hexdigest() for text in (key, fingerprint)))
