"""What other processes do to a job store, for the tests to start them."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import LEASE, NOW


def claim_all(path: str, worker: str) -> list[tuple[str, int | None]]:
    """Claim until there is nothing left, and say what was claimed."""

    async def claims() -> list[tuple[str, int | None]]:
        store = SQLiteJobStore(path)
        claimed = []
        while (lease := await store.claim(worker, NOW, lease_seconds=LEASE)) is not None:
            claimed.append((lease.job.id, None if lease.slice is None else lease.slice.number))
        store.close()
        return claimed

    return asyncio.run(claims())


def die_in_a_transaction(path: str) -> None:
    """End every job, remove all work, and be killed before the commit."""

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("UPDATE job SET state = 'cancelled', request = request || hex(randomblob(10000000))")
        connection.execute("DELETE FROM slice")
        os.kill(os.getpid(), signal.SIGKILL)

    SQLiteJobStore(path)._database.write_here(change)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["claim", path, worker]:
            sys.stdout.write(json.dumps(claim_all(path, worker)))
        case ["die", path]:
            die_in_a_transaction(path)
        case _:
            sys.exit(f"{Path(__file__).name}: claim PATH WORKER, or die PATH")
