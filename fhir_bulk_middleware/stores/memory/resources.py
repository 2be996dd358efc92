"""`MemoryResourceStore`: resources with their history in memory; a readable model of a storage adapter."""

import copy
import hashlib
import itertools
import json
import secrets
import threading
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import (
    Authorisation,
    Block,
    Compartments,
    Deletions,
    EveryPatient,
    Everything,
    NoPatient,
    Page,
    ProvenanceTarget,
    Query,
    Range,
    Selection,
    Window,
)
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Batch,
    BatchId,
    Current,
    Matches,
    NeverExisted,
    Removal,
    Removed,
    Report,
    Tally,
    Target,
    Version,
    VersionMismatch,
    batch_outcome,
)
from fhir_bulk_middleware.fhir import compartments
from fhir_bulk_middleware.fhir.canonical import Canonical, canonical_and_content
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS, members
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant, Precision, latest_cut, system_clock
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.horizon import Horizon, following
from fhir_bulk_middleware.stores.memory import related
from fhir_bulk_middleware.stores.memory.outbox import MemoryOutbox
from fhir_bulk_middleware.stores.versioned import SearchPage, Stored, VersionConflict

__all__ = ["MemoryResourceStore"]

_DELETIONS_PER_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class _Draft:
    """A resource before it is written, with its compartments."""

    canonical: Canonical
    owners: frozenset[str]


@dataclass(slots=True)
class _Version:
    """A version, its place in the order of writing, its compartments, and when it was superseded (None if it was not)."""

    position: int
    stored: Stored
    owners: frozenset[str]
    valid_to: Instant | None = None

    def held(self, as_of: Instant | None) -> bool:
        """Whether this version was current at the instant, or is current now (None)."""
        if as_of is None:
            return self.valid_to is None
        return self.stored.last_updated <= as_of and (self.valid_to is None or self.valid_to > as_of)

    def was_held_after(self, since: Instant) -> bool:
        """Whether this version was current and not a deletion at any moment after the instant."""
        if self.stored.deleted:
            return False
        return self.valid_to is None or self.valid_to > max(since, self.stored.last_updated)

    def ended_by(self, instant: Instant) -> bool:
        """Whether it was superseded by then, or is a deletion from before then."""
        ended = self.stored.last_updated if self.stored.deleted and self.valid_to is None else self.valid_to
        return ended is not None and ended <= instant


@dataclass(slots=True)
class _Last:
    """State that changes with writes, shared with the copies that `recording` makes.

    Attributes:
        given: the latest instant of a write or a cut.
        position: the place of the latest version in the order of writing.
        horizon: the deletion horizon that was announced, None if none was.
    """

    given: Instant
    position: int = -1
    horizon: Horizon | None = None


class MemoryResourceStore:
    """A versioned resource store for tests and trials, with the methods of `SQLiteResourceStore`; ends with its process.

    Args:
        version: the FHIR release of the resources.
        clock: the clock of `lastUpdated`, which never goes back even if the clock does (law 4).
        base_urls: the base URLs under which an absolute reference leads to this store.
    """

    def __init__(
        self,
        *,
        version: FhirVersion = FhirVersion.R4,
        clock: Clock = system_clock,
        base_urls: Collection[str] = (),
    ) -> None:
        self._version = version
        self._clock = clock
        self._base_urls = tuple(base_urls)
        self._compartments = compartments.CompartmentMembership(version, self._base_urls)
        self._lock = threading.Lock()  # a write holds it, as a transaction
        self._last = _Last(Instant(0))
        self._note = ""
        self._versions: list[_Version] = []
        self._history: dict[tuple[str, str], list[_Version]] = {}
        self._own = secrets.token_hex(16)
        """No other store has this in its fingerprints."""
        self._batches: dict[BatchId, Sequence[DeleteOutcome]] = {}
        self._ended_runs: dict[str, bool] = {}
        """For each ended run, whether a cancel ended it."""
        self._outbox = MemoryOutbox()

    # --- For the host ------------------------------------------------------------------------------------------------

    async def read(self, type_: str, id_: str) -> Stored | None:
        """The newest version of a resource, which may be its deletion; None if there never was such a resource."""
        return self._newest(type_, id_)

    async def vread(self, type_: str, id_: str, version: int) -> Stored | None:
        """One version of a resource, None if there is no such version."""
        history = self._history.get((type_, id_), [])
        return next((each.stored for each in history if each.stored.version == version), None)

    async def create(self, type_: str, resource: bytes | Mapping[str, object], id_: str | None = None) -> Stored:
        """Store a new resource under the id `id_`, or under a new one.

        Raises:
            ValueError: the resource is malformed (see `canonical`), or of another type.
            VersionConflict: there is a resource with this id.
        """
        new = self._draft(resource, str(uuid.uuid4()) if id_ is None else id_, type_)
        with self._lock:
            newest = self._newest(type_, new.canonical.id)
            if newest is not None and not newest.deleted:
                raise VersionConflict(newest.version)
            return self._put(new, self._tick())

    async def update(self, type_: str, id_: str, resource: bytes | Mapping[str, object], if_match: int | None = None) -> Stored:
        """Store the next version of a resource, the first one if there is none.

        Raises:
            ValueError: the resource is malformed (see `canonical`), or of another type.
            VersionConflict: it is not at `if_match`; nothing was written.
        """
        new = self._draft(resource, id_, type_)
        with self._lock:
            newest = self._newest(type_, id_)
            if if_match is not None and (newest is None or newest.deleted or newest.version != if_match):
                raise VersionConflict(None if newest is None else newest.version)
            return self._put(new, self._tick())

    async def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:
        """Delete a resource; its history stays.

        Returns:
            The version that was removed, None if there was nothing to remove.

        Raises:
            VersionConflict: `if_match` is not the current version, nor that of the last removal (law 25).
        """
        with self._lock:
            newest = self._newest(type_, id_)
            last = None if newest is None else newest.version - newest.deleted
            if if_match is not None and if_match != last:
                raise VersionConflict(None if newest is None else newest.version)
            if newest is None or newest.deleted:
                return None
            self._delete(newest, self._tick())
            return newest

    async def search(self, type_: str, *, ids: Collection[str] | None, count: int, after: str | None) -> SearchPage:
        """At most `count` current resources of a type, by the instant of their last change, behind the cursor `after`."""
        found = [
            (version.position, version.stored)
            for version in self._versions
            if version.stored.type == type_
            and version.held(None)
            and not version.stored.deleted
            and (ids is None or version.stored.id in ids)
            and (after is None or version.position > int(after))
        ]
        return SearchPage(tuple(stored for _, stored in found[:count]), str(found[count - 1][0]) if len(found) > count else None)

    async def types(self) -> frozenset[str]:
        """The types of which there is or was a resource."""
        return frozenset(type_ for type_, _ in self._history)

    def load(self, lines: Iterable[bytes], *, batch: int = 1_000, progress: Callable[[int], None] | None = None) -> int:
        """Store the resources of NDJSON lines under their own ids, one instant per batch; returns how many.

        Raises:
            ValueError: a line is malformed; the message has its number. The batches before it stay.
        """
        kept = 0
        drafts: list[_Draft] = []

        def flush() -> None:
            nonlocal kept
            with self._lock:
                instant = self._tick()
                for new in drafts:
                    self._put(new, instant)
            kept += len(drafts)
            drafts.clear()
            if progress is not None:
                progress(kept)

        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                drafts.append(self._draft(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if len(drafts) == batch:
                flush()
        if drafts:
            flush()
        return kept

    # --- For exports -------------------------------------------------------------------------------------------------

    def exportable_types(self) -> frozenset[str]:
        """Every type of the release."""
        return definitions(self._version).resource_types

    async def authorise(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - all principals may read all rows
        """Every type of the release and all rows, so that a type first written between kick-off and cut is exported (law 3)."""
        return Authorisation(definitions(self._version).resource_types | await self.types())

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query; see `SupportsExport`."""
        found = ((position, version.stored.json) for position, version in self._chosen(query, after, deleted=False))
        for page in related.paged(found, query.page_bytes):
            yield page

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The deletions of a query; see `SupportsDeletions`."""
        gone = list(self._chosen(query, after, deleted=True))
        for start in range(0, len(gone), _DELETIONS_PER_PAGE):
            some = gone[start : start + _DELETIONS_PER_PAGE]
            yield Deletions(tuple(f"{version.stored.type}/{version.stored.id}" for _, version in some), str(some[-1][0]))

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """What left the selection of a query; see `SupportsLeft`."""
        gone = list(self._left(query, after))
        for start in range(0, len(gone), _DELETIONS_PER_PAGE):
            some = gone[start : start + _DELETIONS_PER_PAGE]
            yield Deletions(tuple(f"{query.type}/{id_}" for _, id_ in some), str(some[-1][0]))

    async def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        """Resources by their ids; see `SupportsContext`."""
        found = {version.stored.id: version.stored.json for _, version in self._living(query)}
        for page in related.paged(enumerate(found[id_] for id_ in ids if id_ in found), query.page_bytes):
            yield page

    async def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        """Resources by what they name; see `SupportsNaming`."""
        for page in related.naming(self._living, queries, reference, self._base_urls):
            yield page

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002 - a version of a later write may be counted
        rights: str,  # noqa: ARG002 - as `authorise`
    ) -> frozenset[str]:
        """Those of the types that were written since the window began; see `SupportsChangedTypes`."""
        return types & {v.stored.type for v in self._versions if window.since is None or v.stored.last_updated > window.since}

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        return None if self._last.horizon is None else self._last.horizon.since

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`; how many versions were removed. As `SQLiteResourceStore.forget`."""
        with self._lock:
            horizon, removed = self._last.horizon, 0
            if horizon is not None and horizon.in_force(now, grace):
                kept = [version for version in self._versions if not version.ended_by(horizon.since)]
                removed = len(self._versions) - len(kept)
                self._versions[:] = kept
                self._history.clear()
                for version in kept:
                    self._history.setdefault((version.stored.type, version.stored.id), []).append(version)
            self._last.horizon = following(horizon, before, now, grace) or horizon
            return removed

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """The ranges of a query; see `SupportsSlices`."""
        ranges: list[Range] = []
        first = last = count = size = 0
        for position, version in self._chosen(query, None, deleted=False):
            if not count:
                first = position
            last, count, size = position, count + 1, size + len(version.stored.json) + 1
            if size >= target_bytes:
                ranges.append(Range(f"{first}-{last}", count))
                count = size = 0
        if count:
            ranges.append(Range(f"{first}-{last}", count))
        return ranges

    async def slices_near(self, query: Query, target_bytes: int, former: Sequence[str]) -> Sequence[Range]:
        """See `SupportsSlicesNear`: the former ranges that still hold something, and new ones behind them."""
        if not former:
            return await self.slices(query, target_bytes)
        ranges = [Range(each, sum(1 for _ in self._living(replace(query, range=each)))) for each in former]
        begin = max(int(each.partition("-")[2]) + 1 for each in former)
        before = replace(query, range=f"0-{begin - 1}")
        if sum(each.estimate for each in ranges) != sum(1 for _ in self._living(before)):  # they do not fit
            return await self.slices(query, target_bytes)
        behind = await self.slices(replace(query, range=f"{begin}-{self._last.position}"), target_bytes)
        return [*(each for each in ranges if each.estimate), *behind]

    async def fingerprint(self, query: Query) -> str | None:
        """See `SupportsFingerprints`: which versions the range holds. No position is ever given to another version."""
        if query.as_of is None:
            return None
        held = [position for position, _ in self._chosen(query, None, deleted=False)]
        return hashlib.sha256(repr((self._own, held)).encode()).hexdigest()

    async def now(self) -> Instant:
        """The store's clock: the machine's, but never behind an instant that it gave out."""
        return max(self._clock(), self._last.given)

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut; see `SupportsSnapshot`."""
        with self._lock:
            found = latest_cut(self._clock(), self._last.given, precision)
            self._last.given = max(self._last.given, found)  # the next write is later than both
            return found

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
        """See `SupportsPatients`."""
        found = ((reference, self._newest("Patient", reference.removeprefix("Patient/"))) for reference in references)
        return frozenset(reference for reference, newest in found if newest is not None and not newest.deleted)

    async def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        """Provenance by its targets; see `SupportsProvenance`."""
        for page in related.provenance(self._living, query, targets, self._base_urls, after, latest=latest):
            yield page

    async def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """Resources patient by patient; see `SupportsOrganising`."""
        for block in related.blocks(self._living, queries, after):
            yield block

    # --- For deletes -------------------------------------------------------------------------------------------------

    async def current(self, type_: str, id_: str) -> Current | None:
        """See `SupportsRead`."""
        newest = self._newest(type_, id_)
        return None if newest is None else newest.as_current()

    async def deletable(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - all principals may delete all rows
        """See `SupportsDelete`: every type of the release, and all rows."""
        return Authorisation(definitions(self._version).resource_types)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:  # noqa: ARG002 - as above
        """See `SupportsDelete`."""
        with self._lock:
            instant = self._tick()
            removal = self._remove(type_, id_, if_version, instant)
            if isinstance(removal, Removed):
                self._report(self._note, instant, type_, [id_])
            return removal

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """See `SupportsConditionalDelete`."""
        with self._lock:
            found = self._matching(target)
        return Matches(len(found), tuple(found[:at_most]))

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        """See `SupportsConditionalDelete`."""
        with self._lock:
            return self._remove_these(target, matches.versions) if self._matching(target) == [*matches.versions] else None

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches:
        """See `SupportsLockedDelete`."""
        with self._lock:
            matches = Matches(len(found := self._matching(target)), tuple(found[:at_most]))
            return self._remove_these(target, matches.versions) if matches.removable(if_version) else matches

    def recording(self, note: str) -> "MemoryResourceStore":
        """See `SupportsOutbox`; a copy that shares all state but the note."""
        recording = copy.copy(self)
        recording._note = note  # noqa: SLF001 - its own
        return recording

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        with self._lock:
            return self._outbox.take(teller, now, lease_seconds, limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        with self._lock:
            self._outbox.forget(teller, numbers)

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """See `SupportsBatchDelete`."""
        with self._lock:
            if batch.id.run in self._ended_runs:
                return None
            if batch.id not in self._batches:
                instant = self._tick()
                removals = [self._remove(batch.type, frozen.id, {frozen.version}, instant) for frozen in batch.versions]
                removed = [removal.resource.id for removal in removals if isinstance(removal, Removed)]
                self._report(batch.note, instant, batch.type, removed)
                self._batches[batch.id] = [batch_outcome(removal) for removal in removals]
            return self._batches[batch.id]

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `SupportsBatchDelete`."""
        with self._lock:
            cancelled = self._ended_runs.setdefault(run, cancelled)
            outcomes = [outcome for batch, several in self._batches.items() if batch.run == run for outcome in several]
            return Tally.of(outcomes, cancelled=cancelled)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _newest(self, type_: str, id_: str) -> Stored | None:
        history = self._history.get((type_, id_))
        return history[-1].stored if history else None

    def _group(self, id_: str, instant: Instant | None = None) -> Mapping[str, Any] | None:
        """A Group as it is now or was at an instant; None if there is or was none."""
        held = [version.stored for version in self._history.get(("Group", id_), ()) if version.held(instant)]
        return json.loads(held[0].json) if held and not held[0].deleted else None

    def _living(self, query: Query) -> Iterator[tuple[int, _Version]]:
        return self._chosen(query, None, deleted=False)

    def _tick(self) -> Instant:
        """The instant of a new write: later than that of every write and cut before it (law 4)."""
        self._last.given = max(self._clock(), Instant(self._last.given + 1))
        return self._last.given

    def _draft(self, resource: bytes | Mapping[str, object], id_: str | None = None, type_: str | None = None) -> _Draft:
        form, content = canonical_and_content(resource, resource_id=id_)
        if type_ not in {None, form.type}:
            raise ValueError(f"resourceType: must be {type_}")
        return _Draft(form, self._compartments.of(content, MEMBER_KINDS))

    def _put(self, new: _Draft, instant: Instant) -> Stored:
        form = new.canonical
        newest = self._newest(form.type, form.id)
        version = 1 if newest is None else newest.version + 1
        stored = Stored(form.type, form.id, version, instant, form.text(version, instant), deleted=False)
        self._append(stored, new.owners)
        return stored

    def _remove(self, type_: str, id_: str, if_version: Collection[str] | None, instant: Instant) -> Removal:
        newest = self._newest(type_, id_)
        if newest is None:
            return NeverExisted()
        if newest.deleted:
            return AlreadyDeleted(str(newest.version - 1))
        if if_version is not None and str(newest.version) not in if_version:
            return VersionMismatch()
        self._delete(newest, instant)
        return Removed(newest.as_current())

    def _remove_these(self, target: Target, versions: Sequence[Version]) -> list[Current]:
        instant = self._tick()
        removals = [self._remove(target.type, version.id, None, instant) for version in versions]
        removed = [removal.resource for removal in removals if isinstance(removal, Removed)]
        self._report(self._note, instant, target.type, [resource.id for resource in removed])
        return removed

    def _report(self, note: str, instant: Instant, type_: str, ids: Sequence[str]) -> None:
        if note and ids:
            self._outbox.add(note, instant, type_, ids)

    def _delete(self, newest: Stored, instant: Instant) -> None:
        owners = self._history[newest.type, newest.id][-1].owners  # a deletion keeps them (law 27)
        self._append(Stored(newest.type, newest.id, newest.version + 1, instant, b"", deleted=True), owners)

    def _matching(self, target: Target) -> list[Version]:
        filters = Filters(target.filters, target.type, self._base_urls)
        return [
            Version(stored.id, str(stored.version))
            for stored in (version.stored for version in self._versions if version.held(None))
            if stored.type == target.type and not stored.deleted and filters.passes(stored.json)
        ]

    def _append(self, stored: Stored, owners: frozenset[str]) -> None:
        history = self._history.setdefault((stored.type, stored.id), [])
        if history:
            history[-1].valid_to = stored.last_updated
        self._last.position += 1
        history.append(_Version(self._last.position, stored, owners))
        self._versions.append(history[-1])

    def _selects(self, query: Query, version: _Version) -> bool:
        """Whether a version lies in the selection; of a deletion, whether any version after `since` did (law 34)."""
        if not version.stored.deleted or isinstance(query.selection, Everything):
            return _holds(query.selection, version.owners)
        since = query.window.since or Instant(0)
        former = itertools.takewhile(lambda other: other is not version, self._history[version.stored.type, version.stored.id])
        return any(_holds(query.selection, other.owners) for other in former if other.was_held_after(since))

    def _left(self, query: Query, after: str | None) -> Iterator[tuple[int, str]]:
        """The positions and ids of what lived and lay in the selection as of `since`, and lives outside of it now."""
        since = query.window.since
        if since is None:
            return
        then = {v.stored.id for _, v in self._living(replace(query, window=Window(), as_of=since))}
        for position, version in self._chosen(replace(query, selection=Everything()), after, deleted=False):
            if version.stored.id in then and not _holds(query.selection, version.owners):
                yield position, version.stored.id

    def _chosen(self, query: Query, after: str | None, *, deleted: bool) -> Iterator[tuple[int, _Version]]:
        """The versions of a query with their positions, in the order of writing."""
        low, high = map(int, query.range.split("-")) if query.range else (0, self._last.position)
        start = low if after is None else max(low, int(after) + 1)
        begin, end = (bisect_left(self._versions, place, key=_position) for place in (start, high + 1))
        for version in self._versions[begin:end]:
            stored = version.stored
            if (
                stored.type == query.type
                and stored.deleted == deleted
                and version.held(query.as_of)
                and (query.window.since is None or stored.last_updated > query.window.since)
                and (query.window.until is None or stored.last_updated <= query.window.until)
                and self._selects(query, version)
            ):
                yield version.position, version


def _position(version: _Version) -> int:
    return version.position


def _holds(selection: Selection, owners: frozenset[str]) -> bool:
    """Whether what lies in these compartments lies in the selection."""
    match selection:
        case Compartments(references):
            return not owners.isdisjoint(references)
        case EveryPatient():
            return any(owner.startswith("Patient/") for owner in owners)
        case NoPatient():
            return not any(owner.startswith("Patient/") for owner in owners)
        case Everything():
            return True
