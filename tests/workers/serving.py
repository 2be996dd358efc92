"""A server process of its own, that only keeps workers: `python serving.py STATE ADAPTER_FOLDER COUNT GATE`."""

import signal
import sys
from pathlib import Path

import anyio
from listed import Remade

from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.workers.runner import ProcessRunner

SETTINGS = Settings(page_bytes=1024, part_bytes=4096, renew_seconds=0.1, lease_seconds=0.6, worker_processes=2)


def work_in(state: Path, resources: Remade) -> JobWork:
    return job_work(resources, SQLiteJobStore(state / "jobs.db"), FileOutputStore(state / "exports"), SETTINGS)


async def main() -> None:
    state, folder, count, gate = sys.argv[1:]
    work = work_in(Path(state), Remade(folder, int(count), int(gate)))
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with ProcessRunner(state, SETTINGS).running(work):
            sys.stdout.write("running\n")
            sys.stdout.flush()
            async for _ in signals:
                return


if __name__ == "__main__":
    anyio.run(main)
