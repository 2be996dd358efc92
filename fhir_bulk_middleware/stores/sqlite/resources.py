"""`SQLiteResourceStore`: a storage adapter over resources with their history in one SQLite file."""

import copy
import itertools
import json
import sqlite3
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Block, Deletions, Page, ProvenanceTarget, Query, Range, Window
from fhir_bulk_middleware.contract.removal import Batch, Current, Matches, Removal, Report, Tally, Target
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS, members
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant, Precision, system_clock
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.criteria_lookups import CriteriaLookups
from fhir_bulk_middleware.stores.drafting import drafted
from fhir_bulk_middleware.stores.drafts import Draft, draft
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.sqlite import horizon_table as horizon
from fhir_bulk_middleware.stores.sqlite import (
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
from fhir_bulk_middleware.stores.sqlite.database import Database
from fhir_bulk_middleware.stores.sqlite.resource_loading import load_history, load_now
from fhir_bulk_middleware.stores.sqlite.resource_removal import Removing
from fhir_bulk_middleware.stores.sqlite.resource_schema import (
    CURRENT,
    MIGRATIONS,
    PAGE_SIZE,
    clock_row,
    first_of,
    number_of,
)
from fhir_bulk_middleware.stores.sqlite.resource_writing import Writing, cut
from fhir_bulk_middleware.stores.versioned import SearchPage, Stored

__all__ = ["SQLiteResourceStore", "resource_store"]

T = TypeVar("T")
Q = TypeVar("Q")
_Read = Callable[[sqlite3.Connection, Q, str | None], Generator[T]]
_IDLE_READERS = 4
_LINES = 1_000
"""How many lines of a load are parsed together."""

_STORED = "SELECT version, last_updated, CAST(json AS BLOB), deleted, seq, id FROM resource WHERE "


class SQLiteResourceStore:
    """A versioned resource store in one file, for any number of processes on one machine.

    It keeps every version, until `forget`, and can be read as of any cut that it gave. The text of a resource is stored in
    canonical form (`fhir_bulk_middleware.fhir.canonical`) and is exported unchanged.

    A read takes some microseconds and is done in the event loop; a write is durable when it returns.

    Args:
        path: the file; its folder is created if missing.
        version: the FHIR release of the resources.
        clock: the clock of `lastUpdated`, which never goes back even if the clock does (law 4).
        base_urls: the base URLs under which an absolute reference leads to this store. The file keeps all that it was ever given.
            A new one is indexed when the file is opened (`open`), and blocks other writers meanwhile; processes that have the
            file open already do not use it.
    """

    def __init__(
        self,
        path: Path,
        *,
        version: FhirVersion = FhirVersion.R4,
        clock: Clock = system_clock,
        base_urls: Collection[str] = (),
    ) -> None:
        self._database = Database(path, MIGRATIONS, synchronous="FULL", page_size=PAGE_SIZE)
        self._version = version
        self._clock = clock
        self._given_base_urls = tuple(url.rstrip("/") for url in base_urls)
        self._idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._idle).atexit = False
        self._note = ""

    # --- For the host ------------------------------------------------------------------------------------------------

    async def read(self, type_: str, id_: str) -> Stored | None:
        """The newest version of a resource, which may be its deletion; None if there never was such a resource."""
        return self._find(type_, id_, "")

    async def vread(self, type_: str, id_: str, version: int) -> Stored | None:
        """One version of a resource, None if there is no such version."""
        return self._find(type_, id_, "AND version = ?", version)

    async def create(self, type_: str, resource: bytes | Mapping[str, object], id_: str | None = None) -> Stored:
        """Store a new resource under the id `id_`, or under a new one.

        Raises:
            ValueError: the resource is malformed (see `canonical`), or of another type.
            VersionConflict: there is a resource with this id.
        """
        new = self._draft(type_, resource, str(uuid.uuid4()) if id_ is None else id_)
        return await self._write(lambda writing: writing.put(new, absent=True))

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
        new = self._draft(type_, resource, id_)
        return await self._write(lambda writing: writing.put(new, if_match))

    async def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:
        """Delete a resource; its history stays.

        Returns:
            The version that was removed, None if there was nothing to remove.

        Raises:
            VersionConflict: `if_match` is not the current version, nor that of the last removal (law 25).
        """
        return await self._write(lambda writing: writing.delete(type_, id_, if_match))

    async def search(self, type_: str, *, ids: Collection[str] | None, count: int, after: str | None) -> SearchPage:
        """Current resources of a type, by the instant of their last change.

        Args:
            type_: the type.
            ids: only these; None for all.
            count: the largest number of resources.
            after: `next` of the previous page; None for the first one.
        """
        connection = self._database.reader
        number = number_of(connection, type_)
        if number is None:
            return SearchPage((), None)
        chosen, which = ("", ()) if ids is None else ("AND id IN (SELECT value FROM json_each(?)) ", (json.dumps([*ids]),))
        rows = connection.execute(
            f"{_STORED} seq > ? AND seq < ? AND valid_to = {CURRENT} AND deleted = 0 {chosen}ORDER BY seq LIMIT ?",
            (first_of(number) if after is None else int(after), first_of(number + 1), *which, count + 1),
        ).fetchall()
        found = tuple(_stored(type_, row) for row in rows[:count])
        return SearchPage(found, str(rows[count - 1][4]) if len(rows) > count else None)

    async def types(self) -> frozenset[str]:
        """The types of which there is or was a resource."""
        return frozenset(name for (name,) in self._database.reader.execute("SELECT name FROM type"))

    def load(
        self,
        lines: Iterable[bytes],
        *,
        batch: int = 8_000,
        progress: Callable[[int], None] = lambda _: None,
        helpers: int = 0,
        keep_last_updated: bool = False,
    ) -> int:
        """Store the resources of NDJSON lines under their own ids. Blocks, so call it in a thread or a process of its own.

        Each batch is a transaction, so that others can write in between. Lines are parsed 1,000 at a time; what was parsed before
        an error stays.

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
        """
        numbered = ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())
        batches = iter(lambda: list(itertools.islice(numbered, min(batch, _LINES))), [])
        with closing(drafted(batches, self._version, self._base_urls, helpers)) as found:
            if keep_last_updated:
                return load_history(self._database, self._clock, found, batch, progress)
            return load_now(self._database, self._clock, found, batch, progress)

    def open(self) -> None:
        """Open the file and index base URLs that are new to it, which otherwise the first use does. Blocks."""
        _ = self._base_urls

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        _close(self._idle)
        self._database.close()

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

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query; see `SupportsExport`."""
        lookups = self._lookups if query.filters else None
        return self._stepped(partial(resource_reading.pages, lookups=lookups), query, after)

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The deletions of a query; see `SupportsDeletions`."""
        return self._stepped(partial(resource_losses.deletions, owners=self._owners), query, after)

    def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """What left the selection of a query; see `SupportsLeft`."""
        return self._stepped(partial(resource_losses.left, owners=self._owners), query, after)

    def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        """Resources by their ids; see `SupportsContext`."""
        return self._stepped(lambda connection, _, __: resource_reading.named(connection, query, ids), query, None)

    def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        """Resources by what they name; see `SupportsNaming`."""
        read = partial(resource_naming.naming, reference=reference, index=self._naming_index, owners=self._owners)
        return self._stepped(lambda connection, asked, _: read(connection, asked), queries, None)

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        announced = horizon.read(self._database.reader)
        return None if announced is None else announced.since

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`. Removes superseded versions, and all of a resource that was deleted.

        A resource that is created again after that is at version 1.

        Returns:
            How many versions were removed.
        """
        remove = partial(resource_forgetting.remove, parameters=self._parameters)
        return await horizon.forget(self._database, before, now, grace, remove)

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002 - a type of which something was written later may be named
        rights: str,  # noqa: ARG002 - as `authorise`
    ) -> frozenset[str]:
        """Those of the types that were written since the window began; see `SupportsChangedTypes`. One look-up for each type."""
        with self._reading() as connection:
            return types & resource_reading.written_since(connection, window.since)

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """The ranges of a query; see `SupportsSlices`. The cost grows with the number of slices, not of resources."""
        with self._reading() as connection:
            return resource_reading.slices(connection, query, target_bytes, self._lookups)

    async def slices_near(self, query: Query, target_bytes: int, former: Sequence[str]) -> Sequence[Range]:
        """The ranges of a query, near those of an earlier plan; see `SupportsSlicesNear`."""
        with self._reading() as connection:
            return resource_reading.slices_near(connection, query, target_bytes, former, self._lookups)

    async def fingerprint(self, query: Query) -> str | None:
        """See `SupportsFingerprints`. The cost grows with the extents of the range, which are some hundred resources each."""
        with self._reading() as connection:
            return resource_reading.fingerprint(connection, query)

    async def now(self) -> Instant:
        """The store's clock: the machine's, but never behind an instant that it gave out."""
        return Instant(max(self._clock(), clock_row(self._database.reader)))

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut; see `SupportsSnapshot`."""
        return await self._database.write(lambda connection: cut(connection, self._clock, precision))

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:  # noqa: ARG002 - as `authorise`
        """The members of a current Group resource; None if there is none."""
        group = self._group(group_id)
        return None if group is None else members(group, await self.now(), self._base_urls, self._group)

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:  # noqa: ARG002 - as above
        """The members as of an instant; see `SupportsJoining`."""
        at = partial(self._group, instant=instant)
        group = at(group_id)
        return frozenset() if group is None else members(group, instant, self._base_urls, at)

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:  # noqa: ARG002 - as `authorise`
        """Those that are patients here now; see `SupportsPatients`."""
        found = ((reference, self._find("Patient", reference.removeprefix("Patient/"), "")) for reference in references)
        return frozenset(reference for reference, newest in found if newest is not None and not newest.deleted)

    def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        """Provenance by its targets; see `SupportsProvenance`."""
        read = partial(
            resource_provenance.provenance, targets=targets, base_urls=self._base_urls, owners=self._owners, latest=latest
        )
        return self._stepped(lambda connection, _, cursor: read(connection, query, after=cursor), query, after)

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """Resources patient by patient; see `SupportsOrganising`."""
        return self._stepped(resource_blocks.blocks, queries, after)

    # --- For deletes -------------------------------------------------------------------------------------------------

    async def current(self, type_: str, id_: str) -> Current | None:
        """See `SupportsRead`."""
        stored = self._find(type_, id_, "")
        return None if stored is None else stored.as_current()

    async def deletable(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - all principals may delete all rows
        """See `SupportsDelete`: every type of the release, and all rows."""
        return Authorisation(definitions(self._version).resource_types)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:  # noqa: ARG002 - none were noted
        """See `SupportsDelete`."""
        return await self._removal(lambda removing: removing.one(type_, id_, if_version), self._note)

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """See `SupportsConditionalDelete`. Reads the candidates that an index finds, or the whole type, in a thread."""
        return await self._database.aside(partial(self._find_matches, target, at_most))

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        """See `SupportsConditionalDelete`. Blocks other writers while it reads what was written since `find`, and removes."""
        return await self._removal(lambda removing: removing.all(target, matches), self._note)

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches:
        """See `SupportsLockedDelete`. Blocks other writers while it reads the candidates that an index finds, or the type."""
        return await self._removal(lambda removing: removing.matching(target, at_most, if_version), self._note)

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """See `SupportsBatchDelete`."""
        return await self._removal(lambda removing: removing.batch(batch), batch.note)

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `SupportsBatchDelete`."""
        return await self._database.write(partial(resource_removal.end_run, run=run, cancelled=cancelled))

    def recording(self, note: str) -> "SQLiteResourceStore":
        """See `SupportsOutbox`; a copy on the same connections with another note."""
        recording = copy.copy(self)
        recording._note = note  # noqa: SLF001 - its own
        return recording

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        return await outbox.unreported(self._database, teller, now, lease_seconds, limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        await self._database.write(partial(outbox.forget, teller=teller, numbers=numbers))

    def recipe(self) -> Recipe:
        """How to open the file in another process, on the machine's clock."""
        return Recipe(
            f"{__name__}:{resource_store.__name__}",
            {"path": str(self._database.path), "version": self._version.value, "base_urls": [*self._given_base_urls]},
        )

    # --- Inside ------------------------------------------------------------------------------------------------------

    @cached_property
    def _base_urls(self) -> tuple[str, ...]:
        """The base URLs of the file and of this store. May write, so the first access must be outside of a transaction."""
        missing = frozenset(self._given_base_urls).difference(resource_bases.bases(self._database.reader))
        if missing:
            self._database.write_here(partial(resource_bases.adopt, urls=sorted(missing), version=self._version))
        return resource_bases.bases(self._database.reader)

    @cached_property
    def _compartments(self) -> CompartmentMembership:
        return CompartmentMembership(self._version, self._base_urls)

    @cached_property
    def _naming_index(self) -> NamingIndex:
        return NamingIndex(self._version, self._base_urls)

    @cached_property
    def _parameters(self) -> ParameterIndex:
        return ParameterIndex(self._version)

    @cached_property
    def _lookups(self) -> CriteriaLookups:
        return CriteriaLookups(self._compartments, self._naming_index, self._parameters)

    def _owners(self, text: bytes) -> frozenset[str]:
        """The compartments of a resource."""
        return self._compartments.of(json.loads(text), MEMBER_KINDS)

    def _group(self, id_: str, instant: Instant | None = None) -> Mapping[str, Any] | None:
        """A Group as it is now or was at an instant; None if there is or was none."""
        if instant is None:
            found = self._find("Group", id_, "")
        else:
            found = self._find("Group", id_, "AND last_updated <= ? AND valid_to > ?", instant, instant)
        return None if found is None or found.deleted else json.loads(found.json)

    def _find(self, type_: str, id_: str, where: str, *values: int) -> Stored | None:
        connection = self._database.reader
        number = number_of(connection, type_)
        if number is None:
            return None
        row = connection.execute(
            f"{_STORED} id = ? AND seq > ? AND seq < ? {where} ORDER BY seq DESC LIMIT 1",
            (id_, first_of(number), first_of(number + 1), *values),
        ).fetchone()
        return None if row is None else _stored(type_, row)

    def _draft(self, type_: str, resource: bytes | Mapping[str, object], id_: str) -> Draft:
        new = draft(resource, self._compartments, self._naming_index, self._parameters, id_)
        if new.canonical.type != type_:
            raise ValueError(f"resourceType: must be {type_}")
        return new

    async def _write(self, change: Callable[[Writing], T]) -> T:
        return await self._database.write(lambda connection: self._at_one_instant(connection, change))

    async def _removal(self, change: Callable[[Removing], T], note: str) -> T:
        base_urls, lookups = self._base_urls, self._lookups

        def remove(connection: sqlite3.Connection) -> T:
            writing = Writing(connection, self._clock)
            removing = Removing(connection, writing, base_urls, lookups, note)
            result = change(removing)
            removing.finish()
            writing.finish()
            return result

        return await self._database.write(remove)

    def _find_matches(self, target: Target, at_most: int) -> Matches:
        return resource_removal.find(self._database.reader, target, self._base_urls, self._lookups, at_most)

    def _at_one_instant(self, connection: sqlite3.Connection, change: Callable[[Writing], T]) -> T:
        writing = Writing(connection, self._clock)
        result = change(writing)
        writing.finish()
        return result

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one reader, from a small pool: opening one costs more than reading a small slice."""
        try:
            connection = self._idle.pop()
        except IndexError:
            self._database.reader.execute("SELECT 1")  # the schema is there from now on
            connection = resource_reading.connect(self._database.path)
        try:
            yield connection
        finally:
            if len(self._idle) < _IDLE_READERS:
                self._idle.append(connection)
            else:
                connection.close()

    async def _stepped(self, read: _Read[Q, T], query: Q, after: str | None) -> AsyncIterator[T]:
        with self._reading() as connection, closing(read(connection, query, after)) as steps:
            for step in steps:
                yield step


def _close(idle: list[sqlite3.Connection]) -> None:
    while idle:
        idle.pop().close()


def resource_store(path: str, version: str, base_urls: Sequence[str]) -> SQLiteResourceStore:
    """Open a store from the arguments of its recipe."""
    return SQLiteResourceStore(Path(path), version=FhirVersion(version), base_urls=base_urls)


def _stored(type_: str, row: tuple[int, int, bytes, int, int, str]) -> Stored:
    version, last_updated, text, deleted, _, id_ = row
    return Stored(type_, id_, version, Instant(last_updated), text, bool(deleted))
