"""Each thing that can break ends in a clear state and a clear message; space is given back, and other jobs go on."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from house import BASE, ISSUER, KICK_OFF, HandClock, HandRunner, job_of
from listed import Listed, observation

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.job import Part
from fhir_bulk_middleware.contract.output_store import OutputSink
from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.database import DatabaseBusy
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore

pytestmark = pytest.mark.anyio

ATTEMPTS = 3
COULD_NOT = "The export could not be finished: one of its steps failed each time that it was tried."
TOO_LONG = "The export took longer than this server lets one take."


class Trusting:
    async def verify(self, token: str) -> Principal:
        return Principal(owner=Owner(ISSUER, token), scopes=("system/*.rs",), expires_at=Instant(2**62))


class Trouble:
    """What breaks, for which type, where, and how often; -1 for ever."""

    def __init__(self) -> None:
        self.error: Callable[[], Exception] | None = None
        self.place = ""
        self.times = 0
        self.hit = 0

    def strike(self, place: str) -> None:
        if self.error is None or place != self.place or not self.times:
            return
        self.times -= 1
        self.hit += 1
        raise self.error()


class Adapter(Listed):
    """Sixty observations, some pages; the trouble comes with the second page. And sixty conditions without trouble."""

    def __init__(self, trouble: Trouble) -> None:
        lines = [observation(number) for number in range(60)]
        super().__init__({"Observation": lines, "Condition": [line.replace("Observation", "Condition") for line in lines]})
        self._trouble = trouble
        self.hangs = False
        self.hanging = anyio.Event()

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        number = 0
        async for page in super().pages(query, after):
            number += 1
            if number == 2 and query.type == "Observation":
                self._trouble.strike("adapter")
                if self.hangs:
                    self.hanging.set()
                    await anyio.sleep_forever()
            yield page


class Outputs(FileOutputStore):
    """A folder that breaks, but not for conditions."""

    def __init__(self, folder: Path, trouble: Trouble) -> None:
        super().__init__(folder)
        self._trouble = trouble
        self.spared: str | None = None

    @asynccontextmanager
    async def _create(self, key: str) -> AsyncIterator[OutputSink]:
        if not self.spares(key):
            self._trouble.strike("create")
        async with super().create(key) as sink:
            yield sink if self.spares(key) else _Sink(sink, self._trouble)

    def create(self, key: str) -> AbstractAsyncContextManager[OutputSink]:  # type: ignore[override]
        return self._create(key)

    def spares(self, key: str) -> bool:
        return self.spared is not None and key.startswith(self.spared)


class _Sink:
    def __init__(self, sink: OutputSink, trouble: Trouble) -> None:
        self._sink = sink
        self._trouble = trouble

    async def write(self, data: bytes) -> None:
        await self._sink.write(data[: len(data) // 2])
        self._trouble.strike("write")
        await self._sink.write(data[len(data) // 2 :])

    async def seal(self) -> None:
        self._trouble.strike("seal")
        await self._sink.seal()
        self._trouble.strike("sealed")


class Jobs(SQLiteJobStore):
    """A job store that is away now and then."""

    trouble: Trouble

    async def checkpoint(self, *given: Any, **more: Any) -> Any:
        self.trouble.strike("checkpoint")
        return await super().checkpoint(*given, **more)

    async def plan(self, *given: Any, **more: Any) -> Any:
        self.trouble.strike("plan")
        return await super().plan(*given, **more)


class Bench:
    """A server with trouble."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble = Trouble()
        self.clock = HandClock()
        self.runner = HandRunner()
        self.jobs = Jobs(folder / "jobs.db")
        self.jobs.trouble = self.trouble
        self.outputs = Outputs(folder / "exports", self.trouble)
        self.adapter = Adapter(self.trouble)
        settings = Settings(
            public_base_url=BASE,
            page_bytes=1024,
            part_bytes=2048,
            attempts=ATTEMPTS,
            renew_seconds=0.001,
            lease_seconds=1,
            deadline=3_600,
        )
        self.bulk = BulkData(
            resources=self.adapter,
            verifier=Trusting(),
            jobs=self.jobs,
            outputs=self.outputs,
            runner=self.runner,
            settings=settings,
            clock=self.clock,
        )
        transport = httpx2.ASGITransport(self.bulk.app)
        self.client = httpx2.AsyncClient(
            transport=transport, base_url="https://ehr.example", headers={"Authorization": "Bearer alice", **KICK_OFF}
        )

    async def parts(self, location: str) -> tuple[Part, ...]:
        standing = await self.jobs.standing(job_of(location), self.bulk.mount, Owner(ISSUER, "alice"))
        return () if standing is None else standing.parts

    async def kick_off(self, type_: str) -> str:
        answer = await self.client.get(f"/$export?_type={type_}")
        assert answer.status_code == 202, answer.text
        location = urlsplit(answer.headers["Content-Location"]).path.removeprefix("/fhir")
        if type_ == "Condition":
            self.outputs.spared = job_of(location)
        return location

    async def files(self, location: str) -> list[bytes]:
        manifest = (await self.client.get(location)).json()
        paths = [urlsplit(item["url"]).path.removeprefix("/fhir") for item in manifest["output"]]
        return [(await self.client.get(path)).content for path in paths]

    def lying(self) -> set[str]:
        """Every file and folder below the output folder."""
        folder = self.folder / "exports"
        return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.is_dir() else set()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    async with bench.bulk.running(), bench.client:
        yield bench
    bench.jobs.close()


def _os_error(number: int) -> Callable[[], Exception]:
    return lambda: OSError(number, os.strerror(number))


FAULTS: dict[str, tuple[str, Callable[[], Exception]]] = {
    "the disk is full while a part is written": ("write", _os_error(errno.ENOSPC)),
    "the disk is full when a part is sealed": ("seal", _os_error(errno.ENOSPC)),
    "the quota is used up": ("write", _os_error(errno.EDQUOT)),
    "the folder is read-only": ("create", _os_error(errno.EROFS)),
    "the folder belongs to somebody else": ("create", _os_error(errno.EACCES)),
    "the disk breaks": ("seal", _os_error(errno.EIO)),
    "power of the record is lost after the seal": ("sealed", _os_error(errno.EIO)),
    "the database is locked at a checkpoint": ("checkpoint", DatabaseBusy),
    "the database is locked at the plan": ("plan", DatabaseBusy),
    "the adapter raises in the middle": ("adapter", lambda: LookupError("secret: table patients")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_breaks_for_a_moment_changes_nothing(bench: Bench, fault: str) -> None:
    calm = await bench.kick_off("Observation")
    await bench.runner.finish()
    expected = await bench.files(calm)
    bench.trouble.place, bench.trouble.error = FAULTS[fault]
    bench.trouble.times = ATTEMPTS - 1

    location = await bench.kick_off("Observation")
    await bench.runner.finish()

    assert bench.trouble.hit == ATTEMPTS - 1
    assert await bench.files(location) == expected
    assert len(expected) > 2
    names = {name for name in bench.lying() if name.startswith(f"{job_of(location)}/")}
    assert names == {part.key for part in await bench.parts(location)}, "nothing is left beside the result"


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_stays_broken_fails_its_job_clearly_and_no_other(bench: Bench, fault: str) -> None:
    bench.trouble.place, bench.trouble.error = FAULTS[fault]
    bench.trouble.times = ATTEMPTS if fault.startswith("the database") else -1

    location, other = await bench.kick_off("Observation"), await bench.kick_off("Condition")
    await bench.runner.finish()

    answer = await bench.client.get(location)
    assert answer.status_code == 500
    assert answer.json()["issue"][0]["diagnostics"] == COULD_NOT
    assert "secret" not in answer.text
    assert len(await bench.files(other)) > 2, "other jobs go on"
    await bench.bulk.retention.sweep()
    assert not any(name.startswith(job_of(location)) for name in bench.lying()), "space is given back"
    assert (await bench.client.get(location)).status_code == 500, "and it still says why"


async def test_a_folder_that_is_none_fails_the_job_clearly(bench: Bench) -> None:
    await bench.bulk.retention.sweep()  # the first one puts a file there
    (bench.folder / "exports").rename(bench.folder / "aside")
    (bench.folder / "exports").write_bytes(b"")

    location = await bench.kick_off("Observation")
    await bench.runner.finish()

    assert (await bench.client.get(location)).json()["issue"][0]["diagnostics"] == COULD_NOT


async def test_an_adapter_that_hangs_loses_its_job_at_the_deadline_and_no_other(bench: Bench) -> None:
    bench.adapter.hangs = True
    location, other = await bench.kick_off("Observation"), await bench.kick_off("Condition")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.runner.finish)
        await bench.adapter.hanging.wait()
        bench.clock.advance(3_601)
        await bench.bulk.retention.sweep()
    answer = await bench.client.get(location)

    assert answer.status_code == 500
    assert answer.json()["issue"][0]["diagnostics"] == TOO_LONG
    assert (await bench.client.get(other)).status_code in {200, 500}, "it ended, or was late for the same reason"
    bench.adapter.hangs = False
    third = await bench.kick_off("Observation")
    await bench.runner.finish()
    assert len(await bench.files(third)) > 2
    await bench.bulk.retention.sweep()
    assert not any(name.startswith(job_of(location)) for name in bench.lying()), "space is given back"


async def test_what_a_torn_write_left_beside_a_result_goes_when_the_job_completes(bench: Bench) -> None:
    location = await bench.kick_off("Observation")
    await bench.runner.step()
    folder = bench.folder / "exports" / job_of(location)
    folder.mkdir(parents=True)
    (folder / ".tmp-0-0.1.ndjson-dead").write_bytes(b"torn")
    (folder / "0-0.77.ndjson").write_bytes(b"sealed by a worker that died before it could say so")
    await bench.runner.finish()

    assert {path.name for path in folder.iterdir()} == {part.key.partition("/")[2] for part in await bench.parts(location)}
