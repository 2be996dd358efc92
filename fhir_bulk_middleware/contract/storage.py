"""What a storage adapter can do for exports: one object with `SupportsExport` and as many of the others as it can keep."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Block, Deletions, Page, ProvenanceTarget, Query, Range
from fhir_bulk_middleware.contract.removal import Current
from fhir_bulk_middleware.instant import Instant, Precision

__all__ = [
    "SupportsAudit",
    "SupportsDeletionHorizon",
    "SupportsDeletions",
    "SupportsExport",
    "SupportsForgetting",
    "SupportsGroups",
    "SupportsJoining",
    "SupportsOrganising",
    "SupportsPatients",
    "SupportsProvenance",
    "SupportsRead",
    "SupportsSlices",
    "SupportsSnapshot",
    "SupportsTypes",
]


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
class SupportsForgetting(Protocol):
    """A storage with a deletion horizon that removes old history when it is told to. Without it its history is its own affair.

    Runs in the server, with each sweep, if `Settings.deletion_retention` is set and the storage is a `SupportsDeletionHorizon`.
    `SQLiteResourceStore`, `MemoryResourceStore`, `SQLiteDeletionLog` and `MemoryDeletionLog` have it.
    """

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """Remove what was superseded or deleted before an announced horizon, and announce the next one.

        The adapter guarantees: `deletions_known_since` answers a horizon at least `grace` seconds before anything that ended
        after the last one is removed; a horizon never goes back. So a job that was told a horizon reads all that it may need.

        Args:
            before: the wanted horizon; all deletions after it stay known.
            now: the caller's clock, by which `grace` is measured.
            grace: seconds for which a job may go on reading after its kick-off asked for the horizon.

        Returns:
            How many records were removed.
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

    def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        """The Provenance of the resources that `targets` select, each once, in one fixed order (KO-86 to KO-88).

        The adapter guarantees the same as for `pages`. It also applies the filters of each target (`Filters` does,
        line by line), since what they leave out is not exported and has no Provenance to come along.

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
