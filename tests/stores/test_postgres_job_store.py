"""What PostgreSQL adds to the promises of a job store: it is shared by machines, and its connections break (laws 18 and 30)."""

import asyncio
import json
import logging
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import anyio
import postgres_job_processes
import psycopg
import pytest
from cutting_proxy import Cut, CuttingProxy
from psycopg.conninfo import make_conninfo
from waiting import PATIENCE, until

from fhir_bulk_middleware.contract.job import Codec, JobState
from fhir_bulk_middleware.contract.job_store import SupportsHints
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.recipes import from_json, make
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    LEASE,
    MOUNT,
    NOW,
    OTHER,
    OWNER,
    ROWS,
    a_job,
    a_part,
    a_slice,
    added,
    claimed,
    found,
    sealed,
    started,
    together,
)

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

MANY = 5_000
"""Slices: each look at all of them would be seen."""

T = TypeVar("T")
StoreOn = Callable[..., PostgresJobStore]


@pytest.fixture
def superuser(postgres: str) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def proxy(postgres: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgres).running() as proxy:
        yield proxy


@pytest.fixture
def role(superuser: "psycopg.Connection[Any]", schema: str) -> Iterator[str]:
    """A role that may do nothing but connect."""
    name = f"r_{secrets.token_hex(6)}"
    superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'".encode())
    yield name
    superuser.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())
    superuser.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


async def _process(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = [sys.executable, postgres_job_processes.__file__, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return await anyio.run_process(program, stderr=None, check=False, env=environment)


# Commits whose connection is lost


async def _add(store: PostgresJobStore) -> None:
    job = a_job()
    assert await store.add(job, ROWS, working_at_most=1) == job
    assert await store.add(a_job(), ROWS, working_at_most=1) is None, "the job was kept once"
    assert await store.owned(MOUNT, OWNER, after=None, limit=9) == [job]


async def _claim(store: PostgresJobStore) -> None:
    lease = await store.claim("w", NOW, lease_seconds=LEASE)
    assert lease is not None
    assert (lease.attempt, lease.cause) == (1, None), "the work was given out once"
    assert await store.renew(lease, NOW, lease_seconds=LEASE, done=0)


async def _plan(store: PostgresJobStore, lease: Lease) -> None:
    assert await store.plan(lease, CUT, Codec.GZIP, [a_slice(0), a_slice(1)], NOW), "the plan counts as written"
    job = await found(store, lease.job)
    assert (job.state, job.revision) == (JobState.RUNNING, lease.job.revision + 1)
    assert job.estimate == a_slice(0).estimate + a_slice(1).estimate


async def _checkpoint(store: PostgresJobStore, lease: Lease) -> None:
    parts = [a_part(lease.job, 0, 0)]
    assert await store.checkpoint(lease, parts, None, NOW, done=7, finished=True) is Recorded.COMPLETED
    job = await found(store, lease.job)
    assert (job.state, job.done) == (JobState.COMPLETED, 7)
    assert await sealed(store, job) == parts


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER], ids=lambda cut: cut.name)
async def test_a_commit_whose_answer_is_lost_is_made_once(store_on: StoreOn, proxy: CuttingProxy, cut: Cut) -> None:
    """Also if it was lost before it reached the server."""
    cautious = store_on(proxy.dsn)
    await cautious.registry()  # makes the tables

    async def when_cut(step: Awaitable[None]) -> None:
        before = proxy.made
        proxy.cuts = [cut]
        await step
        assert proxy.made == before + 1

    await when_cut(_add(cautious))
    await when_cut(_claim(cautious))
    await cautious.release("w", "enough")
    lease = await claimed(cautious)
    await when_cut(_plan(cautious, lease))
    first, second = await claimed(cautious), await claimed(cautious)
    await cautious.checkpoint(second, [], None, NOW, done=0, finished=True)
    await when_cut(_checkpoint(cautious, first))
    other = await added(cautious, a_job(OTHER))
    proxy.cuts = [cut]
    assert await cautious.replace(other.cancelled(NOW)), "the cancel counts"
    assert (await found(cautious, other)).state is JobState.CANCELLED


async def test_connections_that_were_lost_meanwhile_are_not_noticed(
    store_on: StoreOn, postgres: str, schema: str, superuser: "psycopg.Connection[Any]"
) -> None:
    store = store_on(make_conninfo(postgres, application_name=schema))
    job = await added(store)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    assert superuser.execute(cut, [schema]).fetchall()
    assert await found(store, job) == job
    superuser.execute(cut, [schema])
    assert (await claimed(store)).job == job


async def test_a_server_that_is_away_is_busy_and_answers_again(
    store_on: StoreOn, proxy: CuttingProxy, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = store_on(make_conninfo(postgres, host="127.0.0.1", port=1), patience=0.2)
    job = a_job()
    for step in (
        away.registry(),
        away.find(job.id, MOUNT, OWNER),
        away.add(job, ROWS, working_at_most=1),
        away.claim("w", NOW, lease_seconds=LEASE),
        away.release("w", "gone"),
    ):
        with pytest.raises(Refused) as refused:
            await step
        assert (refused.value.reason, refused.value.retry_after) == (Reason.BUSY, 5)
    assert sum("PostgreSQL cannot answer" in record.message for record in caplog.records) == 1, "it is logged once"

    store = store_on(proxy.dsn, patience=2.0)
    await added(store, job)
    proxy.cuts = [Cut.BEFORE] * 100
    with pytest.raises(Refused):
        await store.replace(job.cancelled(NOW))
    proxy.cuts = []
    assert await found(store, job) == job, "what was refused as busy was not written"
    assert "PostgreSQL answers again" in caplog.text


async def test_too_many_connections_are_busy(
    store_on: StoreOn, postgres: str, role: str, superuser: "psycopg.Connection[Any]"
) -> None:
    superuser.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
    with pytest.raises(Refused) as refused:
        await store_on(make_conninfo(postgres, user=role, password="secret"), patience=0.2).registry()
    assert refused.value.reason is Reason.BUSY


async def test_a_server_keeps_to_its_number_of_connections(
    store_on: StoreOn, postgres: str, schema: str, superuser: "psycopg.Connection[Any]"
) -> None:
    store = store_on(make_conninfo(postgres, application_name=schema), connections=3)
    job = await added(store)
    assert await together(40, lambda _: store.find(job.id, MOUNT, OWNER)) == [job] * 40
    count = superuser.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [schema]).fetchone()
    assert count is not None
    assert 1 <= count[0] <= 3


async def test_a_lock_that_another_program_holds_does_not_stop_polls_and_idle_claims(
    store: PostgresJobStore, postgres: str, schema: str
) -> None:
    job = await started(store, 2)
    leases = [await claimed(store), await claimed(store)]
    with psycopg.connect(postgres) as other:
        other.execute(f"SET search_path TO {schema}".encode())
        other.execute("SELECT * FROM job, work FOR UPDATE")
        assert (await found(store, job)).state is JobState.RUNNING
        assert await store.claim("idle", NOW, lease_seconds=LEASE) is None
        later = NOW + int(LEASE * 1_000_000)
        assert await store.claim("late", type(NOW)(later), lease_seconds=LEASE) is None, "locked work is passed over"
    assert await store.checkpoint(leases[0], [], None, NOW, done=1, finished=True)


# Many processes


async def test_processes_that_claim_at_the_same_time_share_the_work_out(
    store: PostgresJobStore, postgres: str, schema: str
) -> None:
    await started(store, 30)
    await started(store, 30, a_job(OTHER))
    await added(store)
    done = await together(3, lambda number: _process("claim", postgres, schema, f"worker {number}"))
    outputs = [json.loads(process.stdout) for process in done]
    claims = [tuple(claim) for output in outputs for claim in output]
    assert len(claims) == len(set(claims)) == 61


async def test_a_process_killed_within_a_transaction_leaves_no_trace_and_no_lock(
    store: PostgresJobStore, postgres: str, schema: str
) -> None:
    job = await started(store, 2)
    lease = await claimed(store)
    assert (await _process("die", postgres, schema)).returncode == -9
    assert await found(store, job) == job
    assert await store.checkpoint(lease, [], "c", NOW, done=1, finished=True)
    assert (await claimed(store)).slice is not None


async def test_a_forked_process_opens_connections_of_its_own(store: PostgresJobStore, postgres: str, schema: str) -> None:
    job = await added(store)
    forked = await _process("fork", postgres, schema, job.id)
    assert json.loads(forked.stdout) == [True, True], "the child and then the parent find the job"


async def test_threads_with_loops_of_their_own_share_a_store(store: PostgresJobStore) -> None:
    job = await started(store, 20)

    async def work_off(worker: str) -> int:
        count = 0
        while (lease := await store.claim(worker, NOW, lease_seconds=LEASE)) is not None:
            assert await store.renew(lease, NOW, lease_seconds=LEASE, done=1)
            assert await store.checkpoint(lease, [], None, NOW, done=2, finished=True)
            count += 1
        return count

    with ThreadPoolExecutor(3) as threads:
        counts = list(threads.map(lambda worker: asyncio.run(work_off(worker)), ["a", "b", "c"]))
    assert sum(counts) == 20
    ended = await found(store, job)
    assert (ended.state, ended.done) == (JobState.COMPLETED, 40)


async def test_claims_at_the_same_time_serve_owners_in_turn(store: PostgresJobStore) -> None:
    """A claim passes over an owner whose turn another one takes."""
    await started(store, 50)
    await started(store, 2, a_job(OTHER))
    leases = await together(4, lambda number: store.claim(f"w{number}", NOW, lease_seconds=LEASE))
    leases += [await store.claim("w", NOW, lease_seconds=LEASE) for _ in range(2)]
    assert {lease.job.owner for lease in leases if lease} == {OWNER, OTHER}


async def test_a_recipe_opens_the_same_tables_in_a_worker(store: PostgresJobStore) -> None:
    assert isinstance(store, SupportsWorkerProcess)
    job = await added(store)
    recipe = store.recipe()
    again: Any = make(from_json({"factory": recipe.factory, "arguments": dict(recipe.arguments)}))
    assert (await claimed(again)).job == job
    again.close()


# The schema


async def test_many_processes_that_start_at_once_make_the_tables_once(store_on: StoreOn) -> None:
    registries = await together(6, lambda _: store_on().registry())
    assert len({registry.store_id for registry in registries}) == 1


async def test_a_newer_schema_is_used_if_it_says_that_it_is_compatible(
    store: PostgresJobStore, store_on: StoreOn, schema: str, superuser: "psycopg.Connection[Any]"
) -> None:
    job = await added(store)
    superuser.execute(f"SET search_path TO {schema}".encode())
    superuser.execute("INSERT INTO schema_version (version, code) VALUES (2, 1)")
    assert await found(store_on(), job) == job
    superuser.execute("INSERT INTO schema_version (version, code) VALUES (3, 2)")
    with pytest.raises(RuntimeError, match=r"newer release of this package \(version 3, for releases that know version 2"):
        await store_on().registry()


async def test_a_role_that_may_not_make_tables_uses_those_that_another_made(
    store_on: StoreOn, postgres: str, schema: str, role: str, superuser: "psycopg.Connection[Any]"
) -> None:
    least = make_conninfo(postgres, user=role, password="secret")
    with pytest.raises(RuntimeError, match=r"call PostgresJobStore\(\.\.\.\)\.migrate\(\) once"):
        await store_on(least).registry()
    await store_on().migrate()
    page = (Path(__file__).parents[2] / "examples" / "postgres.md").read_text()
    (grants,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    superuser.execute(grants.replace("SCHEMA fhir_bulk", f'SCHEMA "{schema}"').replace("TO fhir_bulk", f"TO {role}").encode())
    store = store_on(least)
    job = await started(store)
    assert await store.checkpoint(await claimed(store), [], None, NOW, done=1, finished=True) is Recorded.COMPLETED
    await store.remove(job.id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dsn": "host=here port"}, "dsn: "),
        ({"schema": 'x"; DROP TABLE job'}, "schema: "),
        ({"schema": ""}, "schema: "),
        ({"connections": 0}, "connections: "),
    ],
)
def test_wrong_arguments_are_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostgresJobStore(**{"dsn": "host=here"} | arguments)


async def test_without_durable_commits_the_log_warns(store_on: StoreOn, postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    """Law 30."""
    await store_on(make_conninfo(postgres, options="-csynchronous_commit=off")).registry()
    assert "synchronous_commit is off" in caplog.text


# Statements


async def test_a_poll_is_one_indexed_read_and_nothing_is_kept_in_the_session(
    store_on: StoreOn, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 19; a pooler may give each transaction another server connection."""
    statements: list[bytes] = []
    execute = psycopg.Connection.execute

    def noted(self: "psycopg.Connection[Any]", query: bytes, values: Any = None, **options: Any) -> Any:
        statements.append(query)
        return execute(self, query, values, **options)

    store = store_on(postgres)
    job = await added(store)
    monkeypatch.setattr(psycopg.Connection, "execute", noted)
    await found(store, job)
    (poll,) = statements
    assert poll.startswith(b"SELECT")

    def explained(session: Session) -> str:
        session.change("SET LOCAL enable_seqscan = off")  # a table with one row is not worth an index
        rows = session.rows(f"EXPLAIN {poll.decode()}", {"id": job.id, "place": b""})
        return "\n".join(line for (line,) in rows)

    assert "Index Scan using job_pkey" in await store._connections.write(explained)

    await started(store)
    await claimed(store)
    of_a_session = [text for text in statements if b"SET " in text and not text.strip().startswith((b"BEGIN", b"SET LOCAL"))]
    assert [text for text in of_a_session if b"UPDATE" not in text] == []
    assert not any(word in text for text in statements for word in (b"PREPARE", b"LISTEN", b"pg_advisory_lock"))


# Hints


@pytest.fixture
async def heard(store_on: StoreOn, postgres: str, schema: str) -> AsyncIterator[list[str]]:
    """What a server hears that does nothing itself."""
    listener = store_on(make_conninfo(postgres, application_name=f"{schema}_ear"))
    assert isinstance(listener, SupportsHints)
    heard: list[str] = []
    task = asyncio.create_task(listener.listen(work=lambda: heard.append("work"), ended=heard.append))
    await until(lambda: "work" in heard)  # it looks once when it begins to listen
    heard.clear()
    yield heard
    task.cancel()
    await asyncio.wait({task})


async def test_new_work_and_ended_jobs_are_heard_of(store: PostgresJobStore, heard: list[str]) -> None:
    job = await added(store)
    await until(lambda: heard == ["work"])
    heard.clear()
    assert await store.plan(await claimed(store), CUT, Codec.PLAIN, [a_slice(0)], NOW)
    await until(lambda: heard == ["work"])
    heard.clear()
    await store.checkpoint(await claimed(store), [], None, NOW, done=1, finished=True)
    await until(lambda: heard == [job.id])
    heard.clear()
    other = await added(store)
    assert await store.replace(other.cancelled(NOW))
    await until(lambda: heard == ["work", other.id])


async def test_who_listens_holds_no_snapshot_and_comes_back(
    store: PostgresJobStore, heard: list[str], schema: str, superuser: "psycopg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    """A snapshot would hold back vacuum, for as long as the server runs."""
    await added(store)
    await until(lambda: heard == ["work"])
    ear = f"FROM pg_stat_activity WHERE application_name = '{schema}_ear'"
    row = superuser.execute(f"SELECT state, backend_xmin, backend_xid {ear}".encode()).fetchone()
    assert row == ("idle", None, None)
    heard.clear()
    superuser.execute(f"SELECT pg_terminate_backend(pid) {ear}".encode())
    await until(lambda: "work" in heard)
    heard.clear()
    await added(store, a_job(OTHER))
    await until(lambda: "work" in heard)
    assert "hints from PostgreSQL are lost for a while" in caplog.text


async def test_a_step_that_waited_in_vain_for_a_connection_is_told(
    store_on: StoreOn, postgres: str, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_on(connections=1, patience=1)
    job = await added(store)
    with psycopg.connect(postgres) as other:
        other.execute(f'LOCK TABLE "{schema}".job IN ACCESS EXCLUSIVE MODE'.encode())
        first = asyncio.create_task(found(store, job))
        others = [asyncio.create_task(found(store, job)) for _ in range(3)]
        await asyncio.sleep(1.5)  # longer than their patience: nothing tells that it is over
    assert await first == job, "what has a connection gets its answer"
    for refused in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(refused, Refused)
        assert refused.reason is Reason.BUSY
    told = [record.message for record in caplog.records if "was given up" in record.message]
    assert len(told) == 1, "it is logged once"
    assert "waited 1 s for a connection to PostgreSQL (`connections` is 1)" in told[0]
    assert "more connections are needed" in told[0], "what to do"


async def test_a_server_that_is_reached_through_a_pooler_is_not_listened_to(
    store_on: StoreOn, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.invents = True
    heard: list[str] = []
    listening = store_on(proxy.dsn).listen(work=lambda: heard.append("work"), ended=heard.append)
    await asyncio.wait_for(listening, PATIENCE)
    assert heard == []
    assert "leads through a connection pooler" in caplog.text
    assert "listen=" in caplog.text, "what to do"


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_statement_that_is_repeated_is_prepared_unless_through_a_pooler(
    store_on: StoreOn, proxy: CuttingProxy, pooled: bool
) -> None:
    proxy.invents = pooled
    store = store_on(proxy.dsn, connections=1)
    job = await added(store)
    proxy.received.clear()
    for _ in range(40):
        assert await found(store, job) == job
    sent = proxy.received.count(b"SELECT id, mount")
    assert sent == 40 if pooled else 0 < sent < 10


async def test_a_plan_that_was_made_for_few_slices_serves_for_many(
    store_on: StoreOn, superuser: "psycopg.Connection[Any]", postgres: str, schema: str
) -> None:
    """A prepared statement keeps its plan until PostgreSQL looks how large the tables are, which may be a minute later."""
    store = store_on(make_conninfo(postgres, application_name=f"{schema}_worker"), connections=1)
    planner = store_on(make_conninfo(postgres, application_name=f"{schema}_planner"))
    several = 20
    await started(store, several)
    for table in ("job", "slice", "part", "work", "turn"):
        superuser.execute(f'ALTER TABLE "{schema}".{table} SET (autovacuum_enabled = off)'.encode())
        superuser.execute(f'VACUUM ANALYZE "{schema}".{table}'.encode())
    await _carry_out(store, several)  # the statements are prepared now, and have their plans
    await started(planner, MANY)
    planner.close()
    before = await _rows_read(superuser, schema, "planner")
    await _carry_out(store, several)
    store.close()
    read = await _rows_read(superuser, schema, "worker") - before
    assert several < read < several * MANY // 10


async def _carry_out(store: PostgresJobStore, slices: int) -> None:
    for _ in range(slices):
        lease = await claimed(store)
        assert lease.slice is not None
        assert await store.renew(lease, NOW, lease_seconds=LEASE, done=1)
        part = a_part(lease.job, lease.slice.number, 0)
        assert await store.checkpoint(lease, [part], None, NOW, done=2, finished=True)
        assert (await found(store, lease.job)).done > 0


async def _rows_read(superuser: "psycopg.Connection[Any]", schema: str, who: str) -> int:
    """How many rows of this schema PostgreSQL has looked at, with all of a store's whose connections are closed."""
    ended = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s)"
    await until(lambda: superuser.execute(ended, (f"{schema}_{who}",)).fetchone() == (True,))
    statement = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE schemaname = %s"
    ((read,),) = superuser.execute(statement, (schema,)).fetchall()
    return int(read)


async def test_without_listening_there_is_no_further_connection(store_on: StoreOn) -> None:
    await store_on(listen=False).listen(work=lambda: None, ended=lambda _: None)


def test_the_log_does_not_name_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = PostgresJobStore("postgresql://someone:topsecret@127.0.0.1:1/db", patience=3)
    with pytest.raises(Refused):
        asyncio.run(store.registry())
    store.close()
    assert "127.0.0.1" in caplog.text
    assert "topsecret" not in caplog.text
