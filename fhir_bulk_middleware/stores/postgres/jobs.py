"""Jobs in PostgreSQL, shared by any number of processes on any number of machines."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.figures import Census
from fhir_bulk_middleware.contract.job import Codec, Former, Job, Part, Slice, Standing
from fhir_bulk_middleware.contract.job_record import (
    JOB_FIELDS,
    PART_FIELDS,
    SLICE_FIELDS,
    job_record,
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
from fhir_bulk_middleware.stores.postgres import hints
from fhir_bulk_middleware.stores.postgres import work_queue as work
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.schema import job_tables
from fhir_bulk_middleware.stores.postgres.session import Session, options
from fhir_bulk_middleware.stores.postgres.texts import digest

__all__ = ["PostgresJobStore"]

_WORKERS_PATIENCE = 60.0

_LATEST = 2**63 - 1
"""Later than every instant."""

_COLUMNS = ", ".join(JOB_FIELDS)
_FIND = f"SELECT {_COLUMNS} FROM $job WHERE id = %(id)s AND place_key = %(place)s"  # noqa: S608 - constants of ours only
_SAME_KEY = f"""
    SELECT {_COLUMNS} FROM $job WHERE place_key = %(place_key)s AND idempotency_key = %(idempotency_key)s
        AND state NOT IN ('cancelled', 'expired')
"""  # noqa: S608
_WORKING = """
    SELECT count(*) FROM $job
    WHERE owner_key = %(owner_key)s AND adapter_key = %(adapter_key)s AND state IN ('queued', 'running')
"""
_LOCK_OWNER = "INSERT INTO $turn (owner_key) VALUES (%(owner)s) ON CONFLICT (owner_key) DO UPDATE SET served = turn.served"
_PARTS = f"SELECT {', '.join(PART_FIELDS)} FROM $part WHERE job_id = %(id)s ORDER BY slice, number"  # noqa: S608
_PART = f"SELECT {', '.join(PART_FIELDS)} FROM $part WHERE job_id = %(id)s AND file_id = %(file)s"  # noqa: S608
_UNFINISHED = "SELECT min(slice) FROM $work WHERE job_id = %(id)s AND slice >= 0"
_REPLACE = """
    UPDATE $job SET revision = revision + 1, state = %(state)s, changed_at = %(changed_at)s, kept_for = %(kept_for)s,
        cut = %(cut)s, codec = %(codec)s, estimate = %(estimate)s, done = greatest(done, %(done)s), reason = %(reason)s,
        detail = %(detail)s, request = %(request)s, idempotency_key = %(idempotency_key)s, fingerprint = %(fingerprint)s
    WHERE id = %(id)s AND revision = %(revision)s
"""
_DUE = {
    step: f"SELECT {_COLUMNS} FROM $job WHERE adapter_key = %(adapter)s AND {condition}, sequence LIMIT %(limit)s"  # noqa: S608
    for step, condition in {
        Due.FAIL: "state IN ('queued', 'running') AND created_at < %(before)s ORDER BY created_at",
        Due.EXPIRE: "state IN ('completed', 'failed') AND changed_at + kept_for < %(before)s ORDER BY changed_at + kept_for",
        Due.RECLAIM: "state IN ('cancelled', 'expired', 'failed') AND NOT reclaimed AND changed_at < %(before)s"
        " ORDER BY changed_at",
        Due.FORGET: "state IN ('cancelled', 'expired') AND reclaimed AND changed_at < %(before)s ORDER BY changed_at",
    }.items()
}
_NEWEST = "(created_at, id) < (%(after_at)s, %(after_id)s) ORDER BY created_at DESC, id DESC LIMIT %(limit)s"
_LISTED = f"""
    SELECT {_COLUMNS} FROM $job
    WHERE place_key = %(place)s AND state IN ('queued', 'running', 'completed', 'failed') AND {_NEWEST}
"""  # noqa: S608
_KEPT = f"SELECT {_COLUMNS} FROM $job WHERE adapter_key = %(adapter)s AND {_NEWEST}"  # noqa: S608
_KEPT_ONE = f"SELECT {_COLUMNS} FROM $job WHERE id = %(job_id)s AND adapter_key = %(adapter)s AND {_NEWEST}"  # noqa: S608
_CENSUS = """
    SELECT state, count(*), min(created_at) FROM $job
    WHERE adapter_key = %(adapter)s AND state IN ('queued', 'running') GROUP BY state
"""
_KEPT_BYTES = """
    SELECT coalesce(sum(stored), 0)::bigint FROM (
        SELECT max(stored_size) AS stored FROM $part WHERE job_id IN (
            SELECT id FROM $job WHERE adapter_key = %(adapter)s AND state IN ('queued', 'running', 'completed')
            UNION ALL
            SELECT id FROM $job
            WHERE adapter_key = %(adapter)s AND NOT reclaimed AND state IN ('cancelled', 'expired', 'failed')
        ) GROUP BY written_as
    ) AS kept
"""
_NEWEST_OF = """
    SELECT DISTINCT ON (slice.cache_key) slice.cache_key, job.id FROM $slice AS slice JOIN $job AS job ON job.id = slice.job_id
    WHERE slice.cache_key = ANY(%(cache_keys)s) AND job.state = 'completed'
    ORDER BY slice.cache_key, job.created_at DESC, job.id DESC
"""
_SLICES_OF = f"""
    SELECT job_id, {", ".join(SLICE_FIELDS)} FROM $slice
    WHERE job_id = ANY(%(jobs)s) AND cache_key = ANY(%(cache_keys)s) ORDER BY job_id, number
"""  # noqa: S608
_PARTS_OF = f"SELECT job_id, {', '.join(PART_FIELDS)} FROM $part WHERE job_id = ANY(%(jobs)s) ORDER BY job_id, slice, number"  # noqa: S608
_KEEPS_FILES = """
    SELECT id FROM $job
    WHERE id = ANY(%(ids)s) AND (adapter_key <> %(adapter)s OR state IN ('queued', 'running', 'completed'))
"""
_REGISTER = """
    INSERT INTO $registration (mount_key, content) VALUES (%(mount)s, %(content)s)
    ON CONFLICT (mount_key) DO UPDATE SET content = excluded.content
"""


class PostgresJobStore:
    """A `JobStore` in PostgreSQL 14 or later, for servers and workers on many machines (extra `postgres`).

    Every write that has returned is durable, if the server's `synchronous_commit` is not `off`. Threads, each with an event loop
    of its own, may share it, and worker processes open it by its recipe (`SupportsWorkerProcess`).

    The first use makes the tables, or brings them up to date; where the role of the servers may not do that, another role calls
    `migrate` before. A step that finds the server away is repeated for `patience` seconds and then refused as busy.

    Connections may go through PgBouncer in transaction pooling: then nothing is set for a session and nothing is prepared. Only
    hints need a session of their own (`listen`). On connections to the server itself statements that are repeated are prepared.

    Args:
        dsn: the connection string, as libpq reads it. What it leaves out comes from libpq's environment (`PGPASSWORD`,
            `PGPASSFILE`, `PGSERVICE`, ...), which workers inherit. A password in it is handed to workers through a pipe.
        schema: the schema of the database for our tables: lower-case letters, digits and underscores, at most 63. Several job
            stores in one database need different ones.
        connections: the number of connections of a server process, besides that for hints. A worker process has up to two.
        patience: seconds in which a server repeats a step. A worker takes a minute at least.
        listen: whether a server process keeps a further connection on which it hears of work and ended jobs on other machines.
            Without it workers and held polls look by themselves, within a second. Behind a pooler, give the DSN of the
            PostgreSQL server itself for it.
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
        connections: int = 4,
        patience: float = 5.0,
        listen: str | bool = True,
        blocking: bool = False,
    ) -> None:
        if connections < 1:
            raise ValueError("connections: a positive number is required")
        self._dsn = dsn
        self._tables = job_tables(schema)
        self._listening = None if listen is False else options(dsn if listen is True else listen)
        self._patience = patience
        self._connections = Connections(
            dsn, self._tables, at_most=connections, patience=patience, blocking=blocking, prepares=True
        )
        self._known = KnownJobs()
        self._rows = LastRows(self._connections.aside)

    def recipe(self) -> Recipe:
        """The same tables, blocking."""
        arguments: dict[str, JsonValue] = {
            "dsn": self._dsn,
            "schema": self._tables.schema,
            "patience": max(self._patience, _WORKERS_PATIENCE),
            "listen": False,
            "blocking": True,
        }
        return Recipe("fhir_bulk_middleware.stores.postgres.jobs:PostgresJobStore", arguments)

    def close(self) -> None:
        """Close the connections; new ones are opened when they are needed."""
        self._connections.close()

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date, now. Of several processes one does it, the others wait.

        Raises:
            RuntimeError: this role may not do that, or a newer release wrote the tables and this one cannot use them.
            Refused: `BUSY`: the server cannot be reached.
        """
        await self._connections.migrate()

    async def listen(self, *, work: Callable[[], None], ended: Callable[[str], None]) -> None:
        """See `SupportsHints`."""
        if self._listening is not None:
            await hints.listen(self._listening, self._tables.schema, work=work, ended=ended)

    async def registry(self) -> Registry:
        """See `JobStore.registry`."""
        return await self._connections.read(_registry)

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        """See `JobStore.register`."""
        await self._connections.write(partial(_register, registration=registration, admit=admit))

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """See `JobStore.add`."""
        content = await self._connections.aside(partial(rows_content, rows))
        return await self._connections.write(partial(_add, job=job, content=content, working_at_most=working_at_most))

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """See `JobStore.find`."""
        return await self._connections.read(partial(_find, known=self._known, job_id=job_id, place=_place_key(mount, owner)))

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        """See `JobStore.standing`."""
        step = partial(_standing, known=self._known, job_id=job_id, place=_place_key(mount, owner), file_id=file_id)
        return await self._connections.read(step, snapshot=True)

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        """See `JobStore.owned`."""
        return await self._listed(_LISTED, {"place": _place_key(mount, owner)}, after, limit)

    async def kept(self, *, after: ListPlace | None, limit: int, job_id: str | None = None, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.kept`."""
        read = _KEPT if job_id is None else _KEPT_ONE
        return await self._listed(read, {"adapter": digest(adapter), "job_id": job_id}, after, limit)

    async def census(self, *, adapter: str = "") -> Census:
        """See `SupportsCensus`. No index that it reads has an entry for a job that was ended and reclaimed."""
        return await self._connections.read(lambda session: _census(session, {"adapter": digest(adapter)}))

    async def _listed(self, text: str, of: Mapping[str, object], after: ListPlace | None, limit: int) -> Sequence[Job]:
        place = ListPlace(Instant(_LATEST), "") if after is None else after
        values = {**of, "after_at": place.created_at, "after_id": place.job_id, "limit": limit}
        return await self._connections.read(lambda session: _jobs(session, text, values))

    async def replace(self, job: Job) -> bool:
        """See `JobStore.replace`. The identity of a job is never rewritten, and `done` never falls."""
        return await self._connections.write(partial(_replace, job=job))

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.due`."""
        values = {"adapter": digest(adapter), "before": before, "limit": limit}
        return await self._connections.read(lambda session: _jobs(session, _DUE[step], values))

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """See `JobStore.keeps_files`."""
        values = {"ids": list(job_ids), "adapter": digest(adapter)}
        found = await self._connections.read(lambda session: session.rows(_KEEPS_FILES, values))
        return frozenset(job_id for (job_id,) in found)

    async def reclaimed(self, job_id: str) -> None:
        """See `JobStore.reclaimed`."""
        await self._connections.write(partial(_reclaimed, job_id=job_id))

    async def remove(self, job_id: str) -> None:
        """See `JobStore.remove`."""
        await self._connections.write(partial(_remove, job_id=job_id))

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        """See `JobStore.claim`. Where there is nothing to claim it is one short read.

        Claims at the same time take different work without waiting for each other. Owners take turns among them too: a claim
        passes over an owner whose turn another claim takes at that moment, unless there is no other work.
        """
        limit = work.CANDIDATES
        while jobs := await self._connections.read(partial(work.candidates, adapter=adapter, now=now, at_most=limit)):
            granted = await self._connections.write(
                partial(work.claim, known=self._known, jobs=jobs, worker=worker, now=now, lease_seconds=lease_seconds)
            )
            if granted is None:
                if len(jobs) < limit:
                    return None
                limit *= work.CANDIDATES
                continue
            rows = await self._rows.of(granted.job, partial(self._content, granted.job.id))
            if rows is not None:  # else the job was ended and reclaimed meanwhile, and its lease with it
                return granted.lease(worker, rows)
        self._rows.forget()
        return None

    async def backlog(self, now: Instant, at_most: int, *, adapter: str = "") -> int:
        """See `SupportsBacklog`."""
        return await self._connections.read(partial(work.backlog, adapter=adapter, now=now, at_most=at_most))

    async def _content(self, job_id: str) -> bytes | None:
        """The content of the rows of a job, None if it was reclaimed."""
        read = "SELECT content FROM $job_rows WHERE job_id = %(job)s"
        record = await self._connections.read(lambda session: session.row(read, {"job": job_id}))
        return None if record is None else record[0]

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """See `JobStore.renew`."""
        return await self._connections.write(partial(work.renew, lease=lease, now=now, lease_seconds=lease_seconds, done=done))

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        """See `JobStore.former`."""
        return await self._connections.read(partial(_former, cache_keys=cache_keys), snapshot=True)

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
        content = None if rows is None else await self._connections.aside(partial(rows_content, rows))
        return await self._connections.write(
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
        return await self._connections.write(
            partial(work.checkpoint, lease=lease, parts=parts, cursor=cursor, now=now, done=done, finished=finished)
        )

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        """See `JobStore.release`."""
        await self._connections.write(partial(work.release, held=held, cause=cause, excused=excused))


def _owner_key(owner: Owner) -> bytes:
    return digest(owner.issuer, owner.subject, owner.client or "")


def _place_key(mount: str, owner: Owner) -> bytes:
    """The digest of a mount and an owner: to whom a job answers (laws 7 and 10)."""
    return digest(mount, owner.issuer, owner.subject, owner.client or "")


def _registry(session: Session) -> Registry:
    return Registry(str(session.one("SELECT id FROM $store")), tuple(_registrations(session)))


def _register(session: Session, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
    session.row("SELECT 1 FROM $store FOR UPDATE")  # of several that register at once each sees those before it
    admit(_registrations(session))
    session.change(_REGISTER, {"mount": digest(registration.mount), "content": registration_content(registration)})


def _registrations(session: Session) -> list[Registration]:
    records = session.rows("SELECT content FROM $registration")
    return sorted((registration_from_content(content) for (content,) in records), key=lambda each: each.mount)


def _jobs(session: Session, text: str, values: Mapping[str, object]) -> list[Job]:
    return [read_job(record) for record in session.rows(text, values)]


def _census(session: Session, values: Mapping[str, object]) -> Census:
    counts = {state: (count, oldest) for state, count, oldest in session.rows(_CENSUS, values)}
    queued, oldest_queued = counts.get("queued", (0, None))
    running, _ = counts.get("running", (0, None))
    return Census(queued=queued, running=running, oldest_queued=oldest_queued, kept_bytes=session.one(_KEPT_BYTES, values))


def _part(record: tuple[Any, ...]) -> Part:
    return part_from_record(dict(zip(PART_FIELDS, record, strict=True)))


def _find(session: Session, known: KnownJobs, job_id: str, place: bytes) -> Job | None:
    record = session.row(_FIND, {"id": job_id, "place": place})
    return None if record is None else known.job(record)


def _standing(session: Session, known: KnownJobs, job_id: str, place: bytes, file_id: str | None) -> Standing | None:
    job = _find(session, known, job_id, place)
    if job is None:
        return None
    unfinished = session.one(_UNFINISHED, {"id": job_id})
    if file_id is not None:
        return Standing(job, tuple(map(_part, session.rows(_PART, {"id": job_id, "file": file_id}))), unfinished)
    slices = session.one("SELECT count(*) FROM $slice WHERE job_id = %(id)s", {"id": job_id})
    return Standing(job, tuple(map(_part, session.rows(_PARTS, {"id": job_id}))), unfinished, slices)


def _former(session: Session, cache_keys: Collection[str]) -> list[Former]:
    newest: dict[str, str] = dict(session.rows(_NEWEST_OF, {"cache_keys": list(cache_keys)}))
    of = {"jobs": sorted(set(newest.values())), "cache_keys": list(cache_keys)}
    parts: dict[tuple[str, int], list[Part]] = {}
    for job_id, *record in session.rows(_PARTS_OF, of):
        part = _part(tuple(record))
        parts.setdefault((job_id, part.slice), []).append(part)
    found = []
    for job_id, *record in session.rows(_SLICES_OF, of):
        piece = slice_from_record(dict(zip(SLICE_FIELDS, record, strict=True)))
        if piece.cache_key is not None and newest.get(piece.cache_key) == job_id:
            found.append(Former(piece, tuple(parts.get((job_id, piece.number), ()))))
    return found


def _add(session: Session, job: Job, content: bytes, working_at_most: int) -> Job | None:
    record = job_record(job) | {
        "owner_key": _owner_key(job.owner),
        "place_key": _place_key(job.mount, job.owner),
        "adapter_key": digest(job.adapter),
    }
    session.change(_LOCK_OWNER, {"owner": record["owner_key"]})
    if job.idempotency is not None and (kept := session.row(_SAME_KEY, record)) is not None:
        return read_job(kept)
    if session.one(_WORKING, record) >= working_at_most:
        return None
    session.insert("job", [record])
    session.insert("job_rows", [{"job_id": job.id, "content": content}])
    work.open_planning(session, job)
    return job


def _replace(session: Session, job: Job) -> bool:
    if session.change(_REPLACE, job_record(job)) == 0:
        return False
    if not job.state.working:  # all leases on it are lost with the same commit (law 18)
        session.change("DELETE FROM $work WHERE job_id = %(id)s", {"id": job.id})
        hints.tell_of_end(session, job.id)
    return True


def _reclaimed(session: Session, job_id: str) -> None:
    of = {"id": job_id}
    ended = "UPDATE $job SET reclaimed = true WHERE id = %(id)s AND state IN ('cancelled', 'expired', 'failed')"
    if session.change(ended, of):  # also if the caller is mistaken, a job with a result keeps it
        session.change("DELETE FROM $part WHERE job_id = %(id)s", of)
        session.change("DELETE FROM $slice WHERE job_id = %(id)s", of)
        session.change("DELETE FROM $job_rows WHERE job_id = %(id)s", of)


def _remove(session: Session, job_id: str) -> None:
    owner = session.row("SELECT owner_key FROM $job WHERE id = %(id)s", {"id": job_id})
    if owner is None:
        return
    of = {"owner": owner[0]}
    session.change(_LOCK_OWNER, of)
    session.change("DELETE FROM $job WHERE id = %(id)s", {"id": job_id})  # its rows in all other tables go with it
    if session.row("SELECT 1 FROM $job WHERE owner_key = %(owner)s LIMIT 1", of) is None:
        session.change("DELETE FROM $turn WHERE owner_key = %(owner)s", of)
