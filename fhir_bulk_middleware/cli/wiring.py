"""What the commands open of a STATE folder: the stores, the exporter, and the demo host with the middleware installed."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Mount

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.clients import AUTHORIZATION_PATH
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.dialects import Dialect
from fhir_bulk_middleware.export.exporter import Exporter
from fhir_bulk_middleware.export.runner import LoopRunner, ProcessRunner
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.observing import Observers
from fhir_bulk_middleware.protocols import TokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["Stores", "application", "audit_of", "exporter"]


@dataclass(frozen=True, slots=True)
class Stores:
    """What lies in a STATE folder."""

    resources: SQLiteResourceStore
    jobs: SQLiteJobStore
    outputs: FileOutputStore

    @classmethod
    def of(cls, state: State) -> "Stores":
        """Open them; those that are missing are made when they are first written to."""
        state.make()
        return cls(SQLiteResourceStore(state.store), SQLiteJobStore(state.jobs), FileOutputStore(state.exports))

    def close(self) -> None:
        """Close the files."""
        self.resources.close()
        self.jobs.close()


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
    """The demo host, with bulk data installed below the same base path, and the authorization server if there is one."""
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
        observers=[AuditFile(state.audit)] if audit else [],
    )
    bulk.install(host, base)
    if authorization is not None:
        host.router.routes.insert(0, Mount(f"{base}{AUTHORIZATION_PATH}", authorization.app))
    return host


def exporter(state: State, stores: Stores, settings: Settings) -> Exporter:
    """The work that the server's own workers do."""
    return Exporter(stores.resources, stores.jobs, stores.outputs, settings, system_clock, observers=audit_of(state))


def audit_of(state: State) -> Observers:
    """Who is told by helpers of a server: its audit file, if it keeps one."""
    return Observers([AuditFile(state.audit)] if state.audit.exists() else [])
