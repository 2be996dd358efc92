"""Everything that a host may implement, and nothing else.

"Runs in a worker" means: in a worker process where the adapter, the job store and the output store can be made again there
(`SupportsWorkerProcess`), else in the server's loop. A method that runs in a worker process may block; one that runs in the
server must not, for all requests wait for it.

A capability is an implemented protocol: routes, CapabilityStatement and documentation follow from what an adapter has. Each
protocol says who guarantees what; `fhir_bulk_middleware.testing` has a suite for each.

The storage adapter itself is one object with `SupportsExport` and as many of the other `Supports...` protocols as it can keep.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.events import Event
from fhir_bulk_middleware.contract.job import Codec, Job, JobState, Lease, Part, Recorded, Slice, Standing
from fhir_bulk_middleware.contract.query import Authorisation, Block, Deletions, Page, Query, Range, Rows
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.contract.removal import Batch, Current, Mark, Matches, Protected, Removal, Report, Tally, Target
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = [
    "Audit",
    "DeletionLog",
    "JobRetention",
    "JobRunner",
    "JobStore",
    "Observer",
    "OutputSink",
    "OutputStore",
    "Recipe",
    "SupportsAudit",
    "SupportsBatchDelete",
    "SupportsConditionalDelete",
    "SupportsDelete",
    "SupportsDeletionHorizon",
    "SupportsDeletions",
    "SupportsExport",
    "SupportsGroups",
    "SupportsJoining",
    "SupportsLockedDelete",
    "SupportsOrganising",
    "SupportsOutbox",
    "SupportsPatients",
    "SupportsProvenance",
    "SupportsRead",
    "SupportsSlices",
    "SupportsSnapshot",
    "SupportsTypes",
    "SupportsWorkerProcess",
    "TokenVerifier",
    "Work",
    "WorkQueue",
]


# --- The storage adapter ---------------------------------------------------------------------------------------------


@runtime_checkable
class SupportsExport(Protocol):
    """A storage that can be exported. Without it there is nothing to install.

    Runs in: `authorise` in the server, with each kick-off; `pages` in a worker.

    We guarantee: the principal is verified; each `Query` names a type that `authorise` allowed; `pages` is called in any process,
    several at a time, and may be called again for what was read before.
    """

    async def authorise(self, principal: Principal) -> Authorisation:
        """What this principal may export from this storage, scopes aside.

        The types are those that may be exported, whether or not there is a resource of them now: one that is first written
        between this call and the cut belongs to this export (law 33).

        Raises:
            Refused: `SERVICE_INACTIVE`, where the export service is switched off for the principal (law 29).
        """
        ...

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in one fixed order, beginning after the cursor `after` (None: from the start).

        The adapter guarantees: lines are canonical (see `Page`); no resource twice; the same query gives the same lines in the
        same order as long as the storage has not changed (for stores with snapshots: always); no page is larger than
        `query.page_bytes`, unless it holds a single resource; an empty selection gives no page.
        """
        ...


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A storage that can be read as of an instant. Without it exports may hold changes that came after their cut (law 6).

    Runs in: `now` in the server, with a kick-off that has `_since`, `cut` in a worker.
    """

    async def now(self) -> Instant:
        """The storage's own clock, by which a `_since` is in the future or not (law 2)."""
        ...

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut: the latest instant at `precision` from which on nothing can change any more.

        The adapter guarantees: each write that is visible later has a `lastUpdated` after the cut, also those whose
        transactions are open now; a query with `as_of` at the cut gives the storage as it was then, for as long as jobs are kept.
        """
        ...


@runtime_checkable
class SupportsSlices(Protocol):
    """A storage that can cut a query into parts of about the same size. Without it each type is one slice.

    Runs in a worker.
    """

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Ranges that together hold each resource of the query exactly once, in the order of `pages`.

        The adapter guarantees: for a query with `as_of`, the ranges hold the same resources whenever they are read. For a query
        that holds nothing it should give none: it is asked for each type, and a range costs some durable writes (law 44).
        """
        ...


@runtime_checkable
class SupportsDeletions(Protocol):
    """A storage that knows what was deleted. Without it the manifest has no `deleted` list (DR-02, DR-07).

    Runs in a worker.
    """

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """What was deleted within the query's window and does not live as of its cut, in one fixed order.

        The adapter guarantees: no reference twice; a resource that was created again is not among them (MF-22); a deletion whose
        compartments are unknown is left out where the selection is not `Everything` (law 27); where the selection is one, a
        deletion is told if the resource lay in it at any moment since the window began, as its version of then or a later one:
        also if it had moved to another patient before it was deleted (law 34).
        """
        ...


@runtime_checkable
class SupportsDeletionHorizon(Protocol):
    """A storage that forgets deletions after some time. Without it `deletions` is taken to tell all that there ever were."""

    async def deletions_known_since(self) -> Instant | None:
        """The earliest `_since` for which `deletions` tells all; None if nothing was forgotten yet.

        Asked at kick-off. An export since an earlier instant says so in its manifest, or is refused, by setting
        (`refuse_forgotten_deletions`). The adapter guarantees that what it says holds as long as a job can run
        (`Settings.deadline`): it forgets deletions, and the versions that say whose they were, only that much later.
        """
        ...


@runtime_checkable
class SupportsTypes(Protocol):
    """A storage that tells anybody which types it exports. Without it the CapabilityStatement does not list them (CS-06).

    Runs in the server.
    """

    def exportable_types(self) -> frozenset[str]:
        """The types that `authorise` allows to somebody; it is published, and asked for once."""
        ...


@runtime_checkable
class SupportsGroups(Protocol):
    """Who knows the members of groups; groups may live outside the FHIR server (law 29). Without it there is no Group level.

    `members` is called at kick-off, in the server, and again when the job's cut has been fixed, wherever exports run: in a worker
    process, if it can be made again there (`SupportsWorkerProcess`). Where it cannot, all exports run in the server's loop.
    """

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        """References of the group's members now (`Patient/123`), None for a group that is unknown to this principal.

        A group without members is an empty set, and its export is empty. The adapter guarantees: whoever joined before the call
        is among them, and whoever left is not (law 33); nothing is kept from an earlier call.
        """
        ...


@runtime_checkable
class SupportsJoining(Protocol):
    """Whoever knows the members of groups also knows their past. Without it GR-01 is not to be had.

    Runs in the server, with a kick-off at Group level that has `_since`.
    """

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:
        """References of those who were the group's members at that instant; nobody, if there was no such group then."""
        ...


@runtime_checkable
class SupportsPatients(Protocol):
    """A storage that can say which patients there are. Without it `patient` is believed at Patient level (PT-04).

    Runs in the server, with a kick-off that names patients.
    """

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:
        """Those of the references (`Patient/123`) that name a patient whom this principal may see."""
        ...


@runtime_checkable
class SupportsProvenance(Protocol):
    """A storage that knows which Provenance belongs to what. Without it `includeAssociatedData` is not supported.

    Runs in a worker.
    """

    def provenance(self, query: Query, targets: Sequence[Query], after: str | None, *, latest: bool) -> AsyncIterator[Page]:
        """The Provenance of the resources that `targets` select, each once, in one fixed order (KO-86 to KO-88).

        The adapter guarantees the same as for `pages`. Here it applies `Rows.filters` of the targets itself, for what is not
        exported has no Provenance to come along; `fhir_bulk_middleware.export.filters.Filters` does it line by line.

        Args:
            query: Provenance; its window and `as_of` hold for the Provenance itself, its selection does not.
            targets: what the Provenance is about: any number of queries, several of one type among them, with one `as_of`.
            after: the cursor to go on after.
            latest: only the Provenance of each resource that changed last (by `lastUpdated`).
        """
        ...


@runtime_checkable
class SupportsOrganising(Protocol):
    """A storage that can read patient by patient. Without it `organizeOutputBy` is not supported (law 22).

    Runs in a worker.
    """

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """What the queries select, grouped by the patient whose compartment it lies in, patients in one fixed order (FR-17).

        A resource in several selected patients' compartments is in the block of each. The queries share selection, window and
        `as_of`; their filters are applied by us. `after` is the cursor of the last block that is not wanted any more.
        """
        ...


@runtime_checkable
class SupportsAudit(Protocol):
    """A storage that keeps FHIR AuditEvent resources. Without it none are kept; logs, metrics and the audit file are for all.

    Runs in both: wherever the event happens.
    """

    async def record(self, audit_event: bytes) -> None:
        """Keep an AuditEvent of the mount's FHIR release, one compact JSON object without an id.

        The adapter guarantees: it is durable when this returns. What it raises says that it is not kept, and
        `Settings.on_audit_failure` decides what becomes of the request. Called in worker processes too, where the adapter can
        be made again there.
        """
        ...


@runtime_checkable
class SupportsRead(Protocol):
    """A storage that can read one resource.

    Without it our own log of deletes cannot be used: it could not tell what became of a delete that a crash cut short.

    Runs in the server, with deletes, and with a log of ours also in a worker.
    """

    async def current(self, type_: str, id_: str) -> Current | None:
        """The resource as it is now, its deletion if it was deleted and that is known, None if there is none.

        The adapter guarantees: every write that was answered is seen; the `last_updated` of a deletion is the instant from which
        on the storage, read as of an instant, does not hold the resource. Where it is not known, our own log takes the instant
        at which it learns of it: a deletion that is under way while a cut is fixed may then be told one export late.
        """
        ...


@runtime_checkable
class SupportsDelete(Protocol):
    """A storage that can remove one resource. Without it there is no DELETE route: the host keeps its own.

    Runs in the server; with a log of ours `remove` also in a worker, for remove-alls that are jobs.
    """

    async def deletable(self, principal: Principal) -> Authorisation:
        """What this principal may delete, scopes aside: types, and a note about rows that comes back with each removal.

        Raises:
            Refused: `SERVICE_INACTIVE`, where deletes are switched off for the principal.
        """
        ...

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """Remove a resource, if it is at one of these versions; None is "at whichever it is".

        The adapter guarantees: the version is compared where the row is locked, so that of several who name the same version
        one removes and no change in between is lost; a removal that was answered is durable and seen by every read; a
        resource outside the rights is `NeverExisted`; whatever is answered but `Deleted` has changed nothing.
        """
        ...


@runtime_checkable
class SupportsConditionalDelete(Protocol):
    """A storage that can find what to delete, and remove all of it in one go. Without it there is no conditional route.

    Runs in the server.
    """

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """The current resources that the target means: how many, and the first `at_most` of them.

        Raises:
            CriteriaError: a criterion that this storage cannot apply exactly; nothing is ever left out of a target.
        """
        ...

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | Protected | None:
        """Remove these matches, all of them, in one transaction; None, and nothing removed, if they are not the matches any more.

        The adapter guarantees: when it removes, the current resources that meet the target are exactly these, at exactly these
        versions; what is removed comes back as it was; whatever else is answered has changed nothing.
        """
        ...


@runtime_checkable
class SupportsLockedDelete(Protocol):
    """A storage that can find and remove under one lock.

    Without it a conditional delete finds, then removes what it found if that is still what matches, and tries again if it is not:
    beside a writer that never rests it is refused as `BUSY` after some tries.
    """

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches | Protected:
        """Remove all current resources that the target means, in one transaction that also finds them.

        Returns:
            What was removed, as it was. Where there is no match, more than `at_most`, or one at another version than
            `if_version` (None: at any), the matches, and nothing was removed.

        Raises:
            CriteriaError: as `SupportsConditionalDelete.find`.
        """
        ...


@runtime_checkable
class SupportsOutbox(Protocol):
    """A storage that records each removal in the transaction that makes it, until observers know of it (law 37).

    Whoever comes next tells observers of what is left: the process that removed, or, should it have died, any other. Without this
    protocol a removal is told by its process right after it, so that a process that dies between the two takes the record along;
    our own log (`DeletionLog`) before the storage closes that gap, but for deletes that the host makes on its own.
    """

    def recording(self, note: str) -> SupportsDelete:
        """This storage, with all of its protocols of deletes: whatever is removed through it is recorded under the note.

        The adapter guarantees: removal and record are one transaction, which makes one report for all resources that it removes,
        and none if it removes nothing; numbers rise in the order in which removals become visible. A note is JSON, some kB at
        most. A batch is recorded under its own (`Batch.note`).
        """
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """The oldest reports that are left, by number, leased to this teller; None while another one holds the lease.

        There is one lease for all of them, so that they are told in order and, unless a teller dies or is slow, once.
        """
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """Forget these reports, for observers know them, and end the teller's lease if it still has it."""
        ...


@runtime_checkable
class SupportsBatchDelete(Protocol):
    """A storage that journals removals in the transaction that makes them, so that a long remove-all is exact after a crash.

    Without it our own log is the journal, and one resource is removed at a time.

    Runs in: `remove_batch` in a worker, `end_run` in the server.
    """

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """Remove those of the batch that are as they were frozen; what came of each, in order. None: the run has ended.

        Outcomes are `DELETED`, `ALREADY_DELETED`, `VERSION_MISMATCH` and `PROTECTED`.

        The adapter guarantees: removals and journal are one transaction; a batch that is in the journal is not done again, its
        outcomes come back as they were written; after `end_run` was answered no batch of the run removes anything.
        """
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good, and say what it has come to. Can be called again, also of a run that never began.

        `Tally.cancelled` says whether the first call that ended it was a cancel; it never changes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an object again in another process.

    Attributes:
        factory: `package.module:callable`.
        arguments: its keyword arguments; at most some kB of JSON.
    """

    factory: str
    arguments: Mapping[str, JsonValue]


@runtime_checkable
class SupportsWorkerProcess(Protocol):
    """An adapter or store that can be made again in a worker process. Without it slices are read in the server's loop.

    Runs in the server, when `BulkData` is made and when the engine starts. What it names must be importable; `__main__` is not.
    """

    def recipe(self) -> Recipe:
        """How to make it again there."""
        ...


# --- Collaborators ---------------------------------------------------------------------------------------------------


class TokenVerifier(Protocol):
    """Turns a bearer token into a principal.

    It is given the token alone, and not the request, so it cannot check a proof of possession. An implementation of one's own
    must therefore refuse a token that is bound to a key: a JWT, or an answer to token introspection, with the claim `cnf`
    (RFC 8705 and RFC 9449, section 6) or with `token_type` `DPoP`. To accept it as a plain bearer token would make a stolen
    token as good as the client's own.
    """

    async def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises:
            TokenRejected: it is not good, for whatever reason; the message goes to the log, so it must not quote the token.
            Refused: `BUSY`, if that cannot be told just now, because what it is checked with is not to be had.
        """
        ...


class JobStore(Protocol):
    """Where jobs are kept. A write that has returned is durable (law 30).

    Several adapters may share one store. Each job names its own (`Job.adapter`), and what is asked for on behalf of one
    adapter never finds a job of another (law 32).
    """

    async def store_id(self) -> str:
        """The store's own id: random, made once, the same however often the store is opened and by whichever process."""
        ...

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        """Keep a registration in place of the one with the same mount, if there is one.

        `look` is called with those that stand there, in the same transaction. What it raises passes, and nothing is kept.
        """
        ...

    async def registrations(self) -> Sequence[Registration]:
        """The registrations that stand there, by mount."""
        ...

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """Keep a new job; None, and nothing kept, when its owner has that many queued or running for its adapter (KO-113).

        Where the owner has a live job of the same mount under the same idempotency key, that one is returned instead, whatever it
        asked for, and nothing is kept. All of this holds across all processes on the store.
        """
        ...

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """The job with this id, if this mount made it for this owner; the only way to a job on behalf of a caller (law 7).

        One indexed read and no write (law 19).
        """
        ...

    async def replace(self, job: Job) -> bool:
        """Write `job` if the stored one still has its revision, and add one to that; False if it has not.

        With the state it writes what is left of the request, the failure and the idempotency key: of a job that has ended the
        store keeps nothing that the client sent (law 38). Identity, progress and time of creation stay as they are.

        After a job has left the working states no lease on it can write any more.
        """
        ...

    async def standing(self, job_id: str, mount: str, owner: Owner) -> Standing | None:
        """The job as `find` gives it, with its sealed parts and how far its plan is done, all as of one instant (law 35)."""
        ...

    async def parts(self, job_id: str) -> Sequence[Part]:
        """The sealed parts of a job, by slice and number."""
        ...

    async def part(self, job_id: str, file_id: str) -> Part | None:
        """One sealed part of a job."""
        ...


class JobRetention(Protocol):
    """What a sweep needs of a job store. Each method can be called again after a crash and does no harm.

    A sweep is made on behalf of one adapter, and finds its jobs only (law 32).
    """

    async def due(self, now: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """Completed and failed jobs whose retention is over (`Job.expires_at` is not later than `now`), longest over first."""
        ...

    async def changed_before(
        self, states: Collection[JobState], instant: Instant, limit: int, *, adapter: str = ""
    ) -> Sequence[Job]:
        """Jobs in one of these states whose state changed before the instant, oldest first."""
        ...

    async def overdue(self, created_before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """Jobs still queued or running that were created before the instant."""
        ...

    async def reclaimable(self, limit: int, *, adapter: str = "") -> Sequence[str]:
        """Ids of jobs that were cancelled, expired or failed and whose files were not yet given back."""
        ...

    async def reclaimed(self, job_id: str) -> None:
        """Forget the job's slices, parts and rows: its files are gone."""
        ...

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """Which of these jobs have files or may still get some, or are another adapter's: all others' leftovers can go."""
        ...

    async def remove(self, job_id: str) -> None:
        """Forget the job altogether; its id is then as one that never was (law 11)."""
        ...


class WorkQueue(Protocol):
    """What workers need of a job store. Every write names the lease, and counts only while that lease is current (law 18)."""

    async def claim(
        self,
        worker: str,
        now: Instant,
        *,
        lease_seconds: float,
        attempts: int,
        adapter: str = "",
        failed: Callable[[Job], None] = lambda _: None,
    ) -> Lease | None:
        """The next piece of work for this adapter, None if there is none: a queued job to plan, or a slice that nobody holds.

        Work whose lease has run out, or reaches further ahead than that lease can (the clock was set back), is given out again.
        Work that was begun `attempts` times without recording a part, stops that were asked for aside, fails its job with the
        cause that was kept. Owners take turns.

        Args:
            worker: who asks.
            now: what time it is.
            lease_seconds: how long the lease is good for.
            attempts: how often work may be begun.
            adapter: whose jobs may be claimed, or failed on the way.
            failed: is told of each job that this call has ended, once that is durable.
        """
        ...

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """Say that the holder is alive and that `done` resources of the slice have been read; False if the lease is lost."""
        ...

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant, *, rows: Rows | None = None
    ) -> bool:
        """Turn a queued job into a running one with this plan, written once (law 5); False if the lease is lost.

        A plan without slices completes the job. Where `rows` are given they take the place of the job's, in the same step: each
        later lease has them.
        """
        ...

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """Record sealed parts together with the cursor after them; nothing is recorded if the lease is lost.

        `finished` ends the slice: in the job's estimate, what was guessed of it gives way to what was read. With the last slice
        it completes the job, in the same transaction.
        """
        ...

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        """Give the work back, to be begun again by anybody, and keep the cause. A lost lease is ignored.

        `excused` is for a holder that was asked to stop: its attempt does not count, so that deployments fail no job.
        """
        ...

    async def release_worker(self, worker: str, now: Instant, cause: str = "") -> None:
        """Give back all that a worker held who is known to be gone, and keep the cause; in general words where none is given."""
        ...

    async def cause(self, job_id: str) -> str | None:
        """Why a job failed whose work was begun too often, for the operator's log; None if that is not what became of it."""
        ...


class DeletionLog(Protocol):
    """Our own log of deletes, for storages that keep none (law 28). A write that has returned is durable.

    A mark is in doubt from its writing until it is settled; `at` is given once and never changes. What a call of `settle` turns
    from doubtful to gone, and has a note, becomes a report in the same transaction, one for each note and type: the log is the
    outbox of a storage that has none (`SupportsOutbox`).
    """

    async def intend(self, marks: Sequence[Mark], run: str = "", batch: int = 0) -> Sequence[Mark] | None:
        """Write down what is about to be removed; the same marks with their numbers.

        None, and nothing written: the run has ended.
        """
        ...

    async def begun(self, run: str, batch: int) -> Sequence[Mark]:
        """What was intended for a batch of a run, in order; nothing if it was not begun."""
        ...

    async def settle(
        self,
        gone: Sequence[Mark],
        left: Sequence[Mark],
        *,
        run: str = "",
        batch: int = 0,
        outcomes: Sequence[DeleteOutcome] = (),
    ) -> None:
        """Record of marks in doubt which are gone, with all that is known of them now, and strike out those that are left.

        With a run, also what came of each resource of the batch; in one transaction.
        """
        ...

    async def outcomes(self, run: str, batch: int) -> Sequence[DeleteOutcome] | None:
        """What came of a batch of a run, None if it was not settled."""
        ...

    async def ended(self, run: str) -> bool:
        """Whether the run has ended."""
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good; what it has come to, with what is in doubt. See `SupportsBatchDelete.end_run`."""
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        ...

    async def latest(self, type_: str, id_: str) -> Mark | None:
        """The last time that a resource was removed, None if it never was."""
        ...

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        """Resources that were gone within `since < at <= until` for the last time, by number, behind `after`."""
        ...

    async def doubtful(self, type_: str | None, after: int, limit: int) -> Sequence[Mark]:
        """Marks in doubt, by number, behind `after`; of one type, or with None of all."""
        ...


class OutputSink(Protocol):
    """A part being written. Nobody sees it before it is sealed; leaving it unsealed leaves nothing behind."""

    async def write(self, data: bytes) -> None:
        """Append."""
        ...

    async def seal(self) -> None:
        """Make it durable, contents and name, and visible under its key."""
        ...


class OutputStore(Protocol):
    """Where parts lie, as bytes under keys of ours (`{job_id}/{name}`); it knows nothing of what is in them."""

    async def bind(self, store: str) -> bool:
        """Bind it to the job store with this id, for good and for all processes; False if it is bound to another (law 32).

        A sweep removes what its job store does not know, so the parts of two job stores must never lie in one place.
        """
        ...

    def create(self, key: str) -> AbstractAsyncContextManager[OutputSink]:
        """Begin a part. Writing a key again replaces it, as a whole, when it is sealed."""
        ...

    def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes from `start`, in chunks. A read that has begun goes on to its end though the part is discarded (DL-09).

        Raises:
            FileNotFoundError: on the first step, if there is no such part.
        """
        ...

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """Remove all parts of a job, begun or sealed, but those under the keys `keep`. No error if there are none."""
        ...

    def jobs(self) -> AsyncIterator[str]:
        """Ids of the jobs that have anything here, sealed or not."""
        ...


class Work(Protocol):
    """What a runner runs. It does not know what an export is."""

    @property
    def adapter(self) -> str:
        """Whose work it is: workers are made for one adapter, and do the work of no other (law 32)."""
        ...

    async def step(self, worker: str) -> bool:
        """Do one piece of work in the name of `worker`; False if there was none."""
        ...

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """Give back what a worker held who is known to be gone, and keep the cause."""
        ...

    async def give_up(self, cause: str) -> None:
        """No worker can start: end what has waited for one, so that nobody waits for ever. Called again as long as it is so."""
        ...

    def recipe(self) -> Recipe | None:
        """How to make this again in a worker process, None if that is not possible."""
        ...


class JobRunner(Protocol):
    """Decides where work runs. Correctness never rests on it: duplicates are fenced out by the work's leases."""

    def running(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Run work while the context is open; on leaving, stop cleanly with work in flight."""
        ...

    def wake(self) -> None:
        """There may be new work. Cheap, never blocks, never fails; missing one delays work by a second at most."""
        ...


class Observer(Protocol):
    """Is told what happens.

    With a recipe (`SupportsWorkerProcess`) it is made again in each worker process and hears there of what happens there; without
    one it hears only of what happens in its own process.
    """

    async def observe(self, event: Event) -> None:
        """Take note. What it raises is logged and harms nobody; when it takes too long it is cancelled."""
        ...


@runtime_checkable
class Audit(Observer, Protocol):
    """An observer that must have every disclosure and every removal (law 37), such as `AuditFile` and `AuditEvents`.

    What becomes of a request whose event it cannot record says `Settings.on_audit_failure`: it is refused, or it goes on and the
    audit is told of the gap (`AuditGap`) before anything else once it records again. An event that was told to it may come again.
    It is not told of single refusals that anybody can cause in any number, but of their sum (`RefusalsSummed`).
    """

    @property
    def essential(self) -> Literal[True]:
        """Says that this is an audit; when `observe` returns the event is durable."""
        ...
