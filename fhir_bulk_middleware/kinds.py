"""The wiring of all kinds of job. No other module knows them all."""

from typing import cast

from pydantic import JsonValue

from fhir_bulk_middleware.contract.deletes import DeletionLog
from fhir_bulk_middleware.contract.job import JobKind
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.recipes import from_json, make, recipes_of
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsGroups
from fhir_bulk_middleware.delete.outbox_draining import Outbox
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.removal_sources import sources_of
from fhir_bulk_middleware.delete.rights import check_covered
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.delete.status import RemovalStatus
from fhir_bulk_middleware.delete.task import RemovalTask
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.export.plan import Planner
from fhir_bulk_middleware.export.signed_urls import SignedUrls, check_signing
from fhir_bulk_middleware.export.status import ExportStatus
from fhir_bulk_middleware.export.task import ExportTask
from fhir_bulk_middleware.export.types import check_export_scopes
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jobs.kind import Kind
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.lease_keeper import LeaseKeeper, ThreadLeaseKeeper, keep_in_task

__all__ = ["in_worker", "job_work", "kinds_of"]


def kinds_of(
    *,
    runs: RemovalRuns,
    outputs: OutputStore,
    policy: DeletePolicy,
    dialect: Dialect,
    replies: Replies,
    addresses: Addresses,
    settings: Settings,
    clock: Clock,
    notes: dict[str, bool],
    observers: Observers,
) -> tuple[Kind, ...]:
    """The kinds of job in the server.

    Args:
        runs: the results of remove-alls.
        outputs: the output store.
        policy: how deletes are answered.
        dialect: how jobs are answered.
        replies: makes responses.
        addresses: builds URLs.
        settings: limits and times.
        clock: the current time.
        notes: the promises of the storage, for manifests (law 6).
        observers: receive the event of signed URLs.

    Raises:
        TypeError: URLs are to be signed, and the output store cannot.
    """
    signed_urls = None
    if settings.signed_url_seconds is not None:
        signed_urls = SignedUrls(check_signing(outputs), settings.signed_url_seconds, observers=observers, clock=clock)
    exports = ExportStatus(
        dialect=dialect,
        replies=replies,
        addresses=addresses,
        settings=settings,
        notes=notes,
        clock=clock,
        outputs=outputs,
        signed_urls=signed_urls,
    )
    removals = RemovalStatus(
        outputs=outputs,
        runs=runs,
        policy=policy,
        dialect=dialect,
        replies=replies,
        addresses=addresses,
        settings=settings,
        clock=clock,
    )
    return (
        Kind(JobKind.EXPORT, exports, check_export_scopes, has_files=True),
        # The parts of a remove-all are records for its result, not files.
        Kind(JobKind.REMOVE_ALL, removals, check_covered, has_files=False),
    )


def job_work(
    resources: SupportsExport,
    jobs: JobStore,
    outputs: OutputStore,
    settings: Settings,
    clock: Clock = system_clock,
    *,
    log: DeletionLog | None = None,
    runs: RemovalRuns | None = None,
    groups: SupportsGroups | None = None,
    fhir_version: FhirVersion = FhirVersion.R4,
    keep_lease: LeaseKeeper = keep_in_task,
    observers: Observers | None = None,
    adapter: str = "",
) -> JobWork:
    """The work of jobs of all kinds.

    Args:
        resources: the storage adapter.
        jobs: the job store.
        outputs: the output store.
        settings: sizes and times.
        clock: the current time.
        log: our own log of deletes, for adapters that need one.
        runs: the runs of remove-alls, if the caller has made them; by default made from `resources` and `log`.
        groups: the members of groups; by default the storage adapter, if it has them.
        fhir_version: the release of the resources.
        keep_lease: renews leases; a `ThreadLeaseKeeper` if adapter or stores block the event loop.
        observers: receive the events of jobs.
        adapter: the identity of the adapter whose work is claimed (law 32).
    """
    told = observers or Observers()
    if runs is None:
        sources = sources_of(resources, log, fhir_version, clock, settings.base_urls)
        # A worker without observers leaves the reports of deletes to processes that have some.
        runs = RemovalRuns(sources, Outbox(sources.outboxes if told else (), told, clock))
    of_resources = resources if isinstance(resources, SupportsGroups) else None
    planner = Planner(resources, settings, clock, runs.sources.deletions, groups or of_resources)
    optional = {"log": log, "groups": None if groups is of_resources else groups}
    given = {name: part for name, part in optional.items() if part is not None}
    recipes = recipes_of(resources=resources, jobs=jobs, outputs=outputs, **given)
    recipe = None
    if recipes is not None and clock is system_clock:
        arguments = {
            **recipes,
            "settings": settings.model_dump(mode="json"),
            "fhir_version": fhir_version.value,
            "observers": told.recipes(),
            "adapter": adapter,
        }
        recipe = Recipe(f"{__name__}:in_worker", arguments)
    exports = ExportTask(
        resources=resources, planner=planner, jobs=jobs, outputs=outputs, observers=told, settings=settings, clock=clock
    )
    removals = RemovalTask(
        journal=runs.sources.journal,
        jobs=jobs,
        outputs=outputs,
        observers=told,
        outbox=runs.outbox,
        settings=settings,
        clock=clock,
    )
    return JobWork(
        {JobKind.EXPORT: exports, JobKind.REMOVE_ALL: removals},
        jobs,
        settings,
        clock,
        keep_lease=keep_lease,
        observers=told,
        effects=runs,
        adapter=adapter,
        recipe=recipe,
    )


def in_worker(
    resources: JsonValue,
    jobs: JsonValue,
    outputs: JsonValue,
    settings: JsonValue,
    *,
    fhir_version: str,
    log: JsonValue = None,
    groups: JsonValue = None,
    observers: JsonValue = None,
    adapter: str = "",
) -> JobWork:
    """The work from the recipes of its parts, in a worker process. A thread renews leases, because parts may block."""
    limits = Settings.model_validate(settings)
    return job_work(
        cast("SupportsExport", make(from_json(resources))),
        cast("JobStore", make(from_json(jobs))),
        cast("OutputStore", make(from_json(outputs))),
        limits,
        log=None if log is None else cast("DeletionLog", make(from_json(log))),
        groups=None if groups is None else cast("SupportsGroups", make(from_json(groups))),
        fhir_version=FhirVersion(fhir_version),
        keep_lease=ThreadLeaseKeeper(),
        observers=Observers.from_recipes(observers or [], limits.on_audit_failure),
        adapter=adapter,
    )
