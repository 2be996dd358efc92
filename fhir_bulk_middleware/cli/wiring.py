"""Builds the stores, the work and the application of a STATE folder, or of what several machines share."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette
from starlette.routing import Mount

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.client_option import AUTHORIZATION_PATH
from fhir_bulk_middleware.cli.shared_option import LOCAL, Shared
from fhir_bulk_middleware.cli.state import AUDIENCE, State
from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.registration import agreed
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.dialects import Dialect
from fhir_bulk_middleware.identity import TellsAudiences
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jobs.endings import Endings
from fhir_bulk_middleware.jobs.operator import JobOperator
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

if TYPE_CHECKING:
    from fhir_bulk_middleware.stores.objects import ObjectOutputStore
    from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore

__all__ = ["Stores", "application", "audit_file", "audit_of", "operator", "retention", "settings_of", "work_of"]

_ADAPTER = "state"
"""The adapter's identity; constant, so that a STATE folder can be moved."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of a STATE folder, or those that several machines share.

    Attributes:
        shared: where they are, if not in the folder.
    """

    resources: "SQLiteResourceStore | PostgresResourceStore"
    jobs: "SQLiteJobStore | PostgresJobStore"
    outputs: "FileOutputStore | ObjectOutputStore"
    shared: Shared

    @classmethod
    def of(cls, state: State, base_urls: Collection[str] = (), shared: Shared = LOCAL) -> "Stores":
        """Open the stores; missing ones are made on the first write.

        Args:
            state: the folder.
            base_urls: base URLs under which absolute references are the server's own; the store keeps those of earlier calls.
            shared: what is not in the folder.

        Raises:
            ImportError: an extra is missing.
            ValueError: the DSN or the URL cannot be read.
        """
        state.make()
        outputs = FileOutputStore(state.exports) if shared.outputs is None else _outputs(shared.outputs)
        if shared.database is None:
            return cls(SQLiteResourceStore(state.store, base_urls=base_urls), SQLiteJobStore(state.jobs), outputs, shared)
        from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore  # noqa: PLC0415 - an extra

        resources = PostgresResourceStore(shared.database, base_urls=base_urls)
        return cls(resources, PostgresJobStore(shared.database), outputs, shared)

    def close(self) -> None:
        """Close the databases."""
        self.resources.close()
        self.jobs.close()


def _outputs(url: str) -> "FileOutputStore | ObjectOutputStore":
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ValueError(f"{url}: a folder is written file:///folder")
        return FileOutputStore(unquote(parts.path))
    from fhir_bulk_middleware.stores.objects import ObjectOutputStore  # noqa: PLC0415 - an extra

    return ObjectOutputStore(url)


def application(
    state: State,
    stores: Stores,
    verifier: TokenVerifier,
    settings: Settings,
    *,
    dialect: Dialect,
    base: str,
    audit: bool = True,
    authorization: AuthorizationServer | None = None,
) -> Starlette:
    """The demo host with the middleware at the same base path, and the authorization server if there is one."""
    host = fhir_host(stores.resources, verifier, base=base, public_base_url=settings.public_base_url)
    bulk = BulkData(
        resources=stores.resources,
        verifier=verifier,
        jobs=stores.jobs,
        outputs=stores.outputs,
        runner=ProcessRunner(state.runner, settings) if settings.worker_processes else LoopRunner(),
        settings=settings,
        dialect=dialect,
        deletes=AIDBOX,
        observers=[audit_file(state, settings)] if audit else [],
        adapter=_ADAPTER,
        mount=_mount(dialect, verifier),
    )
    bulk.install(host, base)
    if authorization is not None:
        host.router.routes.insert(0, Mount(f"{base}{AUTHORIZATION_PATH}", authorization.app))
    return host


def work_of(stores: Stores, settings: Settings, observers: Observers) -> JobWork:
    """The work of the server's workers."""
    return job_work(stores.resources, stores.jobs, stores.outputs, settings, system_clock, observers=observers, adapter=_ADAPTER)


def retention(stores: Stores, settings: Settings, observers: Observers) -> Retention:
    """The retention that a server sweeps with."""
    effects = work_of(stores, settings, observers).effects
    return Retention(
        stores.jobs,
        stores.outputs,
        settings,
        system_clock,
        observers,
        effects=effects,
        forgetting=[stores.resources],
        adapter=_ADAPTER,
    )


def operator(stores: Stores, settings: Settings, observers: Observers) -> JobOperator:
    """The jobs of the folder, for the operator."""
    effects = work_of(stores, settings, observers).effects
    return JobOperator(stores.jobs, stores.outputs, settings, system_clock, observers, effects=effects, adapter=_ADAPTER)


async def settings_of(stores: Stores, given: Settings) -> Settings:
    """The settings for a process besides the servers of a STATE: as given, except those that the servers have stored."""
    return agreed(given, _ADAPTER, (await stores.jobs.registry()).registrations)


def _mount(dialect: Dialect, verifier: TokenVerifier) -> str:
    """The mount's name, by dialect and audience, so that tokens for one audience do not give access to jobs of another."""
    audiences = sorted(verifier.audiences) if isinstance(verifier, TellsAudiences) else []
    if audiences == [AUDIENCE]:
        return dialect.name
    return f"{dialect.name}-{hashlib.sha256(' '.join(audiences).encode()).hexdigest()[:8]}"


def audit_file(state: State, settings: Settings) -> AuditFile:
    """The audit file of the folder, with the key of the settings or the default one."""
    return AuditFile(state.audit, key=settings.audit_key)


def audit_of(state: State, stores: Stores, settings: Settings) -> Observers:
    """The observers of a process besides the server: its audit file, if there is one. Servers hear of the jobs that it ends.

    On a machine without a server the folder has no audit file yet, and this process begins one.
    """
    file = audit_file(state, settings)
    listener = Endings.of(stores.jobs).tell
    audited = file.begun or stores.shared.database is not None
    return Observers([file] if audited else [], on_audit_failure=settings.on_audit_failure, listener=listener)
