import gzip
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs_of import EVERYTHING, MOUNT, OWNER, job
from listed import NOW, Complete, Listed, observation, patient
from waiting import PATIENCE

from fhir_bulk_middleware.contract.events import Event
from fhir_bulk_middleware.contract.job import Codec, FileKind, Job, JobState, Part
from fhir_bulk_middleware.contract.output_store import OutputSink
from fhir_bulk_middleware.contract.query import Compartments, Deletions, Page, Query, Rows, Selection, Window
from fhir_bulk_middleware.files import deflate
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jobs.work import EXHAUSTED, JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.testing.job_values import sealed

SMALL = Settings(page_bytes=1024, part_bytes=4096, slice_bytes=65536, renew_seconds=0.001, lease_seconds=10)
LINES = {"Observation": [observation(number) for number in range(7)], "Patient": [patient("1"), patient("2")]}


@dataclass
class WorkBench:
    """A job store, an output store and the time."""

    resources: Listed
    settings: Settings = SMALL
    now: Instant = NOW
    jobs: MemoryJobStore = field(default_factory=MemoryJobStore)
    outputs: MemoryOutputStore = field(default_factory=MemoryOutputStore)

    def work(self, resources: Listed | None = None) -> JobWork:
        return job_work(resources or self.resources, self.jobs, self.outputs, self.settings, lambda: self.now)

    async def add(self, *types: str, window: Window = Window(), selection: Selection = EVERYTHING) -> Job:  # noqa: B008
        made = job(*(types or ("Observation", "Patient")), window=window, created_at=self.now)
        assert await self.jobs.add(made, Rows(selection), working_at_most=10)
        return made

    async def run(self, work: JobWork | None = None) -> None:
        work = work or self.work()
        while await work.step("worker"):
            pass

    async def state(self, made: Job) -> Job:
        found = await self.jobs.find(made.id, MOUNT, OWNER)
        assert found is not None
        return found

    async def files(self, made: Job) -> dict[str, bytes]:
        return {part.file_id: await self.text(part) for part in await sealed(self.jobs, made)}

    async def text(self, part: Part) -> bytes:
        return b"".join([chunk async for chunk in PartReader(self.outputs, part).read(0, part.size)])


def text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.anyio
@pytest.mark.parametrize("adapter", [Listed, Complete])
async def test_an_export_holds_each_resource_once_in_the_adapters_order(adapter: type[Listed]) -> None:
    bench = WorkBench(adapter(LINES))
    made = await bench.add()
    await bench.run()
    parts = await sealed(bench.jobs, made)
    for name, lines in LINES.items():
        assert b"".join([await bench.text(part) for part in parts if part.type == name]) == text(lines)
    ended = await bench.state(made)
    assert (ended.state, ended.done, ended.failure) == (JobState.COMPLETED, 9, None)


@pytest.mark.anyio
async def test_a_part_is_sealed_before_the_page_that_would_make_it_too_large() -> None:
    bench = WorkBench(Listed({"Observation": [observation(number, size=511) for number in range(25)]}))
    made = await bench.add("Observation")
    await bench.run()
    parts = await sealed(bench.jobs, made)
    assert [part.size for part in parts] == [4096, 4096, 4096, 512]
    assert [part.count for part in parts] == [8, 8, 8, 1]
    assert [part.file_id.rpartition(".")[2] for part in parts] == ["0-0", "0-1", "0-2", "0-3"]


@pytest.mark.anyio
async def test_a_resource_larger_than_a_part_has_a_part_of_its_own() -> None:
    sizes = [100, 9000, 9000, 100]
    bench = WorkBench(Listed({"Observation": [observation(number, size=size) for number, size in enumerate(sizes)]}))
    made = await bench.add("Observation")
    await bench.run()
    assert [part.size for part in await sealed(bench.jobs, made)] == [101, 9001, 9001, 101]


@pytest.mark.anyio
async def test_a_slice_without_lines_has_no_file() -> None:
    bench = WorkBench(Listed({"Observation": [], "Patient": [patient("1")]}))
    made = await bench.add()
    await bench.run()
    assert [part.type for part in await sealed(bench.jobs, made)] == ["Patient"]
    assert (await bench.state(made)).state is JobState.COMPLETED


@pytest.mark.anyio
async def test_a_group_without_members_completes_without_files() -> None:
    bench = WorkBench(Listed(LINES))
    made = await bench.add(selection=Compartments(frozenset()))
    await bench.run()
    assert (await bench.state(made)).state is JobState.COMPLETED
    assert await sealed(bench.jobs, made) == []
    assert bench.resources.asked == []


class Stumbling(Complete):
    """Fails in the middle of a type's deletions, once, at the page that it is told."""

    stumbles_at = 0

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().deletions(query, after):
            self.stumbles_at -= 1
            if self.stumbles_at == 0:
                raise OSError("gone for a moment")
            yield page


@pytest.mark.anyio
@pytest.mark.parametrize("stumbles_at", [0, 40, 50, 63])
async def test_deletions_of_all_types_go_on_where_a_worker_left_off(stumbles_at: int) -> None:
    """Laws 5 and 44: they are one slice, in parts, and each part is a checkpoint."""
    types = ("Encounter", "Observation", "Patient")
    deleted = [f"{type_}/{number:02}" for type_ in types for number in range(40)]
    adapter = Stumbling({type_: [] for type_ in types}, deleted=deleted)
    adapter.stumbles_at = stumbles_at
    bench = WorkBench(adapter)
    made = await bench.add(*types, window=Window(after(NOW, -60)))
    await bench.run()
    assert adapter.stumbles_at < 0, "it came past the page at which it fails, if there is one"
    parts = await sealed(bench.jobs, made)
    assert {(part.kind, part.type) for part in parts} == {(FileKind.DELETED, "Bundle")}
    assert [part.count for part in parts] == [36, 36, 36, 12]
    lines = b"".join([await bench.text(part) for part in parts]).splitlines()
    assert [json.loads(line)["entry"][0]["request"]["url"] for line in lines] == deleted


@pytest.mark.anyio
async def test_each_deletion_is_a_transaction_of_one_entry() -> None:
    bench = WorkBench(Complete({"Patient": []}, deleted=["Patient/a", "Patient/b", "Patient/c"]))
    made = await bench.add("Patient", window=Window(after(NOW, -60)))
    await bench.run()
    (part,) = await sealed(bench.jobs, made)
    lines = (await bench.text(part)).splitlines()
    assert (part.kind, part.type, part.count) == (FileKind.DELETED, "Bundle", 3)
    assert [json.loads(line) for line in lines] == [
        {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": "DELETE", "url": f"Patient/{name}"}}]}
        for name in "abc"
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("reference", ["Observation/1", "Patient/", 'Patient/1"}', "Patient/1/x", "Patient/1\n", "Patient"])
async def test_a_deletion_that_is_no_reference_of_the_type_fails_the_job(reference: str) -> None:
    class Astray(Complete):
        async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:  # noqa: ARG002
            yield Deletions(("Patient/1", reference), "1")

    bench = WorkBench(Astray({"Patient": []}))
    made = await bench.add("Patient", window=Window(after(NOW, -60)))
    await bench.run()
    assert (await bench.state(made)).state is JobState.FAILED


@pytest.mark.anyio
@pytest.mark.parametrize("fast", [deflate.FAST, False])
async def test_parts_lie_gzipped_where_isal_is_and_plain_elsewhere(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "FAST", fast)
    bench = WorkBench(Listed(LINES))
    made = await bench.add()
    await bench.run()
    for part in await sealed(bench.jobs, made):
        lying = b"".join([chunk async for chunk in bench.outputs.read(part.key, 0, part.stored_size)])
        assert (part.codec, part.key.endswith(".ndjson.gz")) == ((Codec.GZIP, True) if fast else (Codec.PLAIN, False))
        assert (gzip.decompress(lying) if fast else lying) == await bench.text(part)


@pytest.mark.anyio
async def test_a_job_that_was_planned_with_isal_is_finished_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = WorkBench(Listed(LINES))
    made = await bench.add()
    monkeypatch.setattr(deflate, "FAST", deflate.FAST)
    await bench.work().step("worker")
    planned = (await bench.state(made)).codec
    monkeypatch.setattr(deflate, "FAST", False)
    await bench.run()
    assert {part.codec for part in await sealed(bench.jobs, made)} == {planned}
    assert b"".join((await bench.files(made)).values()) == text(LINES["Observation"] + LINES["Patient"])


class Failing(Listed):
    """Fails once at each of some places."""

    def __init__(self, lines: Mapping[str, Sequence[str]], places: Sequence[int], error: Exception | None = None) -> None:
        super().__init__(lines)
        self._places = list(places)
        self._error = error or ConnectionError("password=secret Patient/1")

    async def before_page(self, number: int) -> None:
        if self._places and number >= self._places[0]:
            self._places.pop(0)
            raise self._error


@pytest.mark.anyio
@settings(max_examples=30)
@given(places=st.lists(st.integers(0, 90), max_size=3), sizes=st.lists(st.integers(100, 3000), min_size=1, max_size=90))
async def test_a_slice_that_was_tried_again_has_the_same_bytes(places: list[int], sizes: list[int]) -> None:
    lines = {"Observation": [observation(number, size=size) for number, size in enumerate(sizes)]}
    calm, rough = WorkBench(Listed(lines)), WorkBench(Failing(lines, sorted(places)))
    found = []
    for bench in (calm, rough):
        made = await bench.add("Observation")
        await bench.run()
        ended = await bench.state(made)
        assert (ended.state, ended.done) == (JobState.COMPLETED, len(sizes))
        found.append([(p.file_id.rpartition(".")[2], p.count, p.size, p.sha256) for p in await sealed(bench.jobs, made)])
        assert b"".join((await bench.files(made)).values()) == text(lines["Observation"])
    assert found[0] == found[1]


@pytest.mark.anyio
async def test_after_a_failure_reading_goes_on_behind_the_last_sealed_part() -> None:
    lines = {"Observation": [observation(number, size=511) for number in range(25)]}
    bench = WorkBench(Failing(lines, [20]))
    made = await bench.add("Observation")
    await bench.run()
    assert [cursor for _, cursor in bench.resources.asked] == [None, "16"]
    keys = [part.key for part in await sealed(bench.jobs, made)]
    assert [key.partition("/")[2].partition(".ndjson")[0] for key in keys] == ["0-0.1", "0-1.1", "0-2.2", "0-3.2"]


@pytest.mark.anyio
async def test_an_adapter_that_keeps_failing_ends_the_job_and_tells_the_owner_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = WorkBench(Failing(LINES, [0] * 99))
    made = await bench.add()
    await bench.run()
    ended = await bench.state(made)
    assert ended.state is JobState.FAILED
    assert ended.failure is not None
    assert "secret" not in ended.failure.detail
    assert "last: ConnectionError" in caplog.messages[-1]
    assert len([record for record in caplog.records if record.exc_info]) == bench.settings.attempts


@pytest.mark.anyio
@pytest.mark.parametrize("steps", [0, 1], ids=["planning", "slice"])
async def test_work_begun_too_often_fails_its_job_and_is_not_in_the_way(steps: int, caplog: pytest.LogCaptureFixture) -> None:
    """Law 43: a job always ends. Law 38: neither its URL nor its criteria are kept."""
    bench = WorkBench(Listed(LINES))
    made = await bench.add()
    for _ in range(steps):
        await bench.work().step("planner")
    for _ in range(bench.settings.attempts):
        lease = await bench.jobs.claim("unlucky", bench.now, lease_seconds=10)
        assert lease is not None
        assert (await bench.state(made)).state.working, "a job goes on while its work has attempts left"
        await bench.jobs.release("unlucky", "disk /dev/sda on fire")
    bench.now = after(bench.now, 1)
    other = await bench.add()
    assert await bench.work().step("worker"), "the same step goes on to the next work"
    assert (await bench.state(other)).state is JobState.RUNNING
    failed = await bench.state(made)
    assert (failed.state, failed.changed_at, failed.failure) == (JobState.FAILED, bench.now, EXHAUSTED)
    assert failed.request == made.request.of_failed()
    (line,) = [message for message in caplog.messages if "fails" in message]
    assert line.endswith("last: disk /dev/sda on fire")


@pytest.mark.anyio
async def test_a_worker_ends_no_job_of_another_adapter() -> None:
    """Law 32."""
    bench = WorkBench(Listed(LINES))
    made = await bench.add()
    for _ in range(bench.settings.attempts):
        await bench.jobs.claim("unlucky", bench.now, lease_seconds=10)
        await bench.jobs.release("unlucky", "it died")
    other = job_work(bench.resources, bench.jobs, bench.outputs, bench.settings, lambda: bench.now, adapter="other")
    assert not await other.step("worker")
    assert (await bench.state(made)).state is JobState.QUEUED


@pytest.mark.anyio
async def test_a_failure_while_planning_is_tried_again() -> None:
    class Late(Complete):
        failures = 2

        async def slices(self, query: Query, target_bytes: int) -> Sequence[object]:  # type: ignore[override]
            if self.failures:
                self.failures -= 1
                raise TimeoutError
            return await super().slices(query, target_bytes)

    bench = WorkBench(Late(LINES))
    made = await bench.add()
    await bench.run()
    assert (await bench.state(made)).state is JobState.COMPLETED


@pytest.mark.anyio
async def test_a_page_that_must_not_leave_fails_the_job_at_once(caplog: pytest.LogCaptureFixture) -> None:
    lines = [observation(number, patient="1") for number in range(60)] + [observation(99, patient="other")]
    bench = WorkBench(Listed({"Observation": lines}))
    made = await bench.add("Observation", selection=Compartments(frozenset({"Patient/1"})))
    await bench.run()
    ended = await bench.state(made)
    assert ended.state is JobState.FAILED
    assert ended.failure is not None
    assert ended.failure.reason is Reason.FAULT
    assert len(bench.resources.asked) == 1, "it is not tried again"
    assert "other" not in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)


@pytest.mark.anyio
async def test_a_breach_in_a_job_that_was_cancelled_meanwhile_leaves_it_cancelled() -> None:
    bench = WorkBench(Listed({}))
    made = await bench.add("Observation")

    class Cancelling(Listed):
        async def before_page(self, number: int) -> None:  # noqa: ARG002
            assert await bench.jobs.replace((await bench.state(made)).cancelled(bench.now))

    await bench.run(bench.work(Cancelling({"Observation": [patient("1")]})))
    assert (await bench.state(made)).state is JobState.CANCELLED


@pytest.mark.anyio
async def test_a_worker_that_lost_its_lease_publishes_nothing_and_leaves_no_file() -> None:
    bench = WorkBench(Listed({}))
    made = await bench.add("Observation")
    lines = {"Observation": [observation(number) for number in range(30)]}

    class Slow(Listed):
        async def before_page(self, number: int) -> None:
            if number:
                bench.now = after(bench.now, 60)  # the lease runs out, and another worker does it all
                await bench.work(Listed(lines)).step("other")

    bench.settings = SMALL.model_copy(update={"renew_seconds": 3})
    await bench.work().step("first")
    await bench.work(Slow(lines)).step("first")
    ended = await bench.state(made)
    assert (ended.state, ended.done) == (JobState.COMPLETED, 30)
    assert [part.key.partition("/")[2].split(".")[1] for part in await sealed(bench.jobs, made)] == ["2"]
    assert {key.partition("/")[2].split(".")[1] for key in bench.outputs._parts} == {"2"}


@pytest.mark.anyio
async def test_a_worker_that_lost_its_lease_leaves_no_file_while_the_job_goes_on() -> None:
    bench = WorkBench(Listed({}))
    made = await bench.add("Observation", "Patient")
    lines = {"Observation": [observation(number) for number in range(30)], "Patient": [patient("1")]}

    class Slow(Listed):
        async def before_page(self, number: int) -> None:
            if number == 10:
                bench.now = after(bench.now, 60)  # the lease runs out, and another worker does this slice
                assert await bench.work(Listed(lines)).step("other")

    bench.settings = SMALL.model_copy(update={"renew_seconds": 3})
    await bench.work(Listed(lines)).step("first")
    await bench.work(Slow(lines)).step("first")

    assert (await bench.state(made)).state is JobState.RUNNING
    assert {key.partition("/")[2].partition(".ndjson")[0] for key in bench.outputs._parts} == {"0-0.2"}


@pytest.mark.anyio
async def test_a_worker_whose_checkpoint_comes_too_late_reads_no_further_and_tells_nobody() -> None:
    lines = {"Observation": [observation(number, size=511) for number in range(25)]}
    told: list[Event] = []

    class Told:
        async def observe(self, event: Event) -> None:
            told.append(event)

    class Overtaken(MemoryOutputStore):
        """Between the lease check of an attempt and its checkpoint, another worker does the whole slice."""

        @asynccontextmanager
        async def create(self, key: str) -> AsyncGenerator[OutputSink]:
            async with super().create(key) as sink:
                yield sink
                if "/0-0.1." in key:
                    bench.now = after(bench.now, 60)
                    await bench.run(bench.work(Listed(lines)))

    bench = WorkBench(Listed({}), outputs=Overtaken())
    made = await bench.add("Observation")
    bench.settings = SMALL.model_copy(update={"renew_seconds": 3})
    await bench.work(Listed(lines)).step("first")
    first = Listed(lines)
    await job_work(first, bench.jobs, bench.outputs, bench.settings, lambda: bench.now, observers=Observers([Told()])).step(
        "first"
    )

    ended = await bench.state(made)
    assert (ended.state, ended.done) == (JobState.COMPLETED, 25)
    assert {part.key.rpartition("-")[2].split(".")[1] for part in await sealed(bench.jobs, made)} == {"2"}
    assert told == []


@pytest.mark.anyio
async def test_a_job_that_was_cancelled_is_not_read_any_further() -> None:
    bench = WorkBench(Listed({}))
    made = await bench.add("Observation")
    reached: list[int] = []

    class Cancelling(Listed):
        async def before_page(self, number: int) -> None:
            reached.append(number)
            if number == 0:
                await bench.jobs.replace((await bench.state(made)).cancelled(bench.now))
            else:
                await anyio.sleep_forever()  # the heartbeat ends this

    with anyio.fail_after(PATIENCE):
        await bench.run(bench.work(Cancelling({"Observation": [observation(number) for number in range(99)]})))
    assert len(reached) == 2
    assert [job_id async for job_id in bench.outputs.jobs()] == []


@pytest.mark.anyio
async def test_a_worker_that_is_stopped_gives_its_work_back_and_leaves_no_file() -> None:
    bench = WorkBench(Listed({}))
    await bench.add("Observation")

    class Stuck(Listed):
        async def before_page(self, number: int) -> None:
            if number:
                scope.cancel()
                await anyio.sleep_forever()

    await bench.work().step("first")
    lines = {"Observation": [observation(number) for number in range(30)]}
    with anyio.CancelScope() as scope:
        await bench.work(Stuck(lines)).step("first")
    assert [job_id async for job_id in bench.outputs.jobs()] == []
    assert await bench.work(Listed(lines)).step("second"), "it can be claimed again at once"


@pytest.mark.anyio
async def test_a_hung_adapter_is_not_kept_alive_beyond_the_deadline() -> None:
    class Hung(Listed):
        async def before_page(self, number: int) -> None:  # noqa: ARG002
            bench.now = after(bench.now, bench.settings.deadline)
            await anyio.sleep_forever()

    bench = WorkBench(Hung({"Observation": [observation(1)]}))
    await bench.add("Observation")
    with anyio.fail_after(PATIENCE):
        await bench.work().step("worker")
        await bench.work().step("worker")


@pytest.mark.anyio
async def test_progress_is_told_while_a_slice_is_read() -> None:
    class Watched(Listed):
        async def before_page(self, number: int) -> None:
            if number >= 20:
                while (await bench.state(made)).done < 10:
                    await anyio.lowlevel.checkpoint()

    bench = WorkBench(Watched({"Observation": [observation(number) for number in range(30)]}))
    made = await bench.add("Observation")
    with anyio.fail_after(PATIENCE):
        await bench.run()


@pytest.mark.anyio
async def test_empty_pages_are_passed_over() -> None:
    class Sparse(Listed):
        async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
            yield Page(b"", 0, "0")
            async for page in super().pages(query, after):
                yield page
                yield Page(b"", 0, page.cursor)

    bench = WorkBench(Sparse({"Observation": [], "Patient": [patient("1")]}))
    made = await bench.add()
    await bench.run()
    assert [part.count for part in await sealed(bench.jobs, made)] == [1]


@pytest.mark.anyio
async def test_nothing_to_do_is_said() -> None:
    assert not await WorkBench(Listed({})).work().step("worker")


@pytest.mark.anyio
async def test_what_a_gone_worker_held_is_given_back() -> None:
    bench = WorkBench(Listed(LINES))
    await bench.add()
    await bench.jobs.claim("gone", NOW, lease_seconds=10)
    assert not await bench.work().step("other")
    await bench.work().abandoned("gone")
    assert await bench.work().step("other")


def test_work_whose_parts_live_in_this_process_has_no_recipe() -> None:
    assert WorkBench(Listed({})).work().recipe() is None
