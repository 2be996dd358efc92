"""The protocols of a storage adapter for exports: one object with `SupportsExport`, and each further protocol that it can keep.

A capability is an implemented protocol: routes, CapabilityStatement and manifests follow from it. `SQLiteResourceStore`,
`PostgresResourceStore` and `MemoryResourceStore` implement all of them but `SupportsAudit`, and those that they have no use for.

Each protocol says where its methods run. *In the server* is the event loop that answers requests. *In a worker* is a worker
process, or the server's loop for an adapter that is no `SupportsWorkerProcess`.

A method of any protocol may raise `Refused(Reason.BUSY, detail, retry_after=seconds)` if the storage cannot answer now: in the
server the client gets 503 with Retry-After, in a worker the attempt fails and is repeated (`Settings.attempts`). Any other
exception is a fault: it is logged whole, and the client gets 500 without its text, or the job fails after the last attempt.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import (
    Authorisation,
    Block,
    Deletions,
    Page,
    ProvenanceTarget,
    Query,
    Range,
    Unfinished,
    Window,
)
from fhir_bulk_middleware.contract.removal import Current
from fhir_bulk_middleware.instant import Instant, Precision

__all__ = [
    "SupportsAudit",
    "SupportsChangedTypes",
    "SupportsContext",
    "SupportsDeletionHorizon",
    "SupportsDeletions",
    "SupportsExport",
    "SupportsFingerprints",
    "SupportsForgetting",
    "SupportsGroups",
    "SupportsJoining",
    "SupportsLeft",
    "SupportsNaming",
    "SupportsOrganising",
    "SupportsPatients",
    "SupportsProvenance",
    "SupportsRead",
    "SupportsSlices",
    "SupportsSlicesNear",
    "SupportsSnapshot",
    "SupportsTypes",
    "SupportsUnfinished",
]


@runtime_checkable
class SupportsExport(Protocol):
    r"""A storage whose resources can be exported. Without it there is nothing to install.

        class Warehouse:
            async def authorise(self, principal):
                return Authorisation(types=frozenset({"Patient"}))

            async def pages(self, query, after):
                async for key, line in self._read(query.type, query.window, after=after):
                    yield Page(lines=line + b"\n", count=1, cursor=key)

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`.

    `authorise` runs in the server, with each kick-off; `pages` runs in a worker.

    We guarantee: the principal is verified; each `Query` names a type that `authorise` allowed; the `rights` of `authorise` come
    back with each query. `pages` is called in any process, several times at once, and again for pages that were read before.

    Raises:
        Refused: `BUSY`, as said for all protocols in `fhir_bulk_middleware.contract.storage`.
    """

    async def authorise(self, principal: Principal) -> Authorisation:
        """The types and rows that the principal may export from this storage, scopes aside.

        Types are those that may be exported, whether or not there is a resource of them now: one that is first written between
        this call and the cut belongs to this export (law 33).

        Raises:
            Refused: `SERVICE_INACTIVE`, if the export service is switched off for the principal (law 29); or `BUSY`.
        """
        ...

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in one fixed order, from behind the cursor `after`; None reads from the start.

        The adapter guarantees: lines are canonical (see `Page`). No resource comes twice. The same query gives the same lines in
        the same order as long as the storage has not changed; with snapshots, always. No page is larger than `query.page_bytes`
        unless it holds a single resource. An empty selection gives no page.
        """
        ...


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A storage that can be read as of an instant. Without it exports may hold changes that came after their cut (law 6).

        async def now(self):
            return from_datetime(await self._db.fetch("SELECT clock_timestamp()"))

        async def cut(self, precision):
            async with self._db.lock_out_writers():
                return latest_cut(await self.now(), await self._last_instant(), precision)

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`.

    `now` runs in the server, with a kick-off that has `_since`, and with each delete through our log; `cut` runs in a worker.
    """

    async def now(self) -> Instant:
        """The storage's clock; a `_since` later than this is refused as being in the future (law 2)."""
        ...

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut: the latest instant, as a whole multiple of `precision`, up to which nothing can change any more.

        The adapter guarantees: each write that becomes visible later has a `lastUpdated` after the cut, including writes of
        transactions that are open now. A query with `as_of` at the cut gives the storage as it was then, as long as a job can
        run (`Settings.deadline`).
        """
        ...


@runtime_checkable
class SupportsUnfinished(Protocol):
    """A storage whose cuts do not wait for every transaction. Without it manifests do not tell which cut left some out.

    Implemented by `PostgresResourceStore`; the other stores have one writer at a time, for which a cut waits. Runs in a worker,
    when the cut of an export has been fixed.
    """

    async def unfinished(self, cut: Instant) -> Unfinished | None:
        """The transactions that a cut did not wait for; None if it waited for all.

        The adapter guarantees: whatever one of them commits is in the next export since the cut, also if its `lastUpdated` does
        not lie after the cut.

        Args:
            cut: as `SupportsSnapshot.cut` gave it.
        """
        ...


@runtime_checkable
class SupportsSlices(Protocol):
    """A storage that can divide a query into ranges of about the same size. Without it each type is one slice.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker.
    """

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Ranges of about `target_bytes` that together hold each resource of the query exactly once, in the order of `pages`.

        The adapter guarantees: for a query with `as_of`, a range holds the same resources whenever it is read. A query that holds
        nothing should give no range: each type is asked for, and a range costs some durable writes (law 44).
        """
        ...


@runtime_checkable
class SupportsFingerprints(Protocol):
    """A storage that can tell whether a query still gives the same resources. Without it each export writes all of its files.

    If it is also a `SupportsSnapshot`, and the output store a `SupportsLinking`, a full export links the files of the slices that
    are as they were in an earlier export (`Settings.reuse`).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker, when a job is planned.
    """

    async def fingerprint(self, query: Query) -> str | None:
        """Stands for what `pages` gives for the query; None if the storage cannot tell.

        The adapter guarantees: if two queries differ in `as_of` and `window.until` alone and have the same fingerprint, `pages`
        gives the same lines in the same order for both.

        That holds for ever, and whatever happened in between: writes that were open at the earlier cut, history that was loaded
        late, a storage that was restored from a backup, a clock that was set back, another storage under the same name, another
        version of the adapter's code that renders lines in another way. An instant of the last change does not tell a restored
        storage from the one that was lost. What does: a random stamp of each range of rows, renewed by each transaction that
        changes or adds a row of the range. A range that was changed after the cut has no fingerprint as of the cut.

        Args:
            query: has `as_of`, a range of `slices`, if there are ranges, and filters, which may be left out of account.
        """
        ...


@runtime_checkable
class SupportsSlicesNear(Protocol):
    """A storage whose ranges move as it grows, but which can keep those of an earlier plan.

    Without it the next plan takes the ranges that `slices` gives, which is as good if they stay where they are.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker, when a job is planned.
    """

    async def slices_near(self, query: Query, target_bytes: int, former: Sequence[str]) -> Sequence[Range]:
        """Ranges as `slices` gives them, that end where the former ones did as far as that keeps them of about equal size.

        The adapter guarantees the same as for `slices`, whatever the former ranges are.

        Args:
            query: what is exported.
            target_bytes: the size of a range.
            former: the ranges of an earlier plan, for the same query but for `as_of` and `window.until`, in order.
        """
        ...


@runtime_checkable
class SupportsChangedTypes(Protocol):
    """A storage that can tell in one answer which types have changes. Without it each type of an export is asked for in turn.

    An export of all types has some 150 of them, and with `_since` mostly holds a few. What it holds is the same with and without
    this protocol.

        async def changed_types(self, types, window, *, as_of, rights):
            newest = "SELECT type FROM resource GROUP BY type HAVING max(last_updated) > $1"
            return types & {row["type"] for row in await self._db.fetch(newest, window.since or 0)}

    Implemented by `SQLiteResourceStore`, `MemoryResourceStore` and the adapters for tables. Runs in a worker, when a job is
    planned.
    """

    async def changed_types(self, types: frozenset[str], window: Window, *, as_of: Instant | None, rights: str) -> frozenset[str]:
        """Those of the types of which something was written or deleted within the window.

        The adapter guarantees: of a type that it leaves out, `pages`, `deletions` and `left` give nothing for any query with this
        window, `as_of` and rights, whatever its selection. A type that it names is asked for, so it may name one of which there
        is nothing: it need not look at `window.until`, `as_of`, rights, or whether a version was superseded.

        Args:
            types: the types that are exported; not empty.
            window: as in `Query`. Without `since`, those of which there is anything at all.
            as_of: as in `Query`.
            rights: as in `Query`, for a storage that finds its data by them.
        """
        ...


@runtime_checkable
class SupportsDeletions(Protocol):
    """A storage that knows its deletions. Without it the manifest has no `deleted` list (DR-02, DR-07).

        async def deletions(self, query, after):
            async for key, ids in self._tombstones(query.type, query.window, as_of=query.as_of, after=after):
                yield Deletions(tuple(f"{query.type}/{id_}" for id_ in ids), cursor=key)

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`; for others, a `DeletionLog` before the storage knows the
    deletions that go through us. Runs in a worker.
    """

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """Resources that were deleted within the query's window and do not live as of its cut, in one fixed order.

        The adapter guarantees: no reference comes twice. A resource that was created again is not among them (MF-22). Unless the
        selection is `Everything`, a deletion is listed if the resource lay in the selection at any moment since the window began,
        as its version of then or a later one: also if it moved to another patient before it was deleted (law 34). A deletion
        whose compartments are unknown is left out there (law 27).
        """
        ...


@runtime_checkable
class SupportsDeletionHorizon(Protocol):
    """A storage that forgets deletions after some time. Without it `deletions` is taken to know every deletion there ever was.

    Implemented by `SQLiteResourceStore`, `MemoryResourceStore` and our deletion logs. Runs in the server, with a kick-off that
    has `_since`.
    """

    async def deletions_known_since(self) -> Instant | None:
        """The horizon: the earliest `_since` for which `deletions` is complete; None if nothing was forgotten yet.

        An export since an earlier instant says so in its manifest, or is refused (`Settings.refuse_forgotten_deletions`).

        The adapter guarantees: what it answers holds for as long as a job can run (`Settings.deadline`). It forgets deletions,
        and the versions that say whose they were, only that long after it announced a horizon behind them.
        """
        ...


@runtime_checkable
class SupportsForgetting(Protocol):
    """A storage that forgets history when it is told to. Without it `Settings.deletion_retention` does not reach the storage.

    Implemented by `SQLiteResourceStore`, `MemoryResourceStore` and our deletion logs. Runs in the server, with each sweep, if
    `Settings.deletion_retention` is set and the storage is also a `SupportsDeletionHorizon`.
    """

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """Remove what was superseded or deleted before the horizon, and announce the next horizon.

        The adapter guarantees: history that ended after the last horizon is removed only when `deletions_known_since` has
        answered a later horizon for `grace` seconds. A horizon never goes back.

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
    """A storage that publishes which types it exports. Without it the CapabilityStatement does not list them (CS-06).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server, once.
    """

    def exportable_types(self) -> frozenset[str]:
        """The types that `authorise` allows to at least one principal."""
        ...


@runtime_checkable
class SupportsGroups(Protocol):
    """A source of groups: the storage or another object (law 29). Without it there is no Group level.

        async def members(self, group_id, principal):
            group = await self._groups.get(group_id)
            return None if group is None else frozenset(f"Patient/{id_}" for id_ in group.patients)

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`.

    Runs in the server, with a kick-off, and in a worker, when the job's cut has been fixed. If it is no `SupportsWorkerProcess`,
    all exports run in the server's loop.
    """

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        """References of the group's current members (`Patient/123`); None if the group is unknown to this principal.

        A group without members is an empty set, and its export is empty. The adapter guarantees: whoever joined before the call
        is in the set and whoever left is not (law 33), so nothing is cached from an earlier call.
        """
        ...


@runtime_checkable
class SupportsJoining(Protocol):
    """Membership as of an instant, beside `SupportsGroups`. Without it older data of new members cannot be exported (GR-01).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker, when the cut of a Group export is fixed.
    """

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:
        """References of the group's members at that instant; empty if there was no such group."""
        ...


@runtime_checkable
class SupportsPatients(Protocol):
    """A storage that can look up patients. Without it the patients that a client names are not checked at Patient level (PT-04).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server, with a kick-off that names patients.
    """

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:
        """Those of the references (`Patient/123`) that name a patient whom this principal may see."""
        ...


@runtime_checkable
class SupportsProvenance(Protocol):
    """A storage that finds Provenance by its targets. Without it `includeAssociatedData` is not supported.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker.
    """

    def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        """The Provenance of the resources that `targets` select, each once, in one fixed order (KO-86 to KO-88).

        The adapter guarantees the same as for `pages`. It also applies the filters of each target (`Filters` does, line by
        line), since a resource that they leave out is not exported and has no Provenance to come along.

        Args:
            query: Provenance; its window and `as_of` hold for the Provenance itself, its selection does not.
            targets: the resources that it is about: any number of queries, several of one type among them, with one `as_of`.
            after: the cursor of the last page that was read.
            latest: whether to give, of each resource's Provenance, only the one with the latest `lastUpdated`.
        """
        ...


@runtime_checkable
class SupportsContext(Protocol):
    """A storage that can read named resources. Without it Patient and Group exports have no context (law 40).

        async def named(self, query, ids):
            rows = await self._db.fetch(self._sql(query) + " AND id = ANY($1) ORDER BY id", ids)
            for lines in batches(rows, query.page_bytes):
                yield Page(lines=b"".join(lines), count=len(lines), cursor="")

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker.
    """

    def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        """The resources of the query's type with these ids, as of `query.as_of`, in the order of `ids`.

        The adapter guarantees: a resource that does not exist at that instant, is deleted, or that the query's `rights` hide, is
        left out. With the selection `NoPatient` it may also leave out what lies in a patient's compartment; we check that
        ourselves. The query has no window. Cursors of these pages are not used.

        Args:
            query: type, selection (`Everything` or `NoPatient`), rights, `as_of` and the size of a page.
            ids: at most 1,000 logical ids, in ascending order, none twice.
        """
        ...


@runtime_checkable
class SupportsNaming(Protocol):
    """A storage that knows which resources name a resource. Without it context is incomplete in exports with `_since` (law 40).

    A changed Organization belongs to such an export if an unchanged resource of the cohort names it; only the storage can tell.
    It is asked for changes, deletions and losses of the selection `NoPatient` too: `pages`, `deletions` (`SupportsDeletions`)
    and `left` (`SupportsLeft`) then mean resources that lie in the compartment of no patient.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker.
    """

    def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        """The resources of any of the queries that name `reference` (`Organization/1`) in a literal reference of this server.

        The adapter guarantees: the lines of a page are of one type; no resource comes twice. Any order. Resources of the queries
        that do not name the reference may be among them, as long as they are few: we look at each line ourselves. Reading may be
        stopped after any page, so pages should be small at first.

        Args:
            queries: one for each type, with one `as_of`; without windows.
            reference: relative, without a version.
        """
        ...


@runtime_checkable
class SupportsLeft(Protocol):
    """A storage that knows what left a compartment. Without it the manifest says that `left` is incomplete (law 34).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker, for Patient and Group exports with `_since`.
    """

    def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """Resources that live as of the cut and have left the selection since the window began, in one fixed order.

        The adapter guarantees: as of `window.since` the resource lived and lay in the selection; as of the cut it lives and does
        not; its last change lies in the window. No reference comes twice.
        """
        ...


@runtime_checkable
class SupportsOrganising(Protocol):
    """A storage that can read patient by patient. Without it `organizeOutputBy` is not supported (law 22).

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in a worker.
    """

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """The resources of the queries by the patient whose compartment they lie in, patients in one fixed order (FR-17).

        A resource in the compartments of several selected patients is in the block of each. The queries share selection, window
        and `as_of`. Reading begins behind the block whose cursor is `after`.
        """
        ...


@runtime_checkable
class SupportsRead(Protocol):
    """A storage that can read one resource.

    Without it our own log of deletes cannot be used: it could not tell what became of a delete that a crash cut short.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server, with deletes; with a `DeletionLog` also in
    a worker.
    """

    async def current(self, type_: str, id_: str) -> Current | None:
        """The resource as it is now; its deletion, if it was deleted and that is known; None if there is none.

        The adapter guarantees: every write that was answered is seen. The `last_updated` of a deletion is the instant from which
        on the storage, read as of an instant, does not hold the resource. A log before a storage that does not know that instant
        takes the one at which it sees the deletion, so a deletion that is under way while a cut is fixed may be told one export
        late.
        """
        ...


@runtime_checkable
class SupportsAudit(Protocol):
    """A storage that keeps FHIR AuditEvent resources.

    Without it the storage gets no AuditEvents; logs, metrics and the audit file do not need it.

    We ship no implementation. Runs in the server or in a worker, wherever the event happens.
    """

    async def record(self, audit_event: bytes) -> None:
        """Keep an AuditEvent of the mount's FHIR release, one compact JSON object without an id.

        The adapter guarantees: it is durable when this returns. An exception says that it is not kept;
        `Settings.on_audit_failure` then decides whether the request is refused or goes on.
        """
        ...
