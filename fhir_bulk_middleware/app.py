"""The one object that a host adds: it checks the adapter, wires the parts, and attaches."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from fhir_bulk_middleware.contract.abilities import log_abilities
from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.check import check, check_parts
from fhir_bulk_middleware.contract.deletes import DeletionLog, SupportsDelete
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.observer import Observer
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.contract.storage import (
    SupportsAudit,
    SupportsExport,
    SupportsGroups,
    SupportsJoining,
)
from fhir_bulk_middleware.default_runner import default_runner
from fhir_bulk_middleware.delete.endpoints import DeleteEndpoints
from fhir_bulk_middleware.delete.outbox_draining import Outbox
from fhir_bulk_middleware.delete.policy import AIDBOX, DeletePolicy
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.delete.service import DeleteService
from fhir_bulk_middleware.delete.sources import Sources, sources_of
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
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.files.delivery import Delivery
from fhir_bulk_middleware.host_routes import own_deletes
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.guard import Guard
from fhir_bulk_middleware.http.pace import Pace
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import Row, routes
from fhir_bulk_middleware.identifiers import NewJobId, new_job_id
from fhir_bulk_middleware.identity import Place, identity_of, registration_of
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jobs.endpoints import JobEndpoints
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jobs.service import JobService
from fhir_bulk_middleware.kinds import job_work, kinds_of
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
from fhir_bulk_middleware.workers.engine import Engine

__all__ = ["BulkData"]

_log = logging.getLogger("fhir_bulk_middleware")


class BulkData:
    """FHIR Bulk Data export for an existing FHIR server.

    Attach it in one of three ways: `bulk.install(app)` for Starlette, FastAPI and their kin; `BulkDataMiddleware(app, bulk)`
    around any ASGI application; `app.mount("/bulk", bulk.app)` at a prefix of its own, together with
    `async with bulk.running():` in the host's lifespan.

    Args:
        resources: the storage adapter (`SupportsExport`, and what else it can do).
        verifier: turns bearer tokens into principals.
        jobs: where jobs are kept.
        outputs: where files are kept.
        groups: who knows the members of groups, if that is not the storage adapter. They are read again when an export begins, so
            without a `recipe()` of its own exports run in the server's event loop.
        runner: where exports run; by default worker processes of their own, or the server's loop for adapters that cannot
            be made again in another process.
        settings: limits, sizes, times.
        dialect: how it speaks.
        deletes: how deletes are told, such as `AIDBOX`: says that DELETE of resources is ours, and takes an adapter that can
            delete (`SupportsDelete`). Without it there are no such routes, whatever the adapter can do: all DELETE of resources
            is the host's (law 42).
        log: our own log of deletes, for an adapter that deletes but does not know what was deleted (`SupportsDeletions`), or has
            no journal for long remove-alls (`SupportsBatchDelete`).
        mount: the name of this mount; jobs answer through the mount that made them (law 10). The dialect's name by default,
            behind that of the adapter if it was given.
        adapter: the name of the storage adapter, where several share a job store, or where it is made in ways that change
            (`fhir_bulk_middleware.identity`): jobs are worked on and swept only on behalf of the adapter that they were made for
            (law 32). The same for all mounts of one adapter.
        fhir_version: of the resources, for the compartments' definitions.
        clock: what time it is.
        new_job_id: where job ids come from.
        observers: who is told what happens: logs, metrics, audit (`fhir_bulk_middleware.observers`). An adapter that keeps
            AuditEvents (`SupportsAudit`) is told without being named here.

    Raises:
        OSError: there is no key where `Settings.audit_key` says.
        TypeError: a collaborator lacks a method that it needs; the message names it.
        ValueError: `adapter` is no name.
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
        settings = settings or Settings()
        if groups is not None and settings.older_data_of_new_members:
            check(groups, SupportsJoining, "groups")
        own = [AuditEvents(resources, fhir_version)] if isinstance(resources, SupportsAudit) else []
        told = Observers(
            [*observers, *own],
            on_audit_failure=settings.on_audit_failure,
            detail=_detail(observers, settings),
            clock=clock,
        )
        sources = sources_of(resources, log, fhir_version, clock, settings.base_urls)
        if deletes is not None:
            check(resources, SupportsDelete, "resources (for deletes=)")
            _check_deletions_are_told(sources, resources)
        _warn_of_plain_http(settings)
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
        log_abilities(
            type(resources).__name__,
            abilities,
            parts={"resources": resources, "jobs": jobs, "outputs": outputs, **({} if log is None else {"log": log})},
            settings=settings,
            system_time=clock is system_clock,
            runner=runner,
            deletes=deletes is not None,
        )
        runner = runner or default_runner(work, settings, None if groups is cast("object", resources) else groups)
        self.mount = mount or (dialect.name if adapter is None else f"{adapter}-{dialect.name}")
        """The name of this mount."""
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
        """What ends, forgets and gives back."""
        self.registration = registration_of(
            identity, self.mount, dialect, verifier, settings, named=mount is not None or adapter is not None
        )
        """What this mount says of itself to its job store."""
        self.engine = Engine(
            runner,
            work,
            admitted=Place(identity, self.registration, jobs, outputs, log).taken,
            beside=[self.retention.keep_sweeping, told.keep_summing],
            closing=told.close,
        )
        """What runs beside the requests."""
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
            notes=storage_notes(resources),
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
        )
        exports = ExportEndpoints(
            service=ExportService(
                Admission(
                    resources=resources,
                    groups=groups,
                    type_rules=TypeRules(CompartmentMembership(fhir_version)),
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
        levels = (Level.SYSTEM, Level.PATIENT, *([Level.GROUP] if groups is not None else []))
        rows = [
            *exports.rows(levels),
            *JobEndpoints(service=service, kinds=kinds, dialect=dialect, delivery=Delivery(outputs)).rows(),
        ]
        removal = None
        if deletes is not None and sources.one is not None:
            removal = DeleteEndpoints(
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
        """What the mount offers, for whatever describes it."""
        self.capability = Capability(self.offer)
        """What a CapabilityStatement says of us: `fragment()`, and `amend()` for the host's own."""
        self.table: tuple[Row, ...] = (*rows, *discovery_rows(self.offer, addresses, self._replies))
        """The rows of the mount, as documentation and tests read them."""
        self.types = definitions(fhir_version).resource_types
        """The resource types that there are, which tell paths of resources from others."""
        self.app = SubApplication(routes(self.table, self._guard, self.types), self._elsewhere, self.engine)
        """The mountable sub-application."""

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The dialect's word for every path that is not in the table."""
        await self._guard.respond(Request(scope, receive), Operation.NONE, _nothing_here, send)

    def running(self) -> AbstractAsyncContextManager[None]:
        """The export engine runs while the context is open: the one line for a host's lifespan."""
        return self.engine.running()

    def openapi(self) -> dict[str, Any]:
        """The mount's own OpenAPI 3.1 document, for clients' tools and for tests."""
        return openapi(self.table, self.offer)

    def front(self, host: ASGIApp, base: str, *, amend_metadata: bool) -> list[BaseRoute]:
        """What stands in front of a host that we are attached to; whatever none of it matches fully is the host's.

        Args:
            host: answers `GET [base]/metadata`.
            base: the path below which it serves FHIR.
            amend_metadata: whether that answer is amended on its way.
        """
        self._tell_shadowed(host, base)
        front: list[BaseRoute] = [SelectiveMount(base, self.app), AllowedHere(base, host, self.app)]
        if amend_metadata:
            front.append(MetadataRoute(f"{base}/metadata", host, self.capability))
        smart = self.offer.settings.smart
        if smart is not None and base.strip("/"):
            at_root = Row("GET", SMART_PATH, Operation.DISCOVERY, smart_endpoint(smart, self._replies))
            front.extend(routes([at_root], self._guard))
        return front

    def _tell_shadowed(self, host: ASGIApp, base: str) -> None:
        """Say which of the host's own routes are not reached any more, because the host said `deletes=` (law 42)."""
        table = getattr(host, "routes", None)
        if self.offer.deletes is None or not isinstance(table, list):
            return
        if shadowed := own_deletes(table, base, self.types):
            _log.warning(
                "DELETE of resources below %s is ours, as deletes= says, and the host's own is not reached any more: %s.",
                base,
                ", ".join(shadowed),
            )

    def install(self, app: Starlette, base: str = "/fhir", *, amend_metadata: bool = True) -> None:
        """Attach to a Starlette application, or one of its kin: our routes below `base`, our engine with its lifespan.

        Nothing of the host's is shadowed; its middleware stays in front of us.

        Args:
            app: the host.
            base: the path below which it serves FHIR.
            amend_metadata: whether its CapabilityStatement says on its way out what we add; False leaves it as it is.
        """
        self._tell_shadowed(app, base)
        app.router.routes[:0] = self.front(app.router.app, base, amend_metadata=amend_metadata)
        theirs = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(host: Any) -> AsyncIterator[Any]:
            async with theirs(host) as state, self.running():
                yield state

        app.router.lifespan_context = lifespan


async def _nothing_here(*_: object) -> Response:
    raise Refused(Reason.PATH_UNKNOWN)


def _check_deletions_are_told(sources: Sources, resources: SupportsExport) -> None:
    if sources.one is not None and sources.deletions is None:
        raise TypeError(
            f"log: {type(resources).__name__} deletes, but is no SupportsDeletions, so that exports would not tell what was "
            "deleted: give a log, such as SQLiteDeletionLog, or deletes=None"
        )


def _warn_of_plain_http(settings: Settings) -> None:
    if plain_beyond_loopback(settings.public_base_url):
        _log.warning(
            "public_base_url is %s: without TLS tokens and patient data can be read on their way", settings.public_base_url
        )


def _detail(observers: Sequence[Observer], settings: Settings) -> AuditDetail:
    """How events name patients and criteria: with the key that the settings name, or that of the audit file."""
    clear = settings.audit_detail == "clear"
    if settings.audit_key is not None:
        key = read_key(settings.audit_key)  # now, so that a missing key is told at start (law 43)

        async def given() -> Key:
            return key

        return AuditDetail(given, clear=clear)
    file = next((observer for observer in observers if isinstance(observer, AuditFile)), None)
    return AuditDetail(None if file is None else file.key, clear=clear)
