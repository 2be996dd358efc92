"""Leases, plans and checkpoints in PostgreSQL: each function is one write transaction on the tables of `migrations`.

A lease is current exactly while its row in `work` has its worker and attempt. Finished work has no row. Each statement sees what
others committed before it (READ COMMITTED), so what decides is locked before it is read: first the job, then its work. A
statement that waited for a lock looks again at the rows that it locks. A claim locks only work and an owner's turn, and waits for
neither (`SKIP LOCKED`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from fhir_bulk_middleware.contract.job import Codec, Job, Part, Slice
from fhir_bulk_middleware.contract.job_record import (
    JOB_FIELDS,
    SLICE_FIELDS,
    part_record,
    slice_from_record,
    slice_record,
    unfinished_record,
)
from fhir_bulk_middleware.contract.lease import LEASE_SLACK, Lease, Recorded, fell_silent
from fhir_bulk_middleware.contract.query import Unfinished
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.granting import Granted
from fhir_bulk_middleware.stores.known_jobs import KnownJobs
from fhir_bulk_middleware.stores.postgres import hints
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.stores.postgres.texts import digest

__all__ = [
    "CANDIDATES",
    "Candidates",
    "backlog",
    "candidates",
    "checkpoint",
    "claim",
    "open_planning",
    "plan",
    "release",
    "renew",
]

_PLANNING = -1
CANDIDATES = 16
"""How many jobs a claim looks at first."""

_FREE = f"(leased_until IS NULL OR leased_until <= %(now)s OR leased_until > %(now)s + leased_for * {LEASE_SLACK})"
_BACKLOG = f"""
    SELECT count(*) FROM (SELECT 1 FROM $work WHERE adapter_key = %(adapter)s AND {_FREE} LIMIT %(limit)s) AS free
"""  # noqa: S608

# Owners take turns; within an owner the oldest job comes first.
_CANDIDATE_JOBS = f"""
    SELECT job.id, job.owner_key FROM $job AS job LEFT JOIN $turn AS turn ON turn.owner_key = job.owner_key
    WHERE job.adapter_key = %(adapter)s AND job.state IN ('queued', 'running')
        AND EXISTS (SELECT 1 FROM $work AS work WHERE work.job_id = job.id AND {_FREE})
    ORDER BY coalesce(turn.served, 0), job.created_at, job.sequence LIMIT %(limit)s
"""  # noqa: S608
_LOCK_TURN = "SELECT 1 FROM $turn WHERE owner_key = %(owner)s FOR UPDATE SKIP LOCKED"
_LOCK_NEXT_WORK = f"""
    SELECT slice, attempt, excused, worker, cause FROM $work WHERE job_id = %(job)s AND {_FREE}
    ORDER BY slice LIMIT 1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608
_JOB_AND_SLICE = f"""
    SELECT {", ".join(f"job.{name}" for name in JOB_FIELDS)}, {", ".join(f"slice.{name}" for name in SLICE_FIELDS)}
    FROM $job AS job LEFT JOIN $slice AS slice ON slice.job_id = job.id AND slice.number = %(slice)s
    WHERE job.id = %(job)s
"""  # noqa: S608
# The work was locked before; nobody waits for a turn that is taken.
_LEASE = """
    WITH leased AS (
        UPDATE $work
        SET attempt = %(attempt)s, worker = %(worker)s, leased_until = %(until)s, leased_for = %(span)s, cause = %(cause)s
        WHERE job_id = %(job)s AND slice = %(slice)s
    )
    UPDATE $turn SET served = nextval('$turn_number')
    WHERE owner_key = (SELECT owner_key FROM $turn WHERE owner_key = %(owner)s FOR UPDATE SKIP LOCKED)
"""
_HOLD = """
    SELECT work.done, job.more FROM $job AS job JOIN $work AS work ON work.job_id = job.id
    WHERE job.id = %(job)s AND work.slice = %(slice)s AND work.worker = %(worker)s AND work.attempt = %(attempt)s
    FOR NO KEY UPDATE OF job FOR UPDATE OF work
"""
_RENEW = """
    WITH renewed AS (
        UPDATE $work SET leased_until = %(until)s, leased_for = %(span)s, done = %(done)s
        WHERE job_id = %(job)s AND slice = %(slice)s
    )
    UPDATE $job SET done = done + %(more)s WHERE id = %(job)s AND %(more)s > 0
"""
_GO_ON_BEHIND = """
    UPDATE $slice SET cursor = %(cursor)s, parts = parts + %(parts)s, estimate = %(estimate)s
    WHERE job_id = %(job)s AND number = %(slice)s
"""
# The job's progress is above the mark of the slice, so that a slice that starts over is not counted twice.
_COUNT = "UPDATE $job SET done = done + %(more)s WHERE id = %(job)s"
_FINISH = f"""
    WITH finished AS (DELETE FROM $work WHERE job_id = %(job)s AND slice = %(slice)s),
    counted AS (
        UPDATE $job SET done = done + %(more)s, estimate = estimate + %(wrong)s
        WHERE id = %(job)s AND (%(more)s <> 0 OR %(wrong)s <> 0)
    )
    {_GO_ON_BEHIND}
"""  # noqa: S608
_OPEN = "INSERT INTO $work (job_id, slice, adapter_key) VALUES (%(job)s, %(slice)s, %(adapter)s)"
_OPEN_NEXT_ROUND = """
    INSERT INTO $work (job_id, slice, adapter_key, attempt, excused)
    SELECT id, %(slice)s, adapter_key, plannings, plannings FROM $job WHERE id = %(job)s
"""
_COMPLETE = "UPDATE $job SET state = 'completed', revision = revision + 1, changed_at = %(now)s WHERE id = %(job)s"


class _Held(NamedTuple):
    """A current lease whose job and work are locked.

    Attributes:
        done: the highest count of any attempt on the work.
        more: whether another round of the plan follows.
    """

    done: int
    more: bool


def open_planning(session: Session, job: Job) -> None:
    """Queue the planning of a new job."""
    session.change(_OPEN, {"job": job.id, "slice": _PLANNING, "adapter": digest(job.adapter)})
    hints.tell_of_work(session)


Candidates = Sequence[tuple[str, bytes]]
"""Jobs with free work, each with the key of its owner, in the order of turns."""


def candidates(session: Session, adapter: str, now: Instant, at_most: int) -> Candidates:
    """The jobs that a claim may take work of: a read only, so that idle workers write nothing."""
    return [
        (job_id, owner)
        for job_id, owner in session.rows(_CANDIDATE_JOBS, {"adapter": digest(adapter), "now": now, "limit": at_most})
    ]


def backlog(session: Session, adapter: str, now: Instant, at_most: int) -> int:
    """How much there is to claim, counted up to `at_most`."""
    count: int = session.one(_BACKLOG, {"adapter": digest(adapter), "now": now, "limit": at_most})
    return count


def claim(
    session: Session, known: KnownJobs, jobs: Candidates, *, worker: str, now: Instant, lease_seconds: float
) -> Granted | None:
    """Lease the next free piece of work of some jobs to `worker`; None if there is none any more."""
    # First the owners whose turn nobody else takes at this moment; then, where all are taken, the work that is left.
    for alone in (True, False):
        for job_id, owner in jobs:
            if alone and session.row(_LOCK_TURN, {"owner": owner}) is None:
                continue
            if (found := session.row(_LOCK_NEXT_WORK, {"job": job_id, "now": now})) is not None:
                number, attempt, excused, holder, cause = found
                if holder is not None:  # it was neither finished nor given back
                    cause = fell_silent(holder, attempt)
                values = {"job": job_id, "slice": number, "attempt": attempt + 1, "worker": worker, "cause": cause}
                session.change(_LEASE, values | _span(now, lease_seconds) | {"owner": owner})
                job, piece = _job_and_slice(session, known, job_id, number)
                return Granted(job, piece, attempt + 1, attempt + 1 - excused, cause)
    return None


def renew(session: Session, lease: Lease, now: Instant, lease_seconds: float, done: int) -> bool:
    """Extend the lease, and count what was read."""
    held = _hold(session, lease)
    if held is None:
        return False
    read = max(done, held.done)
    session.change(_RENEW, _place(lease) | _span(now, lease_seconds) | {"done": read, "more": read - held.done})
    return True


def plan(
    session: Session,
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
    if lease.slice is not None or _hold(session, lease) is None:
        return False
    job_id = lease.job.id
    if content is not None:
        session.change("UPDATE $job_rows SET content = %(content)s WHERE job_id = %(job)s", {"job": job_id, "content": content})
    session.change("DELETE FROM $work WHERE job_id = %(job)s AND slice = %(slice)s", _place(lease))
    session.insert("slice", [slice_record(piece) | {"job_id": job_id, "parts": len(piece.made)} for piece in slices])
    session.insert("part", [part_record(part) | {"job_id": job_id} for piece in slices for part in piece.made])
    adapter, left = digest(lease.job.adapter), [piece for piece in slices if not piece.made]
    session.insert("work", [{"job_id": job_id, "slice": piece.number, "adapter_key": adapter} for piece in left])
    session.change(
        "UPDATE $job SET state = 'running', revision = revision + 1, changed_at = %(now)s, cut = coalesce(cut, %(cut)s),"
        " unfinished = CASE WHEN cut IS NULL THEN %(unfinished)s ELSE unfinished END,"
        " unfinished_at = CASE WHEN cut IS NULL THEN %(unfinished_at)s ELSE unfinished_at END,"
        " codec = coalesce(codec, %(codec)s), more = %(more)s, plannings = %(plannings)s, estimate = estimate + %(estimate)s,"
        " done = done + %(done)s WHERE id = %(job)s",
        {
            "job": job_id,
            "now": now,
            "cut": cut,
            **unfinished_record(unfinished),
            "codec": codec.value,
            "more": int(more),
            "plannings": lease.attempt,
            "estimate": sum(piece.estimate for piece in slices),
            "done": sum(piece.estimate for piece in slices if piece.made),
        },
    )
    if left:
        hints.tell_of_work(session)
    else:
        _go_on(session, job_id, now, more=more)
    return True


def checkpoint(
    session: Session,
    lease: Lease,
    parts: Sequence[Part],
    cursor: str | None,
    now: Instant,
    *,
    done: int,
    finished: bool,
) -> Recorded:
    """Record parts and the cursor after them; with the last slice, complete the job."""
    if lease.slice is None or (held := _hold(session, lease)) is None:
        return Recorded.LOST
    job_id, place = lease.job.id, _place(lease)
    session.insert("part", [part_record(part) | {"job_id": job_id} for part in parts])
    read = max(done, held.done)
    written = {"cursor": cursor, "parts": len(parts), "estimate": read if finished else lease.slice.estimate}
    if not finished:
        session.change(_GO_ON_BEHIND, place | written)
        # An attempt that recorded a part made progress, so earlier tries no longer count.
        session.change(
            "UPDATE $work SET done = greatest(done, %(done)s),"
            " excused = CASE WHEN %(parts)s > 0 THEN attempt - 1 ELSE excused END"
            " WHERE job_id = %(job)s AND slice = %(slice)s",
            place | {"done": done, "parts": len(parts)},
        )
        if done > held.done:
            session.change(_COUNT, {"job": job_id, "more": done - held.done})
        return Recorded.KEPT
    session.change(_FINISH, place | written | {"more": read - held.done, "wrong": read - lease.slice.estimate})
    return Recorded.COMPLETED if _go_on(session, job_id, now, more=held.more) else Recorded.KEPT


def release(session: Session, held: Lease | str, cause: str, *, excused: bool) -> None:
    """Give back the work of a lease, or all that a worker held, and keep the cause."""
    values: dict[str, object] = {"cause": cause, "excused": int(excused)}
    if isinstance(held, Lease):
        where = "job_id = %(job)s AND slice = %(slice)s AND worker = %(worker)s AND attempt = %(attempt)s"
        values |= _token(held)
    else:
        where = "worker = %(worker)s"
        values["worker"] = held
    given_back = session.change(
        "UPDATE $work SET worker = NULL, leased_until = NULL, cause = %(cause)s, excused = excused + %(excused)s"  # noqa: S608
        f" WHERE {where}",
        values,
    )
    if given_back:
        hints.tell_of_work(session)


def _hold(session: Session, lease: Lease) -> _Held | None:
    """Lock the job and the work of a lease; None if the lease is lost."""
    held = session.row(_HOLD, _token(lease))
    return None if held is None else _Held(held[0], bool(held[1]))


def _go_on(session: Session, job_id: str, now: Instant, *, more: bool) -> bool:
    """If no work is left, queue the planning of the next round, or complete the job; whether the job was completed.

    The job is locked, so of several that finish its last slices one comes last, and sees that no work is left.
    """
    if session.row("SELECT 1 FROM $work WHERE job_id = %(job)s LIMIT 1", {"job": job_id}) is not None:
        return False
    if more:
        session.change(_OPEN_NEXT_ROUND, {"job": job_id, "slice": _PLANNING})
        hints.tell_of_work(session)
        return False
    session.change(_COMPLETE, {"job": job_id, "now": now})
    hints.tell_of_end(session, job_id)
    return True


def _span(now: Instant, lease_seconds: float) -> dict[str, object]:
    """The end of a lease and its length in microseconds."""
    until = after(now, lease_seconds)
    return {"until": until, "span": until - now}


def _place(lease: Lease) -> dict[str, object]:
    return {"job": lease.job.id, "slice": _PLANNING if lease.slice is None else lease.slice.number}


def _token(lease: Lease) -> dict[str, object]:
    return _place(lease) | {"worker": lease.worker, "attempt": lease.attempt}


def _job_and_slice(session: Session, known: KnownJobs, job_id: str, number: int) -> tuple[Job, Slice | None]:
    """A job and one of its slices, read after its work was locked, so that they are as the last attempt left them."""
    (record,) = session.rows(_JOB_AND_SLICE, {"job": job_id, "slice": number})
    job, piece = record[: len(JOB_FIELDS)], record[len(JOB_FIELDS) :]
    return (
        known.job(job),
        None if number == _PLANNING else slice_from_record(dict(zip(SLICE_FIELDS, piece, strict=True))),
    )
