"""`PostgresResourceStore`: a storage adapter over resources with their history in PostgreSQL."""

import copy
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from typing import Any, TypeVar

import psycopg
from psycopg.sql import SQL
from pydantic import JsonValue

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
from fhir_bulk_middleware.contract.removal import Batch, Current, Matches, NeverExisted, Removal, Report, Tally, Target
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.group import members
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.criteria_lookups import CriteriaLookups
from fhir_bulk_middleware.stores.drafting import drafted
from fhir_bulk_middleware.stores.drafts import Draft, draft
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres import (
    outbox,
    resource_bases,
    resource_blocks,
    resource_forgetting,
    resource_losses,
    resource_naming,
    resource_provenance,
    resource_reading,
    resource_removal,
)
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.cut import PostgresCuts
from fhir_bulk_middleware.stores.postgres.resource_criteria import CriteriaIndex
from fhir_bulk_middleware.stores.postgres.resource_loading import load_history, load_now
from fhir_bulk_middleware.stores.postgres.resource_removal import Removing
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes, first_of
from fhir_bulk_middleware.stores.postgres.resource_view import Database, at
from fhir_bulk_middleware.stores.postgres.resource_writing import CURRENT, NEWEST_STAMP, Writing, clocks
from fhir_bulk_middleware.stores.postgres.schema import resource_tables
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.stores.versioned import SearchPage, Stored

__all__ = ["PostgresResourceStore"]

T = TypeVar("T")
_WORKERS_PATIENCE = 60.0

_STORED = "SELECT version.number, stamp, json, deleted, seq, id FROM $resource AS version WHERE type = %(type)s AND "
_NEWEST = f"{_STORED} id = %(id)s ORDER BY number DESC LIMIT 1"
_VERSION = f"{_STORED} id = %(id)s AND number = %(number)s"
_SEARCH = (
    f"{_STORED} seq > %(after)s AND seq < %(end)s AND ended = {CURRENT} AND NOT deleted {{chosen}} ORDER BY seq LIMIT %(count)s"
)
_TYPES = """
    SELECT name FROM $resource_type AS types WHERE EXISTS (SELECT 1 FROM $resource AS r WHERE r.type = types.number)
"""
_LIVING = f"""
    SELECT id FROM $resource WHERE type = %(type)s AND id = ANY(%(ids)s::text[]) AND ended = {CURRENT} AND NOT deleted
"""  # noqa: S608 - constants of ours only


class PostgresResourceStore:
    """A versioned resource store in PostgreSQL 14 or later, for servers, writers and workers on many machines (extra `postgres`).

    It keeps every version, until `forget`, and can be read as of any cut that it gave. The text of a resource is stored in
    canonical form (`fhir_bulk_middleware.fhir.canonical`) and is exported unchanged.

    Writers run side by side and commit in any order; a writer waits only for others of the same resources. Cuts are exact all the
    same (`PostgresCuts`, whose proof is in `fhir_bulk_middleware.stores.postgres.cut`): what commits after a cut is in the next
    export. The clock is that of the database. `lastUpdated` is later than each cut, each committed write and the version before.

    The first use makes the tables, or brings them up to date; where the role of the servers may not do that, another role calls
    `migrate` before. A step that finds the server away is repeated for `patience` seconds and then refused as busy. Connections
    may go through PgBouncer in transaction pooling.

    Args:
        dsn: the connection string, as libpq reads it; see `PostgresJobStore`.
        schema: the schema of the database for our tables: lower-case letters, digits and underscores, at most 63. It may be that
            of a job store. Several resource stores in one database need different ones.
        version: the FHIR release of the resources.
        base_urls: the base URLs under which an absolute reference leads to this store. The store keeps all it was ever given.
            A new one is indexed by the first use (or `open`), and blocks other writers meanwhile; processes that have the store
            open already do not use it.
        connections: the number of connections of a server process. A worker process has one or two.
        patience: seconds in which a server repeats a step. A worker takes a minute at least.
        wait_for_writers: for how many seconds an export that begins waits for transactions that write. What is committed later is
            in the next export, with a `lastUpdated` before its `_since`, and the manifest counts the transactions.
        blocking: whether steps run in the calling thread, as in a worker process. Otherwise they run in threads, so that the
            server's event loop never waits.

    Raises:
        ImportError: psycopg is missing.
        ValueError: the DSN cannot be read, or the name of the schema has another form.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "fhir_bulk",
        version: FhirVersion = FhirVersion.R4,
        base_urls: Collection[str] = (),
        connections: int = 4,
        patience: float = 5.0,
        wait_for_writers: float = 5.0,
        blocking: bool = False,
    ) -> None:
        if connections < 1:
            raise ValueError("connections: a positive number is required")
        self._dsn = dsn
        self._tables = resource_tables(schema)
        self._version = FhirVersion(version)
        self._given_base_urls = tuple(url.rstrip("/") for url in base_urls)
        self._patience = patience
        self._wait_for_writers = wait_for_writers
        self._connections = Connections(dsn, self._tables, at_most=connections, patience=patience, blocking=blocking)
        newest = NEWEST_STAMP.format(type="resource_type", resource="resource")
        cuts = PostgresCuts(self._connections.lent, newest=SQL(newest), patience=wait_for_writers)
        self._types = ResourceTypes(self._connections)
        self._parameters = ParameterIndex(self._version)
        self._database = Database(self._connections, cuts, self._types)
        self._note = ""

    # --- For the host ------------------------------------------------------------------------------------------------

    async def read(self, type_: str, id_: str) -> Stored | None:
        """The newest version of a resource, which may be its deletion; None if there never was such a resource."""
        return await self._find(type_, _NEWEST, id=id_)

    async def vread(self, type_: str, id_: str, version: int) -> Stored | None:
        """One version of a resource, None if there is no such version."""
        return await self._find(type_, _VERSION, id=id_, number=version)

    async def create(self, type_: str, resource: bytes | Mapping[str, object], id_: str | None = None) -> Stored:
        """Store a new resource under the id `id_`, or under a new one.

        Raises:
            ValueError: the resource is malformed (see `canonical`), or of another type.
            VersionConflict: there is a resource with this id.
        """
        return await self._put(type_, resource, str(uuid.uuid4()) if id_ is None else id_, absent=True)

    async def update(self, type_: str, id_: str, resource: bytes | Mapping[str, object], if_match: int | None = None) -> Stored:
        """Store the next version of a resource, the first one if there is none.

        Args:
            type_: its type.
            id_: its id; an id in the resource is ignored.
            resource: the whole resource.
            if_match: the version that must be current; None for any or none.

        Raises:
            ValueError: the resource is malformed (see `canonical`), or of another type.
            VersionConflict: it is not at `if_match`; nothing was written.
        """
        return await self._put(type_, resource, id_, if_match)

    async def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:
        """Delete a resource; its history stays.

        Returns:
            The version that was removed, None if there was nothing to remove.

        Raises:
            VersionConflict: `if_match` is not the current version, nor that of the last removal (law 25).
        """
        await self._types.assured(type_)
        return await self._write([(type_, id_)], lambda writing: writing.delete(type_, id_, if_match))

    async def search(self, type_: str, *, ids: Collection[str] | None, count: int, after: str | None) -> SearchPage:
        """Current resources of a type, in about the order of their last changes.

        Args:
            type_: the type.
            ids: only these; None for all.
            count: the largest number of resources.
            after: `next` of the previous page; None for the first one.
        """
        number = await self._types.number(type_)
        if number is None:
            return SearchPage((), None)
        text = _SEARCH.format(chosen="" if ids is None else "AND id = ANY(%(ids)s::text[])")
        values: dict[str, object] = {
            "type": number,
            "after": first_of(number) if after is None else int(after),
            "end": first_of(number + 1),
            "count": count + 1,
        }
        if ids is not None:
            values["ids"] = [*ids]
        rows = await self._connections.read(partial(Session.lines, text=text, values=values))
        found = tuple(_stored(type_, row) for row in rows[:count])
        return SearchPage(found, str(rows[count - 1][4]) if len(rows) > count else None)

    async def types(self) -> frozenset[str]:
        """The types of which there is or was a resource."""
        return frozenset(name for (name,) in await self._connections.read(partial(Session.rows, text=_TYPES)))

    def load(
        self,
        lines: Iterable[bytes],
        *,
        batch: int = 1_000,
        progress: Callable[[int], None] = lambda _: None,
        helpers: int = 0,
        keep_last_updated: bool = False,
    ) -> int:
        """Store the resources of NDJSON lines under their own ids. Blocks, so call it in a thread or a process of its own.

        Each batch is a transaction; batches before an error stay.

        Args:
            lines: one resource each; empty lines are skipped.
            batch: the number of lines in a transaction.
            progress: called after each batch with the number of resources stored so far.
            helpers: the number of processes that parse lines, while this one writes.
            keep_last_updated: whether resources keep their `meta.lastUpdated`, to the microsecond. Then the lines must be in its
                order, and the store must have no later instant (law 4). Resources of one instant are in one transaction.

        Returns:
            How many resources were stored.

        Raises:
            MalformedLine: a line is malformed, or cannot keep its `meta.lastUpdated`.
            Refused: `BUSY`: the server could not answer in time.
        """
        self.open()
        numbered = ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())
        batches = iter(lambda: list(itertools.islice(numbered, batch)), [])
        with closing(drafted(batches, self._version, self._base_urls, helpers)) as found:
            if keep_last_updated:
                return load_history(self._connections, self._types, found, batch, progress)
            return load_now(self._connections, self._types, found, progress)

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date, now. Of several processes one does it, the others wait.

        Raises:
            RuntimeError: this role may not do that, or a newer release wrote the tables and this one cannot use them.
            Refused: `BUSY`: the server cannot be reached.
        """
        await self._connections.migrate()

    def adopt(self) -> None:
        """Make a database that was restored into another cluster of PostgreSQL chain again (`PostgresCuts.adopt`). Blocks.

        Call it once, while nothing writes; it rewrites the table of resources. The next export since any cut tells everything.
        """
        self._database.cuts.adopt([("resource", "writer"), ("resource", "ended_by")])
        self._database.forget_cuts()

    def open(self) -> None:
        """Make the tables and index base URLs that are new to the store, which otherwise the first use does. Blocks."""
        _ = self._base_urls

    def close(self) -> None:
        """Close the connections; new ones are opened when they are needed."""
        self._connections.close()

    # --- For exports -------------------------------------------------------------------------------------------------

    def exportable_types(self) -> frozenset[str]:
        """Every type of the release."""
        return definitions(self._version).resource_types

    async def authorise(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - all principals may read all rows
        """Every type of the release, and all rows.

        Not only types with resources: one of a new type, written between kick-off and cut, belongs to this export and would be
        missing from every later one (law 3).
        """
        return Authorisation(definitions(self._version).resource_types | await self.types())

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query; see `SupportsExport`. Filters read what an index finds, as far as one has them."""
        await self._known()
        criteria = self._criteria_index if query.filters else None
        async for page in resource_reading.pages(self._database, query, after, criteria):
            yield page

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The deletions of a query; see `SupportsDeletions`."""
        return resource_losses.deletions(self._database, query, after)

    def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """What left the selection of a query; see `SupportsLeft`."""
        return resource_losses.left(self._database, query, after)

    def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        """Resources by their ids; see `SupportsContext`."""
        return resource_reading.named(self._database, query, ids)

    async def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        """Resources by what they name; see `SupportsNaming`."""
        await self._known()
        async for page in resource_naming.naming(self._database, queries, reference, self._naming_index):
            yield page

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        return await resource_forgetting.known_since(self._database)

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`. Removes superseded versions, and all of a resource that was deleted.

        A resource that is created again after that is at version 1.

        Returns:
            How many versions were removed.
        """
        await self._known()
        return await resource_forgetting.forget(self._database, (self._naming_index, self._parameters), before, now, grace)

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002 - a type of which something was written later may be named
        rights: str,  # noqa: ARG002 - as `authorise`
    ) -> frozenset[str]:
        """Those of the types that were written since the window began; see `SupportsChangedTypes`. Two look-ups for each type."""
        if window.since is None:
            return types & await self.types()
        return types & await resource_reading.written_since(self._database, window.since)

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """The ranges of a query; see `SupportsSlices`. The cost grows with the number of slices, not of resources."""
        await self._known()
        criteria = self._criteria_index if query.filters else None
        return await resource_reading.slices(self._database, query, target_bytes, criteria)

    async def now(self) -> Instant:
        """The database's clock, but never behind a cut or a committed write."""
        return max(await self._connections.read(clocks))

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut beside any number of writers; see `SupportsSnapshot` and `PostgresCuts`."""
        return await self._connections.repeated(partial(self._database.cuts.cut, precision))

    async def unfinished(self, cut: Instant) -> Unfinished | None:
        """See `SupportsUnfinished`."""
        return await self._connections.repeated(partial(self._database.cuts.unfinished, cut))

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:  # noqa: ARG002 - as `authorise`
        """The members of a current Group resource; None if there is none."""
        return await self._members(group_id, None)

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:  # noqa: ARG002 - as above
        """The members as of an instant; see `SupportsJoining`."""
        return await self._members(group_id, instant) or frozenset()

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:  # noqa: ARG002 - as `authorise`
        """Those that are patients here now; see `SupportsPatients`."""
        number = await self._types.number("Patient")
        ids = [reference.removeprefix("Patient/") for reference in references if reference.startswith("Patient/")]
        if number is None or not ids:
            return frozenset()
        found = await self._connections.read(lambda session: session.rows(_LIVING, {"type": number, "ids": ids}))
        return frozenset(f"Patient/{id_}" for (id_,) in found)

    async def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        """Provenance by its targets; see `SupportsProvenance`."""
        await self._known()
        pages = resource_provenance.provenance(self._database, query, targets, after, base_urls=self._base_urls, latest=latest)
        async for page in pages:
            yield page

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """Resources patient by patient; see `SupportsOrganising`."""
        return resource_blocks.blocks(self._database, queries, after)

    # --- For deletes -------------------------------------------------------------------------------------------------

    async def current(self, type_: str, id_: str) -> Current | None:
        """See `SupportsRead`."""
        stored = await self.read(type_, id_)
        return None if stored is None else stored.as_current()

    async def deletable(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - all principals may delete all rows
        """See `SupportsDelete`: every type of the release, and all rows."""
        return Authorisation(definitions(self._version).resource_types)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:  # noqa: ARG002 - none were noted
        """See `SupportsDelete`."""
        if await self._types.number(type_) is None:
            return NeverExisted()
        return await self._removal(type_, lambda removing: removing.one(type_, id_, if_version), self._note)

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """See `SupportsConditionalDelete`. Reads what an index finds, else the whole type."""
        await self._known()
        found = await resource_removal.find(self._database, target, self._base_urls, self._criteria_index)
        return found.matches(at_most)

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        """See `SupportsConditionalDelete`. Locks the matches, and reads what was written since `find`."""
        if await self._types.number(target.type) is None:
            return None
        await self._known()
        return await self._removal(target.type, lambda removing: removing.all(target, matches, self._base_urls), self._note)

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches:
        """See `SupportsLockedDelete`. Finds as `find` does, and locks the matches only."""
        await self._known()
        found = await resource_removal.find(self._database, target, self._base_urls, self._criteria_index)
        if await self._types.number(target.type) is None:
            return found.matches(at_most)

        def remove(removing: Removing) -> Sequence[Current] | Matches:
            return removing.matching(target, found.copy(), at_most, if_version)

        return await self._removal(target.type, remove, self._note)

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """See `SupportsBatchDelete`."""
        return await self._removal(batch.type, lambda removing: removing.batch(batch), batch.note)

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `SupportsBatchDelete`."""
        return await self._connections.write(partial(resource_removal.end_run, run=run, cancelled=cancelled))

    def recording(self, note: str) -> "PostgresResourceStore":
        """See `SupportsOutbox`; a copy on the same connections with another note."""
        recording = copy.copy(self)
        recording._note = note  # noqa: SLF001 - its own
        return recording

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        return await outbox.unreported(self._connections, teller, now, lease_seconds, limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        await self._connections.write(partial(outbox.forget, teller=teller, numbers=numbers))

    def recipe(self) -> Recipe:
        """The same tables, blocking."""
        arguments: dict[str, JsonValue] = {
            "dsn": self._dsn,
            "schema": self._tables.schema,
            "version": self._version.value,
            "base_urls": [*self._given_base_urls],
            "patience": max(self._patience, _WORKERS_PATIENCE),
            "wait_for_writers": self._wait_for_writers,
            "blocking": True,
        }
        return Recipe(f"{__name__}:{type(self).__name__}", arguments)

    # --- Inside ------------------------------------------------------------------------------------------------------

    async def _known(self) -> None:
        """Read the base URLs, before what depends on them."""
        if "_base_urls" not in self.__dict__:
            await self._connections.aside(self.open)

    @cached_property
    def _base_urls(self) -> tuple[str, ...]:
        """The base URLs of the database and of this store. May write."""
        missing = frozenset(self._given_base_urls).difference(self._connections.read_here(resource_bases.bases))
        if missing:
            adopt = partial(resource_bases.adopt, urls=sorted(missing), version=self._version)
            self._connections.write_here(adopt)
        return self._connections.read_here(resource_bases.bases)

    @cached_property
    def _compartments(self) -> CompartmentMembership:
        return CompartmentMembership(self._version, self._base_urls)

    @cached_property
    def _naming_index(self) -> NamingIndex:
        return NamingIndex(self._version, self._base_urls)

    @cached_property
    def _criteria_index(self) -> CriteriaIndex:
        lookups = CriteriaLookups(self._compartments, self._naming_index, self._parameters)
        return CriteriaIndex(self._connections, self._types, lookups)

    async def _members(self, group_id: str, instant: Instant | None) -> frozenset[str] | None:
        """The members of a group and of the groups inside it, as they are now or were at an instant; None if there is none."""
        await self._known()
        groups: dict[str, Mapping[str, Any] | None] = {}
        now = await self.now() if instant is None else instant
        while True:
            missing: set[str] = set()

            def known(id_: str, missing: set[str] = missing) -> Mapping[str, Any] | None:
                if id_ not in groups:
                    missing.add(id_)
                return groups.get(id_)

            group = known(group_id)
            found = None if group is None else members(group, now, self._base_urls, known)
            if not missing:
                return found
            for id_ in missing:
                groups[id_] = await self._group(id_, instant)

    async def _group(self, id_: str, instant: Instant | None) -> Mapping[str, Any] | None:
        """A Group as it is now or was at an instant; None if there is or was none."""
        held = at(None if instant is None else await self._database.seen(instant), "version")
        found = await self._find("Group", f"{_STORED} id = %(id)s AND {held}", id=id_)
        return None if found is None or found.deleted else json.loads(found.json)

    async def _find(self, type_: str, text: str, **values: object) -> Stored | None:
        number = await self._types.number(type_)
        if number is None:
            return None
        rows = await self._connections.read(partial(Session.lines, text=text, values={"type": number, **values}))
        return _stored(type_, rows[0]) if rows else None

    async def _put(
        self,
        type_: str,
        resource: bytes | Mapping[str, object],
        id_: str,
        if_match: int | None = None,
        *,
        absent: bool = False,
    ) -> Stored:
        await self._known()
        new: Draft = draft(resource, self._compartments, self._naming_index, self._parameters, id_)
        if new.canonical.type != type_:
            raise ValueError(f"resourceType: must be {type_}")
        await self._types.assured(type_)
        return await self._write([(type_, id_)], lambda writing: writing.put(new, if_match, absent=absent))

    async def _write(self, keys: Collection[tuple[str, str]], change: Callable[[Writing], T]) -> T:
        def write(session: Session) -> T:
            writing = Writing(session, self._types)
            writing.expect(keys)
            result = change(writing)
            writing.finish()
            return result

        return await self._again_if_created(write)

    async def _removal(self, type_: str, change: Callable[[Removing], T], note: str) -> T:
        number = await self._types.assured(type_)

        def remove(session: Session) -> T:
            writing = Writing(session, self._types)
            removing = Removing(session, writing, number, note)
            result = change(removing)
            writing.finish()
            removing.finish()
            return result

        return await self._again_if_created(remove)

    async def _again_if_created(self, step: Callable[[Session], T]) -> T:
        """Run a write, and again if another transaction created one of its resources, or made its batch, meanwhile."""
        while True:
            try:
                return await self._connections.write(step)
            except psycopg.errors.UniqueViolation:
                continue


def _stored(type_: str, row: tuple[int, int, bytes, bool, int, bytes]) -> Stored:
    version, last_updated, text, deleted, _, id_ = row
    return Stored(type_, id_.decode(), version, Instant(last_updated), text, deleted=deleted)
