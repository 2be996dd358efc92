"""A process that forks after its job store was used: `python forking.py PATH`. Prints what parent and child have to say."""

import asyncio
import os
import sys
from pathlib import Path

from fhir_bulk_middleware.smart.replay import SQLiteReplayLog
from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.job_values import NOW, ROWS, a_job, added, found, hour


class Stores:
    def __init__(self, path: str) -> None:
        self.jobs = SQLiteJobStore(f"{path}/jobs.db")
        self.resources = SQLiteResourceStore(Path(path, "store.db"))
        self.used = SQLiteReplayLog(f"{path}/used.db")
        self.log = SQLiteDeletionLog(f"{path}/log.db")

    async def use(self, who: str) -> None:
        job = await added(self.jobs, a_job(), ROWS)
        assert await found(self.jobs, job) == job
        await self.resources.create("Patient", {"resourceType": "Patient", "id": who}, who)
        assert await self.resources.read("Patient", who) is not None
        assert await self.used.first_use("client", who, hour(1), NOW)
        assert not await self.log.ended(who)
        await self.log.end_run(who)
        assert await self.log.ended(who)

    def close(self) -> None:
        for store in (self.jobs, self.resources, self.used, self.log):
            store.close()


def main() -> None:
    stores = Stores(sys.argv[1])
    asyncio.run(stores.use("before"))
    to_child, to_parent = os.pipe(), os.pipe()
    if child := os.fork():
        asyncio.run(stores.use("parent"))
        os.read(to_parent[0], 1)  # the child has used them too
        stores.close()  # it would take the logs along, if nobody else had the files open
        os.write(to_child[1], b"!")
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    asyncio.run(stores.use("child"))
    os.write(to_parent[1], b"!")
    os.read(to_child[0], 1)
    asyncio.run(stores.use("child-again"))
    stores.close()
    os._exit(0)


if __name__ == "__main__":
    main()
