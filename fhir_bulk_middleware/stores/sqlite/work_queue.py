"""Leases, plans and checkpoints in SQLite: each function is one write transaction on the tables of `job_schema.sql`.

A lease is current exactly while its row in `work` has its worker and attempt. Finished work has no row. When a job leaves the
working states, a trigger deletes all of its rows in the same transaction.
"""

import sqlite3
from collections.abc import Iterable, Sequence

from fhir_bulk_middleware.contract.job import Codec, Job, Part, Slice
from fhir_bulk_middleware.contract.job_record import (
    JOB_FIELDS,
    PART_FIELDS,
    SLICE_FIELDS,
    job_from_record,
    owner_record,
    part_record,
    slice_from_record,
    slice_record,
    unfinished_record,
)
from fhir_bulk_middleware.contract.lease import LEASE_SLACK, Lease, Recorded, fell_silent
from fhir_bulk_middleware.contract.query import Unfinished
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.granting import Granted

__all__ = ["anything", "checkpoint", "claim", "insertion", "open_planning", "plan", "release", "renew"]

_PLANNING = -1


def insertion(table: str, names: Iterable[str]) -> str:
    """A statement that inserts a record of these names."""
    columns = tuple(names)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"  # noqa: S608


_FREE = f"(leased_until IS NULL OR leased_until <= :now OR leased_until > :now + leased_for * {LEASE_SLACK})"

# Owners take turns; within an owner the oldest job comes first.
_NEXT_JOB = f"""
    SELECT {", ".join(f"job.{name}" for name in JOB_FIELDS)}
    FROM job LEFT JOIN turn
        ON turn.issuer = job.issuer AND turn.subject = job.subject AND turn.client = job.client
    WHERE job.adapter = :adapter AND job.state IN ('queued', 'running')
        AND EXISTS (SELECT 1 FROM work WHERE work.job_id = job.id AND {_FREE})
    ORDER BY coalesce(turn.served, 0), job.created_at, job.sequence LIMIT 1
"""  # noqa: S608 - constants of ours only
_NEXT_WORK = f"SELECT slice, attempt, excused, worker, cause FROM work WHERE job_id = :job AND {_FREE} ORDER BY slice LIMIT 1"  # noqa: S608
_SLICE = f"SELECT {', '.join(SLICE_FIELDS)} FROM slice WHERE job_id = ? AND number = ?"  # noqa: S608
_INSERT_SLICE = insertion("slice", ("job_id", *SLICE_FIELDS))
_INSERT_PART = insertion("part", ("job_id", *PART_FIELDS))
_PLANNED = """
    UPDATE job SET state = 'running', revision = revision + 1, changed_at = :now, cut = coalesce(cut, :cut),
        unfinished = CASE WHEN cut IS NULL THEN :unfinished ELSE unfinished END,
        unfinished_at = CASE WHEN cut IS NULL THEN :unfinished_at ELSE unfinished_at END,
        codec = coalesce(codec, :codec), more = :more, plannings = :plannings,
        estimate = estimate + :estimate, done = done + :done
    WHERE id = :job
"""

# In the estimate of the job, replaces the estimate of a slice by its true count; then in that of the slice.
_CORRECT = """
    UPDATE job SET estimate = estimate + (
        SELECT work.done - slice.estimate FROM work JOIN slice ON slice.job_id = work.job_id AND slice.number = work.slice
        WHERE work.job_id = ? AND work.slice = ?
    ) WHERE id = ?
"""
_CORRECT_SLICE = """
    UPDATE slice SET estimate = (SELECT done FROM work WHERE work.job_id = slice.job_id AND work.slice = slice.number)
    WHERE job_id = ? AND number = ?
"""


def open_planning(connection: sqlite3.Connection, job: Job) -> None:
    """Queue the planning of a new job."""
    connection.execute("INSERT INTO work (job_id, slice, adapter) VALUES (?, ?, ?)", (job.id, _PLANNING, job.adapter))


def anything(reader: sqlite3.Connection, adapter: str, now: Instant) -> bool:
    """Whether there may be something to claim: a read only, so that idle workers take no write lock."""
    query = f"SELECT 1 FROM work WHERE adapter = :adapter AND {_FREE} LIMIT 1"  # noqa: S608
    return reader.execute(query, {"adapter": adapter, "now": now}).fetchone() is not None


def claim(connection: sqlite3.Connection, adapter: str, worker: str, now: Instant, lease_seconds: float) -> Granted | None:
    """Lease the next free piece of work of the adapter to `worker`."""
    limits: dict[str, int | str] = {"adapter": adapter, "now": now}
    record = connection.execute(_NEXT_JOB, limits).fetchone()
    if record is None:
        return None
    job = job_from_record(dict(zip(JOB_FIELDS, record, strict=True)))
    number, attempt, excused, holder, cause = connection.execute(_NEXT_WORK, limits | {"job": job.id}).fetchone()
    if holder is not None:  # it was neither finished nor given back
        cause = fell_silent(holder, attempt)
    connection.execute(
        "UPDATE work SET attempt = ?, worker = ?, leased_until = ?, leased_for = ?, cause = ? WHERE job_id = ? AND slice = ?",
        (attempt + 1, worker, *_span(now, lease_seconds), cause, job.id, number),
    )
    connection.execute(
        "INSERT OR REPLACE INTO turn (issuer, subject, client, served) "
        "SELECT :issuer, :subject, :client, coalesce(max(served), 0) + 1 FROM turn",
        owner_record(job.owner),
    )
    return Granted(job, _slice(connection, job.id, number), attempt + 1, attempt + 1 - excused, cause)


def renew(connection: sqlite3.Connection, lease: Lease, now: Instant, lease_seconds: float, done: int) -> bool:
    """Extend the lease, and count what was read."""
    if not _advance(connection, lease, done):
        return False
    connection.execute(
        "UPDATE work SET leased_until = ?, leased_for = ? WHERE job_id = ? AND slice = ?",
        (*_span(now, lease_seconds), *_place(lease)),
    )
    return True


def plan(
    connection: sqlite3.Connection,
    lease: Lease,
    cut: Instant,
    codec: Codec,
    slices: Sequence[Slice],
    *,
    now: Instant,
    content: bytes | None = None,
    more: bool = False,
    unfinished: Unfinished | None = None,
) -> bool:
    """Write a round of the plan and queue its slices; `content` replaces the job's rows."""
    if lease.slice is not None or _mark(connection, lease) is None:
        return False
    job_id = lease.job.id
    if content is not None:
        connection.execute("UPDATE job_rows SET content = ? WHERE job_id = ?", (content, job_id))
    connection.execute("DELETE FROM work WHERE job_id = ? AND slice = ?", (job_id, _PLANNING))
    connection.executemany(
        _INSERT_SLICE,
        [slice_record(piece) | {"job_id": job_id, "parts": len(piece.made)} for piece in slices],
    )
    connection.executemany(_INSERT_PART, [part_record(part) | {"job_id": job_id} for piece in slices for part in piece.made])
    connection.executemany(
        "INSERT INTO work (job_id, slice, adapter) VALUES (?, ?, ?)",
        [(job_id, piece.number, lease.job.adapter) for piece in slices if not piece.made],
    )
    connection.execute(
        _PLANNED,
        {
            "job": job_id,
            "now": now,
            "cut": cut,
            "codec": codec.value,
            "more": more,
            "plannings": lease.attempt,
            "estimate": sum(piece.estimate for piece in slices),
            "done": sum(piece.estimate for piece in slices if piece.made),
            **unfinished_record(unfinished),
        },
    )
    _go_on(connection, job_id, now)
    return True


def checkpoint(
    connection: sqlite3.Connection,
    lease: Lease,
    parts: Sequence[Part],
    cursor: str | None,
    now: Instant,
    *,
    done: int,
    finished: bool,
) -> Recorded:
    """Record parts and the cursor after them; with the last slice, complete the job."""
    if lease.slice is None or not _advance(connection, lease, done):
        return Recorded.LOST
    job_id = lease.job.id
    connection.executemany(
        _INSERT_PART,
        [part_record(part) | {"job_id": job_id} for part in parts],
    )
    connection.execute(
        "UPDATE slice SET cursor = ?, parts = parts + ? WHERE job_id = ? AND number = ?",
        (cursor, len(parts), *_place(lease)),
    )
    if parts:  # the attempt made progress, so earlier tries no longer count
        connection.execute("UPDATE work SET excused = attempt - 1 WHERE job_id = ? AND slice = ?", _place(lease))
    if finished:
        connection.execute(_CORRECT, (*_place(lease), job_id))
        connection.execute(_CORRECT_SLICE, _place(lease))
        connection.execute("DELETE FROM work WHERE job_id = ? AND slice = ?", _place(lease))
        if _go_on(connection, job_id, now):
            return Recorded.COMPLETED
    return Recorded.KEPT


def _go_on(connection: sqlite3.Connection, job_id: str, now: Instant) -> bool:
    """If no work is left, queue the planning of the next round, or complete the job; whether the job was completed."""
    connection.execute(
        "INSERT INTO work (job_id, slice, adapter, attempt, excused) SELECT id, ?, adapter, plannings, plannings FROM job"
        " WHERE id = ? AND more AND NOT EXISTS (SELECT 1 FROM work WHERE work.job_id = job.id)",
        (_PLANNING, job_id),
    )
    completed = connection.execute(
        "UPDATE job SET state = 'completed', revision = revision + 1, changed_at = ?"
        " WHERE id = ? AND NOT EXISTS (SELECT 1 FROM work WHERE work.job_id = job.id)",
        (now, job_id),
    )
    return completed.rowcount == 1


def release(connection: sqlite3.Connection, held: Lease | str, cause: str, *, excused: bool) -> None:
    """Give back the work of a lease, or all that a worker held, and keep the cause."""
    values: dict[str, str | int] = {"cause": cause, "excused": excused}
    if isinstance(held, Lease):
        job_id, number = _place(held)
        values |= {"worker": held.worker, "job_id": job_id, "slice": number, "attempt": held.attempt}
        where = "job_id = :job_id AND slice = :slice AND worker = :worker AND attempt = :attempt"
    else:
        values["worker"] = held
        where = "worker = :worker"
    connection.execute(
        f"UPDATE work SET worker = NULL, leased_until = NULL, cause = :cause, excused = excused + :excused WHERE {where}",  # noqa: S608
        values,
    )


def _span(now: Instant, lease_seconds: float) -> tuple[Instant, int]:
    """The end of a lease and its length in microseconds."""
    until = after(now, lease_seconds)
    return until, until - now


def _place(lease: Lease) -> tuple[str, int]:
    return lease.job.id, _PLANNING if lease.slice is None else lease.slice.number


def _mark(connection: sqlite3.Connection, lease: Lease) -> int | None:
    """The highest count of any attempt on the lease's work, None if the lease is lost."""
    row = connection.execute(
        "SELECT done FROM work WHERE job_id = ? AND slice = ? AND worker = ? AND attempt = ?",
        (*_place(lease), lease.worker, lease.attempt),
    ).fetchone()
    return None if row is None else row[0]


def _advance(connection: sqlite3.Connection, lease: Lease, done: int) -> bool:
    """Count what is above the mark, so that a slice that starts over is not counted twice. False if the lease is lost."""
    mark = _mark(connection, lease)
    if mark is None:
        return False
    if done > mark:
        connection.execute("UPDATE work SET done = ? WHERE job_id = ? AND slice = ?", (done, *_place(lease)))
        connection.execute("UPDATE job SET done = done + ? WHERE id = ?", (done - mark, lease.job.id))
    return True


def _slice(connection: sqlite3.Connection, job_id: str, number: int) -> Slice | None:
    record = connection.execute(_SLICE, (job_id, number)).fetchone()
    return None if record is None else slice_from_record(dict(zip(SLICE_FIELDS, record, strict=True)))
