"""`BulkData`: checks what the host gives it, connects the parts, and attaches to the host."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.check import check, check_parts
from fhir_bulk_middleware.contract.deletes import DeletionLog, SupportsDelete
from fhir_bulk_middleware.contract.job_store import JobStore, SupportsHints
from fhir_bulk_middleware.contract.observer import Observer
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.contract.storage import (
    SupportsAudit,
    SupportsContext,
    SupportsExport,
    SupportsGroups,
    SupportsJoining,
)
from fhir_bulk_middleware.default_runner import bound, default_runner
from fhir_bulk_middleware.delete.endpoints import DeleteEndpoints
from fhir_bulk_middleware.delete.outbox_draining import Outbox
from fhir_bulk_middleware.delete.policy import AIDBOX, DeletePolicy
from fhir_bulk_middleware.delete.removal_sources import Sources, sources_of
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.delete.service import DeleteService
from fhir_bulk_middleware.dialects import STANDARD, Dialect
from fhir_bulk_middleware.discovery.capability import Capability
from fhir_bulk_middleware.discovery.endpoints import discovery_rows, smart_endpoint
from fhir_bulk_middleware.discovery.metadata import MetadataRoute
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.openapi_document import openapi
from fhir_bulk_middleware.export.admission import Admission
from fhir_bulk_middleware.export.endpoints import ExportEndpoints
from fhir_bulk_middleware.export.manifest import storage_notes
from fhir_bulk_middleware.export.service import ExportService
from fhir_bulk_middleware.export.types import TypeRules
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.files.delivery import Delivery
from fhir_bulk_middleware.health.endpoints import health_rows
from fhir_bulk_middleware.health.gauging import Gauges
from fhir_bulk_middleware.health.probes import Probe
from fhir_bulk_middleware.host_routes import warn_of_shadowed
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.guard import Guard
from fhir_bulk_middleware.http.pace import Pace
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import Row, routes
from fhir_bulk_middleware.identifiers import NewJobId, new_job_id
from fhir_bulk_middleware.identity import Place, identity_of, registration_of
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jobs.endings import Endings
from fhir_bulk_middleware.jobs.endpoints import JobEndpoints
from fhir_bulk_middleware.jobs.operator import JobOperator
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jobs.service import JobService
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.loopback import plain_beyond_loopback
from fhir_bulk_middleware.mount import AllowedHere, SelectiveMount, SubApplication
from fhir_bulk_middleware.observers.audit_chain import Key, read_key
from fhir_bulk_middleware.observers.audit_detail import AuditDetail
from fhir_bulk_middleware.observers.audit_events import AuditEvents
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.configuration import SMART_PATH
from fhir_bulk_middleware.startup import Startup
from fhir_bulk_middleware.views import kinds_of
from fhir_bulk_middleware.workers.engine import Engine

__all__ = ["BulkData"]

_log = logging.getLogger("fhir_bulk_middleware")


class BulkData:
    """FHIR Bulk Data export, and safe deletes, for an existing FHIR server.

    ```python
    bulk = BulkData(
        resources=MyAdapter(database),
        verifier=JoseTokenVerifier(jwks="jwks.json", issuer="https://auth.example", audience="https://ehr.example/fhir"),
        jobs=SQLiteJobStore("jobs.db"),
        outputs=FileOutputStore("exports"),
    )
    bulk.install(app, "/fhir")
    ```

    There are three ways to attach it:

    - `bulk.install(app)`: to Starlette, FastAPI and other subclasses of Starlette;
    - `BulkDataMiddleware(app, bulk)`: around any ASGI application;
    - `app.mount("/bulk", bulk.app)`: at a prefix of its own, with `async with bulk.running():` in the host's lifespan.

    Args:
        resources: the storage adapter: your implementation of `SupportsExport` and, where you want their capabilities, of the
            other `Supports...` protocols. For trials `MemoryResourceStore` or `SQLiteResourceStore`.
        verifier: verifies bearer tokens: `JoseTokenVerifier`, or your own `TokenVerifier`.
        jobs: the job store: `SQLiteJobStore`, `stores.postgres.PostgresJobStore`, or `MemoryJobStore` for trials.
        outputs: the store of exported files: `FileOutputStore`, `stores.objects.ObjectOutputStore`, or `MemoryOutputStore` for
            trials.
        groups: knows the members of groups, if the storage adapter does not implement `SupportsGroups`. Workers read the members
            again, so without a `recipe()` of this object exports run in the server's event loop.
        runner: runs the work of jobs. By default worker processes, or the server's event loop if the adapter or a store has no
            `recipe()` (`SupportsWorkerProcess`).
        settings: limits, sizes and times; `Settings()` by default, `Settings.from_environment()` for those of the environment.
        dialect: `STANDARD` (which is `STU3`), `STU2`, `STU4`, `HEALTH_CONNECT_AU`, `SOARIAN`, `SUBJECT_BOUND`, or your own.
        deletes: adds the routes for DELETE of resources, answered as this policy says: `AIDBOX`, `FHIR_R4`, `FHIR_R6_DRAFT`. The
            adapter must implement `SupportsDelete`. Without it all DELETE of resources is the host's (law 42).
        log: our own log of deletes, for an adapter that deletes but does not implement `SupportsDeletions` or, for long
            remove-alls, `SupportsBatchDelete`: `SQLiteDeletionLog`, or `MemoryDeletionLog` for trials.
        mount: the name of this mount. Jobs answer only through the mount that created them (law 10). By default the dialect's
            name, after that of the adapter if one was given.
        adapter: the name of the storage adapter; the same for all its mounts. Give one if several adapters share a job store, or
            if the adapter's recipe changes between starts. Jobs are worked on and swept only for their own adapter (law 32).
        fhir_version: the FHIR release of the resources.
        clock: the current time.
        new_job_id: makes job ids.
        observers: receive events: `LogEvents`, `AuditFile`, `AuditEvents`, or your own `Observer`. An adapter that implements
            `SupportsAudit` receives AuditEvents without being named here.

    Raises:
        OSError: the file of `Settings.audit_key` cannot be read.
        TypeError: an argument lacks a method or an ability that it needs; the message names it.
        ValueError: `adapter` is empty, too long or not printable.
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        verifier: TokenVerifier,
        jobs: JobStore,
        outputs: OutputStore,
        groups: SupportsGroups | None = None,
        runner: JobRunner | None = None,
        settings: Settings | None = None,
        dialect: Dialect = STANDARD,
        deletes: DeletePolicy | None = None,
        log: DeletionLog | None = None,
        mount: str | None = None,
        adapter: str | None = None,
        fhir_version: FhirVersion = FhirVersion.R4,
        clock: Clock = system_clock,
        new_job_id: NewJobId = new_job_id,
        observers: Sequence[Observer] = (),
    ) -> None:
        abilities = check_parts(resources, verifier, jobs, outputs, observers=observers, groups=groups, log=log, runner=runner)
        identity = identity_of(adapter, mount, resources=resources, groups=groups, log=log)
        if groups is None and isinstance(resources, SupportsGroups):
            groups = resources
        settings = _checked(settings or Settings())
        if groups is not None and settings.older_data_of_new_members:
            check(groups, SupportsJoining, "groups")
        endings = Endings.of(jobs)
        told = Observers(
            [*observers, *([AuditEvents(resources, fhir_version)] if isinstance(resources, SupportsAudit) else [])],
            on_audit_failure=settings.on_audit_failure,
            detail=_detail(observers, settings),
            clock=clock,
            listener=endings.tell,
        )
        # The parts that a worker process must make again, by the name of the argument.
        self.parts = {"resources": resources, "jobs": jobs, "outputs": outputs, **({} if log is None else {"log": log})}
        sources = sources_of(resources, log, fhir_version, clock, settings.base_urls)
        if deletes is not None:
            check(resources, SupportsDelete, "resources (for deletes=)")
            _check_deletions_are_told(sources, resources)
        runs = RemovalRuns(sources, Outbox(sources.outboxes, told, clock))
        work = job_work(
            resources,
            jobs,
            outputs,
            settings,
            clock,
            log=log,
            runs=runs,
            groups=groups,
            fhir_version=fhir_version,
            observers=told,
            adapter=identity.name,
        )
        self.mount = mount or (dialect.name if adapter is None else f"{adapter}-{dialect.name}")
        """The name of this mount."""
        startup = Startup(
            mount=self.mount,
            adapter=identity.name,
            verifier=verifier,
            abilities=abilities,
            parts=self.parts,
            settings=settings,
            observers=told.all,
            system_time=clock is system_clock,
            runner=runner,
            deletes=deletes,
            log=log is not None,
        )
        runner = bound(runner or default_runner(work, settings, None if groups is cast("object", resources) else groups), work)
        self._replies = Replies(dialect)
        self._guard = Guard(
            verifier,
            self._replies,
            self.mount,
            told,
            clock,
            client_owns=settings.owner_includes_client,
            pace=Pace(settings, clock),
        )
        self.retention = Retention(
            jobs, outputs, settings, clock, told, effects=runs, forgetting=sources.forgetting, adapter=identity.name
        )
        """The sweep of expired jobs and their files."""
        self.operator = JobOperator(jobs, outputs, settings, clock, told, effects=runs, adapter=identity.name)
        """The jobs of all owners and mounts of the adapter, for commands of the operator."""
        self.registration = registration_of(
            identity, self.mount, dialect, verifier, settings, named=mount is not None or adapter is not None
        )
        """What this mount records about itself in the job store."""
        retention = settings.retention if dialect.retention is None else dialect.retention
        addresses = Addresses(dialect, settings.public_base_url)
        kinds = kinds_of(
            runs=runs,
            outputs=outputs,
            policy=deletes or AIDBOX,
            dialect=dialect,
            replies=self._replies,
            addresses=addresses,
            settings=settings,
            clock=clock,
            notes=storage_notes(resources, context=settings.context),
            observers=told,
        )
        service = JobService(
            kinds=kinds,
            jobs=jobs,
            runner=runner,
            mount=self.mount,
            settings=settings,
            clock=clock,
            new_job_id=new_job_id,
            observers=told,
            effects=runs,
            adapter=identity.name,
            endings=endings,
        )
        gauges = Gauges(
            jobs,
            outputs,
            runner,
            adapter=identity.name,
            mount=self.mount,
            held_polls=lambda: service.held_polls,
            observers=told.all,
            clock=clock,
        )
        self.engine = Engine(
            runner,
            work,
            admitted=Place(identity, self.registration, jobs, outputs, log).taken,
            beside=[
                startup.announce,
                endings.keep_listening,
                self.retention.keep_sweeping,
                told.keep_summing,
                gauges.keep_taking,
                partial(_hear, jobs, runner, endings),
            ],
            closing=told.close,
        )
        """Runs the workers and the sweep beside the requests."""
        exports = ExportEndpoints(
            service=ExportService(
                Admission(
                    resources=resources,
                    groups=groups,
                    type_rules=TypeRules(fhir_version, context=settings.context and isinstance(resources, SupportsContext)),
                    settings=settings,
                    version=fhir_version,
                    retention=retention,
                    precision=dialect.precision,
                    reports=dialect.report_form(),
                    clock=clock,
                    horizon=sources.horizon,
                ),
                service,
            ),
            dialect=dialect,
            replies=self._replies,
            addresses=addresses,
            settings=settings,
        )
        rows = [
            *exports.rows([*Level] if groups is not None else [Level.SYSTEM, Level.PATIENT]),
            *JobEndpoints(
                service=service,
                kinds=kinds,
                dialect=dialect,
                delivery=Delivery(outputs),
                replies=self._replies,
                addresses=addresses,
                version=fhir_version,
            ).rows(),
        ]
        removal = (
            None
            if deletes is None or sources.one is None
            else DeleteEndpoints(
                service=DeleteService(
                    one=sources.one,
                    several=sources.several,
                    jobs=None if sources.journal is None else service,
                    policy=deletes,
                    settings=settings,
                    version=fhir_version,
                    precision=dialect.precision,
                    retention=retention,
                    mount=self.mount,
                    observers=told,
                    outbox=runs.outbox,
                    clock=clock,
                ),
                policy=deletes,
                dialect=dialect,
                replies=self._replies,
                addresses=addresses,
                version=fhir_version,
                body_seconds=settings.body_seconds,
            )
        )
        if removal is not None:
            rows.extend(removal.rows(conditional=sources.several is not None))
        self.offer = Offer(
            rows=tuple(rows),
            dialect=dialect,
            version=fhir_version,
            resources=resources,
            groups=groups,
            settings=settings,
            retention=retention,
            deletes=None if removal is None else deletes,
        )
        """What the mount offers; discovery documents are made from it."""
        self.capability = Capability(self.offer)
        """Our part of a CapabilityStatement: `fragment()`, and `amend()` to add it to the host's."""
        self.table: tuple[Row, ...] = (
            *rows,
            *discovery_rows(self.offer, addresses, self._replies),
            *health_rows(Probe(gauges, settings, engine_runs=lambda: self.engine.works, clock=clock), self._replies, rows),
        )
        """The route table of the mount."""
        self.types = definitions(fhir_version).resource_types
        """All resource types, by which paths of resources are recognised."""
        self.app = SubApplication(routes(self.table, self._guard, self.types), self._elsewhere, self.engine)
        """The mountable sub-application."""

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path that no route matches, with the dialect's 404."""
        await self._guard.respond(Request(scope, receive), Operation.NONE, _nothing_here, send)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run workers and sweep for the time of the context; for the lifespan of a host that mounts `app` itself."""
        return self.engine.running()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the mount."""
        return openapi(self.table, self.offer)

    def front(self, host: ASGIApp, base: str, *, amend_metadata: bool) -> SelectiveMount:
        """The route to try before those of the host. A request that it does not match is the host's.

        Args:
            host: the application behind them.
            base: the path below which it serves FHIR.
            amend_metadata: whether to add our operations to the host's CapabilityStatement.
        """
        self._warn_of_shadowed(host, base)
        beside: list[BaseRoute] = [AllowedHere(base, host, self.app)]
        if amend_metadata:
            beside.append(MetadataRoute(f"{base.rstrip('/')}/metadata", host, self.capability))
        smart = self.offer.settings.smart
        if smart is not None and base.strip("/"):
            at_root = Row("GET", SMART_PATH, Operation.DISCOVERY, smart_endpoint(smart, self._replies))
            beside.extend(routes([at_root], self._guard))
        return SelectiveMount(base, self.app, beside)

    def install(self, app: Starlette, base: str = "/fhir", *, amend_metadata: bool = True) -> None:
        """Attach to a Starlette or FastAPI application: add our routes below `base`, and our engine to its lifespan.

        The host keeps all its other routes. Its middleware also handles requests to ours.

        Args:
            app: the host.
            base: the path below which it serves FHIR.
            amend_metadata: whether to add our operations to its CapabilityStatement.
        """
        self._warn_of_shadowed(app, base)
        app.router.routes.insert(0, self.front(app.router.app, base, amend_metadata=amend_metadata))
        theirs = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(host: Any) -> AsyncIterator[Any]:
            async with theirs(host) as state, self.running():
                yield state

        app.router.lifespan_context = lifespan

    def _warn_of_shadowed(self, host: ASGIApp, base: str) -> None:
        if self.offer.deletes is not None:
            warn_of_shadowed(getattr(host, "routes", None), base, self.types)


async def _hear(jobs: JobStore, runner: JobRunner, endings: Endings) -> None:
    """Pass hints of the job store on to the workers and the held polls of this machine."""
    if isinstance(jobs, SupportsHints):
        await jobs.listen(work=runner.wake, ended=endings.wake)


async def _nothing_here(*_: object) -> Response:
    raise Refused(Reason.PATH_UNKNOWN)


def _check_deletions_are_told(sources: Sources, resources: SupportsExport) -> None:
    if sources.one is not None and sources.deletions is None:
        raise TypeError(
            f"log: {type(resources).__name__} deletes, but does not implement SupportsDeletions, so exports would not list what "
            "was deleted: give a log, such as SQLiteDeletionLog, or deletes=None"
        )


def _warn_of_plain_http(settings: Settings) -> None:
    if plain_beyond_loopback(settings.public_base_url):
        _log.warning(
            "public_base_url is %s: without TLS, others can read tokens and patient data on the network", settings.public_base_url
        )


def _checked(settings: Settings) -> Settings:
    _warn_of_plain_http(settings)
    return settings


def _detail(observers: Sequence[Observer], settings: Settings) -> AuditDetail:
    """How events name patients and criteria: in clear, or digested with the key of the settings or of the audit file."""
    clear = settings.audit_detail == "clear"
    if settings.audit_key is not None:
        key = read_key(settings.audit_key)  # now, so that a missing key fails the start (law 43)

        async def given() -> Key:
            return key

        return AuditDetail(given, clear=clear)
    file = next((observer for observer in observers if isinstance(observer, AuditFile)), None)
    return AuditDetail(None if file is None else file.key, clear=clear)
