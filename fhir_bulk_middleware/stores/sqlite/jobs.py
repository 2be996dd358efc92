"""Jobs in one SQLite file, shared by any number of processes on one machine."""

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.figures import Census
from fhir_bulk_middleware.contract.job import Codec, Former, Job, Part, Slice, Standing
from fhir_bulk_middleware.contract.job_record import (
    JOB_FIELDS,
    PART_FIELDS,
    SLICE_FIELDS,
    Scalar,
    job_record,
    owner_record,
    part_from_record,
    registration_content,
    registration_from_content,
    rows_content,
    slice_from_record,
)
from fhir_bulk_middleware.contract.job_store import Due, ListPlace
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.query import Rows, Unfinished
from fhir_bulk_middleware.contract.registration import Registration, Registry
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.granting import LastRows
from fhir_bulk_middleware.stores.known_jobs import KnownJobs, read_job
from fhir_bulk_middleware.stores.sqlite import work_queue as work
from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["SQLiteJobStore"]

_LATEST = 2**63 - 1
"""Later than every instant."""

_COLUMNS = ", ".join(JOB_FIELDS)
_OWNED = "issuer = :issuer AND subject = :subject AND client = :client"
_STANDS = "SELECT revision, done, estimate FROM job WHERE id = ? AND mount = ? AND issuer = ? AND subject = ? AND client = ?"
_WHOLE = f"SELECT {_COLUMNS} FROM job WHERE id = ?"  # noqa: S608
_SAME_KEY = f"""
    SELECT {_COLUMNS} FROM job INDEXED BY job_idempotency
    WHERE {_OWNED} AND mount = :mount AND idempotency_key = :idempotency_key AND idempotency_key IS NOT NULL
        AND state NOT IN ('cancelled', 'expired')
"""  # noqa: S608
_WORKING = f"SELECT count(*) FROM job WHERE {_OWNED} AND adapter = :adapter AND state IN ('queued', 'running')"  # noqa: S608
_PARTS = f"SELECT {', '.join(PART_FIELDS)} FROM part WHERE job_id = ? ORDER BY slice, number"  # noqa: S608
_PART = f"SELECT {', '.join(PART_FIELDS)} FROM part WHERE job_id = ? AND file_id = ?"  # noqa: S608
_UNFINISHED = "SELECT min(slice) FROM work WHERE job_id = ? AND slice >= 0"
_REPLACE = """
    UPDATE job SET revision = revision + 1, state = :state, changed_at = :changed_at, kept_for = :kept_for, cut = :cut,
        codec = :codec, estimate = :estimate, done = max(done, :done), reason = :reason, detail = :detail, request = :request,
        idempotency_key = :idempotency_key, fingerprint = :fingerprint
    WHERE id = :id AND revision = :revision
"""
_DUE = {
    step: f"SELECT {_COLUMNS} FROM job {condition}, sequence LIMIT ?"  # noqa: S608 - constants of ours only
    for step, condition in {
        Due.FAIL: "WHERE adapter = ? AND state IN ('queued', 'running') AND created_at < ? ORDER BY created_at",
        Due.EXPIRE: "INDEXED BY job_due WHERE adapter = ? AND state IN ('completed', 'failed') AND changed_at + kept_for < ? "
        "ORDER BY changed_at + kept_for",
        Due.RECLAIM: "INDEXED BY job_reclaimable "
        "WHERE adapter = ? AND state IN ('cancelled', 'expired', 'failed') AND reclaimed = 0 AND changed_at < ? "
        "ORDER BY changed_at",
        Due.FORGET: "WHERE adapter = ? AND state IN ('cancelled', 'expired') AND reclaimed = 1 AND changed_at < ? "
        "ORDER BY changed_at",
    }.items()
}
_NEWEST = "(created_at, id) < (:after_at, :after_id) ORDER BY created_at DESC, id DESC LIMIT :limit"
_LISTED = f"""
    SELECT {_COLUMNS} FROM job INDEXED BY job_owned
    WHERE {_OWNED} AND mount = :mount AND state IN ('queued', 'running', 'completed', 'failed') AND {_NEWEST}
"""  # noqa: S608
_KEPT = f"SELECT {_COLUMNS} FROM job INDEXED BY job_kept WHERE adapter = :adapter AND {_NEWEST}"  # noqa: S608
_KEPT_ONE = f"SELECT {_COLUMNS} FROM job WHERE id = :job_id AND +adapter = :adapter AND {_NEWEST}"  # noqa: S608
_CENSUS = """
    SELECT state, count(*), min(created_at) FROM job WHERE adapter = ? AND state IN ('queued', 'running') GROUP BY state
"""
_KEPT_BYTES = """
    SELECT coalesce(sum(stored), 0) FROM (
        SELECT max(stored_size) AS stored FROM part INDEXED BY part_kept WHERE job_id IN (
            SELECT id FROM job INDEXED BY job_changed WHERE adapter = :adapter AND state IN ('queued', 'running', 'completed')
            UNION ALL
            SELECT id FROM job INDEXED BY job_reclaimable
            WHERE adapter = :adapter AND reclaimed = 0 AND state IN ('cancelled', 'expired', 'failed')
        ) GROUP BY written_as
    )
"""
_NEWEST_OF = """
    SELECT job.id FROM slice INDEXED BY slice_cache_key CROSS JOIN job ON job.id = slice.job_id
    WHERE slice.cache_key = ? AND job.state = 'completed' ORDER BY job.created_at DESC, job.id DESC LIMIT 1
"""
_SLICES_OF = f"SELECT {', '.join(SLICE_FIELDS)} FROM slice WHERE job_id = ? AND cache_key IS NOT NULL ORDER BY number"  # noqa: S608
_KEEPS_FILES = """
    SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?))
        AND (+adapter <> ? OR +state IN ('queued', 'running', 'completed'))
"""


class SQLiteJobStore:
    """A `JobStore` in a file, which can be opened in worker processes too (`SupportsWorkerProcess`).

    Every write that has returned survives a power cut. Threads, each with an event loop of its own, may share it.

    Args:
        path: the file. It must not be on a network file system, because WAL needs memory that all its users share.
        blocking: whether writes run in the calling thread, as in a worker process. Otherwise they run in a thread of their own,
            so that the server's event loop never waits for a disk.
    """

    def __init__(self, path: str | Path, *, blocking: bool = False) -> None:
        schema = files("fhir_bulk_middleware.stores.sqlite").joinpath("job_schema.sql").read_text("utf-8")
        self._database = Database(Path(path), [schema], synchronous="FULL", forgets=True, blocking=blocking)
        self._known = KnownJobs()
        self._rows = LastRows(self._database.aside)

    def recipe(self) -> Recipe:
        """The same file, blocking."""
        path = str(self._database.path)
        return Recipe("fhir_bulk_middleware.stores.sqlite.jobs:SQLiteJobStore", {"path": path, "blocking": True})

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self._database.close()

    async def registry(self) -> Registry:
        """See `JobStore.registry`."""
        reader = self._database.reader
        return Registry(str(reader.execute("SELECT id FROM store").fetchone()[0]), tuple(_registrations(reader)))

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        """See `JobStore.register`."""
        await self._database.write(partial(_register, registration=registration, admit=admit))

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """See `JobStore.add`."""
        content = await self._database.aside(partial(rows_content, rows))
        return await self._database.write(partial(_add, job=job, content=content, working_at_most=working_at_most))

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """See `JobStore.find`. It runs in the event loop: one indexed read costs less than handing it to a thread."""
        return self._find(self._database.reader, job_id, mount, owner)

    def _find(self, reader: sqlite3.Connection, job_id: str, mount: str, owner: Owner) -> Job | None:
        """The job. Of a cached one only progress is read, because everything else changes with the revision."""
        whose = owner.issuer, owner.subject, owner.client or ""
        standing = reader.execute(_STANDS, (job_id, mount, *whose)).fetchone()
        if standing is None:
            return None
        revision, done, estimate = standing
        known = self._known.get(job_id, revision, done, estimate)
        if known is not None:
            return known
        record = reader.execute(_WHOLE, (job_id,)).fetchone()
        return None if record is None else self._known.job(record)  # None if it was removed between the two reads

    async def replace(self, job: Job) -> bool:
        """See `JobStore.replace`. The identity of a job is never rewritten, and `done` never falls."""
        record = job_record(job)
        return await self._database.write(lambda connection: connection.execute(_REPLACE, record).rowcount == 1)

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        """See `JobStore.standing`. A job of a terabyte has thousands of parts, so all of them are not read in the event loop."""
        read = partial(self._standing, job_id, mount, owner, file_id)
        return await self._database.aside(read) if file_id is None else read()

    def _standing(self, job_id: str, mount: str, owner: Owner, file_id: str | None) -> Standing | None:
        reader = self._database.reader
        reader.execute("BEGIN")  # what is read until the rollback is of one instant
        try:
            job = self._find(reader, job_id, mount, owner)
            if job is None:
                return None
            (unfinished,) = reader.execute(_UNFINISHED, (job_id,)).fetchone()
            if file_id is not None:
                return Standing(job, tuple(map(_part, reader.execute(_PART, (job_id, file_id)).fetchall())), unfinished)
            (slices,) = reader.execute("SELECT count(*) FROM slice WHERE job_id = ?", (job_id,)).fetchone()
            return Standing(job, tuple(map(_part, reader.execute(_PARTS, (job_id,)).fetchall())), unfinished, slices)
        finally:
            reader.rollback()

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        """See `JobStore.owned`. Requests can be long, so they are not parsed in the event loop."""
        return await self._listed(_LISTED, owner_record(owner) | {"mount": mount}, after, limit)

    async def kept(self, *, after: ListPlace | None, limit: int, job_id: str | None = None, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.kept`."""
        read = _KEPT if job_id is None else _KEPT_ONE
        return await self._listed(read, {"adapter": adapter, "job_id": job_id}, after, limit)

    async def _listed(self, read: str, of: Mapping[str, Scalar], after: ListPlace | None, limit: int) -> Sequence[Job]:
        values = {**of, **_behind(after), "limit": limit}
        return await self._database.aside(lambda: [read_job(record) for record in self._database.reader.execute(read, values)])

    async def census(self, *, adapter: str = "") -> Census:
        """See `SupportsCensus`. It reads indexes alone, and none has an entry for a job that was ended and reclaimed."""
        return await self._database.aside(partial(self._census, adapter))

    def _census(self, adapter: str) -> Census:
        reader = self._database.reader
        counts = {state: (count, oldest) for state, count, oldest in reader.execute(_CENSUS, (adapter,))}
        queued, oldest_queued = counts.get("queued", (0, None))
        (kept,) = reader.execute(_KEPT_BYTES, {"adapter": adapter}).fetchone()
        return Census(queued=queued, running=counts.get("running", (0, None))[0], oldest_queued=oldest_queued, kept_bytes=kept)

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.due`."""
        return [read_job(record) for record in self._database.reader.execute(_DUE[step], (adapter, before, limit))]

    async def reclaimed(self, job_id: str) -> None:
        """See `JobStore.reclaimed`."""
        await self._database.write(partial(_reclaimed, job_id=job_id))

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """See `JobStore.keeps_files`."""
        found = self._database.reader.execute(_KEEPS_FILES, (json.dumps(list(job_ids)), adapter)).fetchall()
        return frozenset(job_id for (job_id,) in found)

    async def remove(self, job_id: str) -> None:
        """See `JobStore.remove`."""
        await self._database.write(partial(_remove, job_id=job_id))

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        """See `JobStore.claim`. Where there is nothing to claim it is one short read."""
        while work.anything(self._database.reader, adapter, now):
            granted = await self._database.write(
                partial(work.claim, adapter=adapter, worker=worker, now=now, lease_seconds=lease_seconds)
            )
            if granted is None:
                return None
            rows = await self._rows.of(granted.job, partial(self._content, granted.job.id))
            if rows is not None:  # else the job was ended and reclaimed meanwhile, and its lease with it
                return granted.lease(worker, rows)
        self._rows.forget()
        return None

    async def _content(self, job_id: str) -> bytes | None:
        """The content of the rows of a job, None if it was reclaimed."""
        record = self._database.reader.execute("SELECT content FROM job_rows WHERE job_id = ?", (job_id,)).fetchone()
        return None if record is None else record[0]

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """See `JobStore.renew`."""
        return await self._database.write(partial(work.renew, lease=lease, now=now, lease_seconds=lease_seconds, done=done))

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        """See `JobStore.former`."""
        return await self._database.aside(lambda: _former(self._database.reader, cache_keys))

    async def plan(
        self,
        lease: Lease,
        cut: Instant,
        codec: Codec,
        slices: Sequence[Slice],
        now: Instant,
        *,
        rows: Rows | None = None,
        more: bool = False,
        unfinished: Unfinished | None = None,
    ) -> bool:
        """See `JobStore.plan`."""
        content = None if rows is None else await self._database.aside(partial(rows_content, rows))
        return await self._database.write(
            partial(
                work.plan,
                lease=lease,
                cut=cut,
                codec=codec,
                slices=slices,
                now=now,
                content=content,
                more=more,
                unfinished=unfinished,
            )
        )

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """See `JobStore.checkpoint`."""
        return await self._database.write(
            partial(work.checkpoint, lease=lease, parts=parts, cursor=cursor, now=now, done=done, finished=finished)
        )

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        """See `JobStore.release`."""
        await self._database.write(partial(work.release, held=held, cause=cause, excused=excused))


def _register(
    connection: sqlite3.Connection, registration: Registration, admit: Callable[[Sequence[Registration]], None]
) -> None:
    admit(_registrations(connection))
    connection.execute(
        "INSERT OR REPLACE INTO registration (mount, content) VALUES (?, ?)",
        (registration.mount, registration_content(registration)),
    )


def _registrations(connection: sqlite3.Connection) -> list[Registration]:
    records = connection.execute("SELECT content FROM registration ORDER BY mount").fetchall()
    return [registration_from_content(content) for (content,) in records]


def _behind(after: ListPlace | None) -> dict[str, Scalar]:
    """The place after which a list goes on; without one, a place before all."""
    if after is None:
        return {"after_at": _LATEST, "after_id": ""}
    return {"after_at": after.created_at, "after_id": after.job_id}


def _part(record: tuple[Any, ...]) -> Part:
    return part_from_record(dict(zip(PART_FIELDS, record, strict=True)))


def _former(reader: sqlite3.Connection, cache_keys: Collection[str]) -> list[Former]:
    found: list[Former] = []
    reader.execute("BEGIN")  # what is read until the rollback is of one instant
    try:
        newest: dict[str, set[str]] = {}
        for cache_key in cache_keys:
            for (job_id,) in reader.execute(_NEWEST_OF, (cache_key,)).fetchall():
                newest.setdefault(job_id, set()).add(cache_key)
        for job_id, wanted in sorted(newest.items()):
            parts: dict[int, list[Part]] = {}
            for part in map(_part, reader.execute(_PARTS, (job_id,))):
                parts.setdefault(part.slice, []).append(part)
            for record in reader.execute(_SLICES_OF, (job_id,)):
                piece = slice_from_record(dict(zip(SLICE_FIELDS, record, strict=True)))
                if piece.cache_key in wanted:
                    found.append(Former(piece, tuple(parts.get(piece.number, ()))))
    finally:
        reader.rollback()
    return found


def _add(connection: sqlite3.Connection, job: Job, content: bytes, working_at_most: int) -> Job | None:
    record = job_record(job)
    if job.idempotency is not None:
        kept = connection.execute(_SAME_KEY, record).fetchone()
        if kept is not None:
            return read_job(kept)
    (working,) = connection.execute(_WORKING, record).fetchone()
    if working >= working_at_most:
        return None
    connection.execute(work.insertion("job", record), record)
    connection.execute("INSERT INTO job_rows (job_id, content) VALUES (?, ?)", (job.id, content))
    work.open_planning(connection, job)
    return job


def _reclaimed(connection: sqlite3.Connection, job_id: str) -> None:
    ended = connection.execute(
        "UPDATE job SET reclaimed = 1 WHERE id = ? AND state IN ('cancelled', 'expired', 'failed')", (job_id,)
    )
    if ended.rowcount == 1:  # also if the caller is mistaken, a job with a result keeps it
        connection.execute("DELETE FROM part WHERE job_id = ?", (job_id,))
        connection.execute("DELETE FROM slice WHERE job_id = ?", (job_id,))
        connection.execute("DELETE FROM job_rows WHERE job_id = ?", (job_id,))


def _remove(connection: sqlite3.Connection, job_id: str) -> None:
    owner = connection.execute("SELECT issuer, subject, client FROM job WHERE id = ?", (job_id,)).fetchone()
    if owner is None:
        return
    connection.execute("DELETE FROM job WHERE id = ?", (job_id,))  # its rows in all other tables go with it
    if connection.execute("SELECT 1 FROM job WHERE issuer = ? AND subject = ? AND client = ?", owner).fetchone() is None:
        connection.execute("DELETE FROM turn WHERE issuer = ? AND subject = ? AND client = ?", owner)
