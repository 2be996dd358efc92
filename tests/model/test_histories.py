"""The histories of the model, played with the real parts: both kinds of stores, the mount over ASGI, workers that die and stall.

Hypothesis chooses what happens next and where a process dies or stalls; after each step the laws are checked.
"""

import asyncio
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, BASE, ISSUER, House, job_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.events import Deleted, Event
from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.jobs.work import EXHAUSTED
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

FULL = "system/*.cruds"
JOB = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}
MANY, BATCH = 6, 2
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a history is about order, not about disks
MINT = TokenMint(ISSUER, AUDIENCE)


def deaths(*steps: str) -> st.SearchStrategy[tuple[str, str] | None]:
    """No death, or one before or after one of these steps."""
    return st.none() | st.tuples(st.sampled_from(["before", "after"]), st.sampled_from(steps))


class Died(BaseException):
    """The process ended here; nothing catches that."""


class Fate:
    """Where the process that acts now will die, and where the one that stalls waits."""

    def __init__(self) -> None:
        self.death: tuple[str, str] | None = None
        self.dead = False
        self.stalls = False
        self.stalled = asyncio.Event()
        self.wakes = asyncio.Event()

    async def meet(self, when: str, step: str) -> None:
        if self.stalls and (when, step) == ("before", "remove_batch"):
            self.stalls = False
            self.stalled.set()
            await self.wakes.wait()
            return
        if self.dead or self.death == (when, step):
            self.dead = True
            raise Died


def mortal(kind: type[Any], fate: Fate, steps: tuple[str, ...]) -> type[Any]:
    """The class, in which these steps meet their fate before and after."""

    def wrapped(name: str) -> Any:
        original = getattr(kind, name)

        async def step(self: Any, *args: Any, **more: Any) -> Any:
            await fate.meet("before", name)
            result = await original(self, *args, **more)
            await fate.meet("after", name)
            return result

        return step

    return type(f"Mortal{kind.__name__}", (kind,), {name: wrapped(name) for name in steps})


class Listener:
    """Keeps what it hears of deletes, by record."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[str, ...]] = {}

    async def observe(self, event: Event) -> None:
        if isinstance(event, Deleted):
            assert self.told.setdefault(event.record_id, event.references) == event.references, "a record is told as it was"


class Histories(RuleBasedStateMachine):
    """Memory stores; the SQLite ones below."""

    def stores(self, fate: Fate) -> tuple[Any, Any]:
        journal = ("remove_batch", "end_run", "unreported", "reported")
        queue = ("claim", "checkpoint", "replace", "release")
        return mortal(MemoryResourceStore, fate, journal)(), mortal(MemoryJobStore, fate, queue)()

    def reports(self) -> list[str]:
        return [id_ for report in self.resources._outbox._reports.values() for id_ in report.ids]

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.fate = Fate()
        self.resources, self.jobs = self.stores(self.fate)
        self.listener = mortal(Listener, self.fate, ("observe",))()
        limits = Settings(public_base_url=BASE, removal_batch=BATCH, poll_burst=10_000, attempts=3)
        self.house = House(MINT, STANDARD, limits, resources=self.resources, jobs=self.jobs, observers=[self.listener])
        self.sleeper: asyncio.Task[Any] | None = None
        self.answered: int | None = None
        self.final: int | None = None
        self.play(self._kick_off())

    async def _kick_off(self) -> None:
        for number in range(MANY):
            await self.resources.create("Observation", {"resourceType": "Observation", "status": "final"}, f"o{number}")
        answer = await self.house.ask("DELETE", "/Observation?status=final", scope=FULL, headers=JOB)
        assert answer.status_code == 202, answer.text
        self.location = answer.headers["Content-Location"]
        await self.house.bulk.engine.work.step("planner")

    def play(self, act: Coroutine[Any, Any, Any], death: tuple[str, str] | None = None) -> Any:
        """Act, and perhaps die of it; then two minutes pass, in which every lease of the dead runs out."""
        self.fate.death, self.fate.dead = death, False
        try:
            return self.runner.run(act)
        except Died:
            self.house.clock.advance(120)
            return None
        finally:
            self.fate.death, self.fate.dead = None, False

    async def _gone(self) -> set[str]:
        living = (await self.resources.search("Observation", ids=None, count=99, after=None)).resources
        return {f"o{number}" for number in range(MANY)} - {stored.id for stored in living}

    def gone(self) -> set[str]:
        return set(self.runner.run(self._gone()))

    # --- what happens

    @rule(death=deaths("claim", "remove_batch", "unreported", "observe", "reported", "checkpoint"))
    def work(self, death: tuple[str, str] | None) -> None:
        assert self.house.bulk.engine is not None
        self.play(self.house.bulk.engine.work.step("worker"), death)

    @precondition(lambda self: self.sleeper is None)
    @rule()
    def stall(self) -> None:
        """A worker claims a batch and then does nothing for a long time."""
        self.fate.stalls, self.fate.stalled, self.fate.wakes = True, asyncio.Event(), asyncio.Event()

        async def until_it_stalls() -> None:
            task = asyncio.create_task(self.house.bulk.engine.work.step("sleeper"))
            waits = asyncio.create_task(self.fate.stalled.wait())
            await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            self.sleeper = None if task.done() else task

        self.play(until_it_stalls())
        self.fate.stalls = False
        self.house.clock.advance(120)

    @precondition(lambda self: self.sleeper is not None)
    @rule()
    def wake(self) -> None:
        async def to_its_end() -> None:
            assert self.sleeper is not None
            self.fate.wakes.set()
            await self.sleeper

        self.play(to_its_end())
        self.sleeper = None

    @rule(death=deaths("end_run", "observe", "replace"))
    def cancel(self, death: tuple[str, str] | None) -> None:
        answer = self.play(self.house.ask("DELETE", self.location, scope=FULL), death)
        if answer is not None:
            assert answer.status_code in {202, 404}, answer.text
            self.ended(answer)

    @rule(death=deaths("unreported", "observe", "end_run", "replace"))
    def sweep(self, death: tuple[str, str] | None) -> None:
        self.play(self.house.bulk.retention.sweep(), death)

    @rule()
    def let_the_deadline_pass(self) -> None:
        self.house.clock.advance(self.house.settings.deadline)

    @rule(death=deaths("end_run", "observe"))
    def poll(self, death: tuple[str, str] | None) -> None:
        answer = self.play(self.house.ask("GET", self.location, scope=FULL), death)
        if answer is None:
            return
        assert answer.status_code in {200, 202, 404, 500}, answer.text
        if answer.status_code == 200:
            told = Counter(entry["fullUrl"].rsplit("/", 1)[1] for entry in answer.json()["entry"])
            assert told == Counter(f"o{number}" for number in range(MANY)), "law 35: a result is whole"
        if answer.status_code in {404, 500}:
            self.ended(answer)

    def ended(self, answer: httpx2.Response) -> None:
        """A client was told that the job has ended: from now on nothing is removed, and each tally is the same."""
        now = len(self.gone())
        found = re.search(r"(\d+) resources were deleted, 0 were left alone\.", json.dumps(answer.json()))
        assert found is None or int(found[1]) == now, f"law 26: {answer.text}, and {now} are gone"
        self.answered = now if self.answered is None else self.answered

    # --- what holds

    @invariant()
    def law_36_an_end_is_final(self) -> None:
        gone = len(self.gone())
        assert self.answered is None or gone == self.answered, "removed after the answer"
        job = self.runner.run(self.jobs.find(job_of(self.location), self.house.bulk.mount, Owner(ISSUER, "alice")))
        if job.state is JobState.CANCELLED or (job.state is JobState.FAILED and job.failure != EXHAUSTED):
            self.final = gone if self.final is None else self.final
            assert gone == self.final, "removed after the state has changed"

    @invariant()
    def law_37_every_removal_is_recorded(self) -> None:
        told = {reference.rsplit("/", 1)[1] for references in self.listener.told.values() for reference in references}
        gone = self.gone()
        assert told <= gone
        assert gone <= told | set(self.reports()), "removed, and neither told nor recorded"

    def teardown(self) -> None:
        """Whatever has happened: once all that lives has come by, the audit has all that is gone, each once."""
        if not hasattr(self, "location"):
            return
        if self.sleeper is not None:
            self.wake()
        self.house.clock.advance(self.house.settings.deadline + 120)
        self.play(self.house.bulk.retention.sweep())
        self.law_36_an_end_is_final()
        told = Counter(reference for references in self.listener.told.values() for reference in references)
        assert told == Counter(f"Observation/{id_}" for id_ in self.gone())
        self.close()
        self.runner.close()

    def close(self) -> None:
        """Close the stores."""


class SQLiteHistories(Histories):
    """The same in SQLite, job store and journal in two databases."""

    def stores(self, fate: Fate) -> tuple[Any, Any]:
        self.folder = Path(tempfile.mkdtemp(dir=FOLDER))
        journal = ("remove_batch", "end_run", "unreported", "reported")
        queue = ("claim", "checkpoint", "replace", "release")
        resources = mortal(SQLiteResourceStore, fate, journal)(self.folder / "resources.db")
        return resources, mortal(SQLiteJobStore, fate, queue)(self.folder / "jobs.db")

    def reports(self) -> list[str]:
        rows = self.resources._database.reader.execute("SELECT ids FROM report").fetchall()
        return [id_ for (ids,) in rows for id_ in json.loads(ids)]

    def close(self) -> None:
        self.resources.close()
        self.jobs.close()
        shutil.rmtree(self.folder)


TestMemory = Histories.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=20)
TestSQLite = SQLiteHistories.TestCase
TestSQLite.settings = settings(max_examples=15, stateful_step_count=20)
pytestmark = pytest.mark.timeout(600)
