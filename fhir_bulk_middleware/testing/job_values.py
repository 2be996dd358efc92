"""Jobs, slices and parts for tests of job stores, and helpers that bring a store into a state."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import (
    Associated,
    Codec,
    FileKind,
    Ignored,
    Job,
    Options,
    Origin,
    Part,
    ReportForm,
    Request,
    Sizes,
    Slice,
    Standing,
)
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Compartments, Level, Rows, Window
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.identifiers import file_id, new_job_id
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.needed import pytest

__all__ = [
    "CUT",
    "LEASE",
    "MOUNT",
    "NOW",
    "ODD",
    "OTHER",
    "OWNER",
    "ROWS",
    "Suite",
    "a_job",
    "a_part",
    "a_registration",
    "a_slice",
    "added",
    "claimed",
    "found",
    "hour",
    "idle",
    "planned",
    "sealed",
    "standing",
    "started",
    "together",
    "writes",
]

T = TypeVar("T")

NOW = Instant(1_767_225_600_123_456)
CUT = Instant(1_767_225_600_000_000)
MOUNT = "/fhir"
OWNER = Owner("https://issuer.example", "client-1")
OTHER = Owner("https://issuer.example", "client-2")
ROWS = Rows(
    Compartments(frozenset({"Patient/1", "Patient/2"})),
    "ward=7",
    joined=frozenset({"Patient/2"}),
    context=("Organization",),
    groups=frozenset({"Group/g"}),
    opened=frozenset({"List"}),
)
LEASE = 30.0
_ORIGINS = tuple(Origin)

ODD = (
    "",
    " ",
    'it\'s "quoted"; --',
    "null\x00byte",
    "a\r\nb\tc\\",
    "zażółć 日本 🩺",
    "e\u0301 \u00e9 \u2028",
    "%_*?[a]",
    "x" * 200_000,
)
"""Strings that stores tend to mishandle."""


class Suite:
    """The base of the suites: asynchronous tests on asyncio."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The supported loop."""
        return "asyncio"


def hour(hours: float) -> Instant:
    """The instant so many hours after `NOW`."""
    return after(NOW, hours * 3600)


def a_job(owner: Owner = OWNER, *, at: Instant = NOW, mount: str = MOUNT, adapter: str = "") -> Job:
    """A new job."""
    request = Request(
        url="https://ehr.example/fhir/$export",
        level=Level.GROUP,
        types=("Observation", "Patient"),
        window=Window(Instant(NOW - 5), None),
        retention=1.5,
        precision=Precision.MILLISECONDS,
        granular=(("Observation", "category=laboratory"),),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        options=Options(
            elements=("id", "Patient.name"),
            associated=Associated.LATEST_PROVENANCE,
            organised_by="Patient",
            partial_manifests=True,
            separate_status=True,
            smallest_file=1,
            largest_file=2**40,
            sizes=Sizes(4, 3, 2, 1),
            ignored=(Ignored(Reason.PARAMETER_UNKNOWN, "".join(ODD), None),),
            reports=ReportForm(TextElement.DETAILS, ((Reason.PARAMETER_UNKNOWN, "not-supported"),)),
            base_url="https://ehr.example/fhir",
            base_urls=("https://ehr.example/bulk", "https://ehr.example/fhir"),
            deletions_since=Instant(NOW - 1),
        ),
    )
    return Job(id=new_job_id(), mount=mount, adapter=adapter, owner=owner, request=request, created_at=at, changed_at=at)


def a_registration(mount: str = MOUNT, *, adapter: str = "") -> Registration:
    """A registration of a mount."""
    return Registration(
        mount=mount, adapter=adapter, named=True, dialect="standard", audiences=("a", "b"), settings={"lease_seconds": LEASE}
    )


def a_slice(number: int, *, range_: str = "", estimate: int = 100) -> Slice:
    """A slice without parts."""
    return Slice(
        number=number,
        kind=FileKind.OUTPUT,
        type="Patient",
        range=range_,
        estimate=estimate,
        origin=_ORIGINS[number % 3],
    )


def a_part(job: Job, slice_: int, number: int, *, text: str = "Patient") -> Part:
    """A sealed part, with `text` in each field of free text."""
    return Part(
        file_id=file_id(job.id, slice_, number),
        slice=slice_,
        number=number,
        kind=FileKind.OUTPUT,
        type=text,
        key=f"{job.id}/{text}.{slice_}-{number}.1",
        codec=Codec.GZIP,
        count=1_000,
        size=5_000_000_000,
        sha256="ab" * 32,
        stored_size=4_999_999_999,
        flush_points=(10, 70_000, 4_999_999_998),
        sealed_at=hour(1),
        continued_in=file_id(job.id, slice_, number + 1),
        references_key=f"{job.id}/{text}.{slice_}-{number}.1.names",
        references_size=4_711,
    )


async def added(store: JobStore, job: Job | None = None, rows: Rows = ROWS) -> Job:
    """Add a job to the store."""
    job = job or a_job()
    assert await store.add(job, rows, working_at_most=1_000), "a job is kept when its owner has few others"
    return job


async def claimed(store: JobStore, worker: str = "worker", now: Instant = NOW, *, adapter: str = "") -> Lease:
    """Claim a piece of work, which there must be."""
    lease = await store.claim(worker, now, lease_seconds=LEASE, adapter=adapter)
    assert lease is not None, "free work is given to the worker that claims"
    return lease


async def planned(store: JobStore, slices: Sequence[Slice], adapter: str = "") -> Job:
    """Plan the next job; the job after that."""
    lease = await claimed(store, "planner", adapter=adapter)
    assert await store.plan(lease, CUT, Codec.GZIP, slices, NOW), "the holder of a job's planning can plan it"
    return await found(store, lease.job)


async def started(store: JobStore, slices: int = 1, job: Job | None = None) -> Job:
    """A running job with so many unfinished slices."""
    job = await added(store, job)
    return await planned(store, [a_slice(number) for number in range(slices)], job.adapter)


async def found(store: JobStore, job: Job) -> Job:
    """The job as its owner finds it now."""
    current = await store.find(job.id, job.mount, job.owner)
    assert current is not None, "an owner finds a job by its id"
    return current


async def sealed(store: JobStore, job: Job) -> list[Part]:
    """The sealed parts of a job; none if it is unknown."""
    found = await store.standing(job.id, job.mount, job.owner)
    return [] if found is None else list(found.parts)


async def standing(store: JobStore, job: Job) -> Standing:
    """The job as it stands, which its owner must find."""
    found = await store.standing(job.id, job.mount, job.owner)
    assert found is not None, "a job is found as it stands"
    return found


async def idle(store: JobStore, now: Instant = NOW) -> bool:
    """Whether there is nothing to claim."""
    return await store.claim("idle", now, lease_seconds=LEASE) is None


async def writes(store: JobStore, lease: Lease) -> list[bool]:
    """The result of each method that writes with a lease."""
    part = [a_part(lease.job, lease.slice.number, 77)] if lease.slice else []
    return [
        await store.renew(lease, hour(1), lease_seconds=LEASE, done=1_000),
        await store.plan(lease, hour(1), Codec.PLAIN, [a_slice(9)], hour(1)),
        bool(await store.checkpoint(lease, part, "stolen", hour(1), done=1_000, finished=False)),
        bool(await store.checkpoint(lease, part, "stolen", hour(1), done=1_000, finished=True)),
    ]


async def together(count: int, call: Callable[[int], Awaitable[T]]) -> list[T]:
    """The results of so many concurrent calls."""
    results: list[T] = []

    async def one(number: int) -> None:
        results.append(await call(number))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, number)
    return results
