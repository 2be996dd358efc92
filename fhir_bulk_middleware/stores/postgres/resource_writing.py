"""Writes versions of resources in PostgreSQL, in a transaction of the caller.

A writer locks the newest versions of the resources that it changes, in the order of type and id, and nothing else, so writers of
different resources never wait for each other. Of two that create the same resource, one finds the other's version in its way
(`UniqueViolation`) and begins again.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import psycopg

from fhir_bulk_middleware.instant import Instant, Precision, render
from fhir_bulk_middleware.stores.drafts import Draft
from fhir_bulk_middleware.stores.postgres.resource_postings import BLOCK_BITS, INTO, Postings
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes, first_of
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.stores.versioned import Stored, VersionConflict

__all__ = ["CURRENT", "NEWEST_STAMP", "Key", "Writing", "again_if_created", "clocks"]

T = TypeVar("T")
Key = tuple[str, str]
"""Type and id of a resource."""

CURRENT = (1 << 63) - 1
"""The `ended` of a version that was not superseded."""

NEWEST_STAMP = """(SELECT max(newest) FROM {type} AS types
    CROSS JOIN LATERAL (SELECT max(stamp) AS newest FROM {resource} WHERE type = types.number) AS each)"""
"""The latest committed stamp: one look-up in an index for each type."""

_NEWEST = NEWEST_STAMP.format(type="$resource_type", resource="$resource")
_LOCK = f"""
    SELECT asked.place, newest.* FROM unnest(%(types)s::integer[], %(ids)s::text[]) WITH ORDINALITY AS asked (type, id, place)
    CROSS JOIN LATERAL (
        SELECT seq, number, stamp, deleted, in_patient, size, owners, ended = {CURRENT} FROM $resource AS r
        WHERE r.type = asked.type AND r.id = asked.id ORDER BY number DESC LIMIT 1 FOR UPDATE
    ) AS newest
"""  # noqa: S608 - constants of ours only, as below
_STAMP = f"SELECT $bulk_instant(greatest(%(least)s, {_NEWEST} + 1))"
_CLOCKS = f"SELECT $bulk_clock(), greatest((SELECT max(instant) FROM $bulk_cut), {_NEWEST}, 0)"  # noqa: S608
_KEYS = "SELECT nextval('$resource_counter') FROM generate_series(1, %(count)s)"
_END = """
    UPDATE $resource AS r SET ended = ending.at, ended_by = pg_current_xact_id()
    FROM unnest(%(keys)s::bigint[], %(instants)s::bigint[]) AS ending (seq, at) WHERE r.seq = ending.seq
"""
_TEXTS = "SELECT seq, json FROM $resource WHERE seq = ANY(%(keys)s::bigint[])"

_INTO = (
    "$resource (seq, stamp, writer, ended, ended_by, type, number, size, deleted, in_patient, moved, id, owners, json)",
    "$resource_compartment (owner, seq)",
    "$resource_target (type, id, seq)",
    "$resource_naming (target, seq)",
    INTO,
    "$resource_extent (block, versions, live, in_patient, size)",
)


@dataclass(slots=True)
class _Version:
    """The newest version of a resource, or one that this transaction wrote, which is `here`. `text` is None until it is read."""

    seq: int
    number: int
    stamp: int
    deleted: bool
    in_patient: bool
    size: int
    owners: frozenset[str]
    ended: int = CURRENT
    moved: bool = False
    text: bytes | None = None
    here: bool = False


def again_if_created(write: Callable[[], T]) -> T:
    """Run a write, and again if another transaction created one of its resources meanwhile."""
    while True:
        try:
            return write()
        except psycopg.errors.UniqueViolation:
            continue


def clocks(session: Session) -> tuple[Instant, Instant]:
    """The database's clock, and the latest instant of a cut or a committed write."""
    clock, latest = session.row(_CLOCKS) or (0, 0)
    return Instant(clock), Instant(latest)


class Writing:
    """One write transaction. All its versions have one `lastUpdated`, later than every earlier write and cut (law 4).

    Args:
        session: in a write transaction.
        types: those of the resources have numbers.
    """

    def __init__(self, session: Session, types: ResourceTypes) -> None:
        self._session = session
        self._types = types
        self._newest: dict[Key, _Version | None] = {}
        self._ended: list[tuple[int, Instant]] = []
        self._free: list[int] = []
        self._written: list[tuple[str, str, _Version]] = []
        self._compartments: list[bytes] = []
        self._targets: list[bytes] = []
        self._names: list[bytes] = []
        self._postings = Postings(types)
        self._extents: Counter[tuple[int, str]] = Counter()

    def lock(self, keys: Collection[Key]) -> None:
        """Lock the newest versions of resources, before anything is read or written of them.

        With a call for all of them, writers cannot stand in each other's way for ever; with several calls PostgreSQL may have to
        end one of them (`deadlock_detected`), which is then repeated. A version that another transaction superseded while this
        one waited is not the newest any more, so it is asked again.
        """
        order = sorted({(self._types.known(type_), id_, type_) for type_, id_ in keys if (type_, id_) not in self._newest})
        self._newest |= {(type_, id_): None for _, id_, type_ in order}
        while order:
            values = {"types": [number for number, _, _ in order], "ids": [id_ for _, id_, _ in order]}
            stale = []
            for place, seq, number, stamp, deleted, in_patient, size, owners, newest in self._session.rows(_LOCK, values):
                _, id_, type_ = order[place - 1]
                if newest:
                    version = _Version(seq, number, stamp, deleted, in_patient, size, frozenset(owners))
                    self._newest[type_, id_] = version
                else:
                    stale.append(order[place - 1])
            order = stale

    def newest(self, key: Key) -> tuple[int, bool] | None:
        """The newest version of a resource that is locked, and whether it is a deletion; None if there never was one."""
        found = self._newest[key]
        return None if found is None else (found.number, found.deleted)

    def expect(self, keys: Collection[Key], *, texts: bool = False) -> None:
        """Lock resources that are about to be written, and read in one step what their versions need.

        Args:
            keys: the resources.
            texts: whether they will be deleted, so that their texts are needed.
        """
        self.lock(keys)
        self._reserve(len(keys))
        unread = {version.seq: version for key in keys if (version := self._newest[key]) is not None and version.text is None}
        if texts and unread:
            for seq, text in self._session.lines(_TEXTS, {"keys": [*unread]}):
                unread[seq].text = text

    @cached_property
    def instant(self) -> Instant:
        """The instant of this transaction, fixed by its first write, after all that it changes is locked."""
        least = max((version.stamp for version in self._newest.values() if version is not None), default=0) + 1
        return Instant(self._session.one(_STAMP, {"least": least}))

    def continue_at(self, instant: Instant, last: tuple[Instant, Instant]) -> None:
        """Write the next versions at an instant of the past.

        Args:
            instant: the instant.
            last: the clock, and the latest instant that the store had before (`clocks`).

        Raises:
            ValueError: the instant is in the future, or the store has a later one.
        """
        clock, latest = last
        if instant > clock:
            raise ValueError("meta.lastUpdated: lies in the future")
        if instant <= latest:
            raise ValueError(
                f"meta.lastUpdated: is not later than {render(latest, Precision.MICROSECONDS)}, the store's latest instant; load"
                " history in order, and before anything else"
            )
        self.instant = instant

    def put(self, new: Draft, if_match: int | None = None, *, absent: bool = False) -> Stored:
        """Write the next version of a resource that is locked, the first one if there is none.

        Args:
            new: the resource.
            if_match: the version that must be current and no deletion; None for any or none.
            absent: whether the resource must not exist, or be deleted.

        Raises:
            VersionConflict: `if_match` or `absent` does not hold.
        """
        type_, id_ = new.canonical.type, new.canonical.id
        newest = self._newest[type_, id_]
        exists = newest is not None and not newest.deleted
        if (absent and exists) or (if_match is not None and not (exists and newest is not None and newest.number == if_match)):
            raise VersionConflict(None if newest is None else newest.number)
        instant = self.instant
        number = 1 if newest is None else newest.number + 1
        text = new.canonical.text(number, instant)
        moved = newest is not None and (newest.deleted or newest.owners != new.owners)
        seq = self._write(type_, id_, (number, moved, text), new.owners, deleted=False)
        self._compartments.extend(b"%b\t%d\n" % (owner.encode(), seq) for owner in new.owners)
        self._targets.extend(b"%b\t%b\t%d\n" % (about.encode(), of.encode(), seq) for about, of in new.targets)
        self._names.extend(b"%d\t%d\n" % (name, seq) for name in new.names)
        self._postings.add(seq, new.keys)
        return Stored(type_, id_, number, instant, text, deleted=False)

    def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:
        """Write the deletion of a resource that is locked. Whose it was is said by its versions before (laws 27, 34).

        Returns:
            The version that was current, None if there was none.

        Raises:
            VersionConflict: `if_match` is not the current version, nor that of the last removal.
        """
        newest = self._newest[type_, id_]
        last = None if newest is None else newest.number - newest.deleted
        if if_match is not None and if_match != last:
            raise VersionConflict(None if newest is None else newest.number)
        if newest is None or newest.deleted:
            return None
        self.expect([(type_, id_)], texts=True)
        removed = Stored(type_, id_, newest.number, Instant(newest.stamp), newest.text or b"", deleted=False)
        self._write(type_, id_, (newest.number + 1, False, b""), frozenset(), deleted=True)
        return removed

    def finish(self) -> None:
        """Write the collected rows; must be called before the transaction is committed."""
        if self._ended:
            keys, instants = zip(*self._ended, strict=True)
            self._session.change(_END, {"keys": [*keys], "instants": [*instants]})
        blocks = sorted({block for block, _ in self._extents})
        extents = [
            b"%d\t%d\t%d\t%d\t%d\n"
            % (block, *(self._extents[block, part] for part in ("versions", "live", "in_patient", "size")))
            for block in blocks
        ]
        rows = [self._row(*written) for written in self._written]
        collected = (
            rows,
            sorted(self._compartments),
            sorted(self._targets),
            sorted(self._names),
            self._postings.lines(),
            extents,
        )
        for into, lines in zip(_INTO, collected, strict=True):
            if lines:
                self._session.copy(into, b"".join(lines))

    def _reserve(self, count: int) -> None:
        """Have the keys of this many versions ready."""
        if count > len(self._free):
            found = self._session.rows(_KEYS, {"count": count - len(self._free)})
            self._free = sorted((*self._free, *(key for (key,) in found)), reverse=True)

    def _write(self, type_: str, id_: str, new: tuple[int, bool, bytes], owners: frozenset[str], *, deleted: bool) -> int:
        """Write a version after the newest one; returns its key."""
        number, moved, text = new
        before = self._newest[type_, id_]
        if before is not None:
            self._end(before)
        self._reserve(1)
        seq = first_of(self._types.known(type_)) + self._free.pop()
        in_patient = any(owner.startswith("Patient/") for owner in owners)
        version = _Version(seq, number, self.instant, deleted, in_patient, len(text), owners, moved=moved, text=text, here=True)
        self._newest[type_, id_] = version
        self._written.append((type_, id_, version))
        self._count(version, 1)
        self._extents[seq >> BLOCK_BITS, "versions"] += 1
        return seq

    def _end(self, version: _Version) -> None:
        """Supersede a version: in its row or, if this transaction wrote it, before it becomes one."""
        if version.here:
            version.ended = self.instant
        else:
            self._ended.append((version.seq, self.instant))
        self._count(version, -1)

    def _row(self, type_: str, id_: str, version: _Version) -> bytes:
        """A version as COPY reads it. Canonical text has no control character, and so only backslashes to escape."""
        ended_by = "\\N" if version.ended == CURRENT else self._session.transaction
        flags = "\t".join("t" if flag else "f" for flag in (version.deleted, version.in_patient, version.moved))
        owners = ",".join(f'"{owner}"' for owner in sorted(version.owners))
        head = (
            f"{version.seq}\t{version.stamp}\t{self._session.transaction}\t{version.ended}\t{ended_by}\t{self._types.known(type_)}\t"
            f"{version.number}\t{version.size}\t{flags}\t{id_}\t{{{owners}}}\t"
        )
        return b"%b%b\n" % (head.encode(), (version.text or b"").replace(b"\\", b"\\\\"))

    def _count(self, version: _Version, live: int) -> None:
        if version.deleted:
            return
        block = version.seq >> BLOCK_BITS
        self._extents[block, "live"] += live
        self._extents[block, "in_patient"] += live * version.in_patient
        self._extents[block, "size"] += live * version.size
