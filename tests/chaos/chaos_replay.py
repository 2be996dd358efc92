"""An undisturbed run with the cut and the slice plan of a job that was disturbed (law 5)."""

from dataclasses import dataclass, replace

from chaos_mirror import Resources
from chaos_server import SETTINGS
from chaos_sites import Site

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import FileKind, Job, JobState
from fhir_bulk_middleware.contract.job_record import SLICE_FIELDS, rows_from_content, slice_from_record
from fhir_bulk_middleware.contract.query import Query, Rows
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.testing.job_values import sealed


@dataclass(frozen=True)
class File:
    """What must be the same."""

    file_id: str
    type: str
    kind: FileKind
    count: int
    size: int
    sha256: str


async def replayed(site: Site, job_id: str, owner: Owner) -> list[File]:
    """The files that the job should have."""
    jobs, resources = site.stores.jobs, site.stores.resources
    found = await jobs.find(job_id, "fhir", owner) or await jobs.find(job_id, "brief", owner)
    assert found is not None
    assert found.cut is not None
    assert found.codec is not None
    ((content,),) = site.rows("SELECT content FROM job_rows WHERE job_id = ?", job_id)
    slices = site.rows(f"SELECT {', '.join(SLICE_FIELDS)} FROM slice WHERE job_id = ? ORDER BY number", job_id)  # noqa: S608
    records = [dict(zip(SLICE_FIELDS, record, strict=True)) for record in slices]
    plan = [replace(slice_from_record(record), cursor=None, parts=0) for record in records]
    calm = MemoryJobStore()
    job = replace(found, state=JobState.QUEUED, revision=0, cut=None, codec=None, estimate=0, done=0)
    rows = rows_from_content(content)
    assert await calm.add(job, rows, working_at_most=1)
    lease = await calm.claim("replay", job.created_at, lease_seconds=1, adapter=job.adapter)
    assert lease is not None
    assert await calm.plan(lease, found.cut, found.codec, plan, job.created_at)
    work = job_work(resources, calm, MemoryOutputStore(), SETTINGS, adapter=job.adapter)
    while await work.step("replay"):
        pass
    parts = await sealed(calm, job)
    if sum(part.count for part in parts) != (total := await living(resources, found, rows)):
        raise AssertionError(f"the plan of {job_id} has {sum(part.count for part in parts)} resources of {total}")
    return [File(part.file_id, part.type, part.kind, part.count, part.size, part.sha256) for part in parts]


async def living(resources: Resources, job: Job, rows: Rows) -> int:
    """How many resources the job has to tell of, deletions included, counted without slices."""
    total = 0
    for type_ in job.request.types:
        query = Query(type=type_, selection=rows.selection, rights=rows.rights, window=job.request.window, as_of=job.cut)
        async for page in resources.pages(query, None):
            total += page.count
        if query.window.since is not None:
            async for deletions in resources.deletions(query, None):
                total += len(deletions.references)
    return total
