"""What other processes do to a job store in PostgreSQL, for the tests to start them."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.testing.job_values import LEASE, MOUNT, NOW, OWNER


def claim_all(store: PostgresJobStore, worker: str) -> list[tuple[str, int | None]]:
    """Claim until there is nothing left, and say what was claimed."""

    async def claims() -> list[tuple[str, int | None]]:
        claimed = []
        while (lease := await store.claim(worker, NOW, lease_seconds=LEASE)) is not None:
            claimed.append((lease.job.id, None if lease.slice is None else lease.slice.number))
        return claimed

    return asyncio.run(claims())


def die_in_a_transaction(store: PostgresJobStore) -> None:
    """End every job, remove all work, and be killed before the commit."""

    def change(session: Session) -> None:
        session.change("UPDATE $job SET state = 'cancelled'")
        session.change("DELETE FROM $work")
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(store._connections.write(change))


def fork(store: PostgresJobStore, job_id: str) -> list[bool]:
    """Whether a child and then its parent find the job, after the parent has used the store."""

    def finds() -> bool:
        return asyncio.run(store.find(job_id, MOUNT, OWNER)) is not None

    assert finds()
    child = os.fork()
    if child == 0:
        os._exit(0 if finds() else 1)
    _, status = os.waitpid(child, 0)
    return [status == 0, finds()]


if __name__ == "__main__":
    action, dsn, schema, *more = sys.argv[1:]
    store = PostgresJobStore(dsn, schema=schema, patience=60, blocking=action != "fork")
    match action, more:
        case "claim", [worker]:
            sys.stdout.write(json.dumps(claim_all(store, worker)))
        case "die", []:
            die_in_a_transaction(store)
        case "fork", [job_id]:
            sys.stdout.write(json.dumps(fork(store, job_id)))
        case _:
            sys.exit(f"{Path(__file__).name}: claim DSN SCHEMA WORKER, die DSN SCHEMA, or fork DSN SCHEMA ID")
    store.close()
