"""`python -m tests.benchmarks.memory`: how much memory a worker needs: very many resources, very large ones, context.

The worker runs under a hard limit on its address space (`RLIMIT_AS`), so an export that ends has kept to it. Told are the limit,
the peak of the address space, and the peak of what was resident.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, JobState, Request
from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Level, Rows, Window
from fhir_bulk_middleware.demo.population import large, population, small
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Precision, system_clock
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.job_values import sealed
from fhir_bulk_middleware.workers.lease_keeper import ThreadLeaseKeeper

_MIB = 1024 * 1024
_COHORT = "patients"
_OWNER = Owner("https://issuer.example", "somebody")


def main() -> int:
    """Measure both, or be the worker that is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory")
    parser.add_argument("--small", type=int, default=2_000_000, help="how many small resources")
    parser.add_argument("--large", type=int, default=1_000, help="how many of 1 MB")
    parser.add_argument(
        "--patients", type=int, default=28_400, help="how many patients, each of 70 resources, with their context"
    )
    parser.add_argument("--limit", type=int, default=192, metavar="MIB", help="of address space (default: %(default)s)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        return asyncio.run(_work(given.work, given.limit * _MIB))
    kinds: tuple[tuple[str, int, Iterable[bytes]], ...] = (
        ("Observation", given.small, small(given.small)),
        ("Binary", given.large, large(given.large)),
        (_COHORT, given.patients, population(given.patients)),
    )
    codes = [_measure(kind, count, lines, given.limit) for kind, count, lines in kinds if count]
    return max(codes, default=0)


def _measure(kind: str, count: int, lines: Iterable[bytes], limit: int) -> int:
    with tempfile.TemporaryDirectory(prefix="fhir-bulk-memory-") as folder:
        state, begun = Path(folder), time.monotonic()
        store = SQLiteResourceStore(state / "store.db")
        store.load(lines, batch=16 if kind == "Binary" else 10_000)
        store.close()
        size = (state / "store.db").stat().st_size / _MIB
        sys.stdout.write(f"{count:,} {kind}: a store of {size:,.0f} MiB, loaded in {time.monotonic() - begun:.0f} s\n")
        asyncio.run(_kick_off(state, kind))
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--work", folder, "--limit", str(limit)]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.stdout.write(f"  it did not end within {limit} MiB\n")
        sys.stdout.flush()
        return code


async def _kick_off(state: Path, kind: str) -> None:
    jobs, now = SQLiteJobStore(state / "jobs.db"), system_clock()
    types = tuple(sorted(definitions(FhirVersion.R4).resource_types)) if kind == _COHORT else (kind,)
    request = Request(
        url="https://ehr.example/fhir/$export",
        level=Level.PATIENT if kind == _COHORT else Level.SYSTEM,
        types=types,
        window=Window(),
        retention=86_400,
        precision=Precision.MILLISECONDS,
    )
    job = Job(id=new_job_id(), mount="fhir", owner=_OWNER, request=request, created_at=now, changed_at=now)
    rows = Rows(EveryPatient(), context=types) if kind == _COHORT else Rows(Everything())
    await jobs.add(job, rows, working_at_most=1)
    (state / "job").write_text(job.id)
    jobs.close()


async def _work(state: Path, limit: int) -> int:
    """A worker under the limit, from its first slice to its last."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    jobs = SQLiteJobStore(state / "jobs.db")
    resources = SQLiteResourceStore(state / "store.db")
    outputs = FileOutputStore(state / "exports", blocking=True)
    work = job_work(resources, jobs, outputs, Settings(), keep_lease=ThreadLeaseKeeper())
    begun = time.monotonic()
    while await work.step("worker"):
        pass
    seconds = time.monotonic() - begun
    job = await jobs.find((state / "job").read_text(), "fhir", _OWNER)
    if job is None or job.state is not JobState.COMPLETED:
        return 1
    parts = await sealed(jobs, job)
    address, resident = _peaks()
    sys.stdout.write(
        f"  exported {sum(part.count for part in parts):,} resources, {sum(part.size for part in parts) / _MIB:,.0f} MiB in "
        f"{len(parts)} files in {seconds:.1f} s; limit {limit // _MIB} MiB of address space, peak {address:.0f} MiB, "
        f"resident at most {resident:.0f} MiB\n"
    )
    return 0


def _peaks() -> tuple[float, float]:
    """Of this process's address space, and of what was resident, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmPeak"].split()[0]) / 1024, int(lines["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
