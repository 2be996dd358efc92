"""The demo host with the middleware installed, on a STATE folder."""

from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.dialects import STANDARD, Dialect
from fhir_bulk_middleware.export.exporter import Exporter
from fhir_bulk_middleware.export.runner import ProcessRunner
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.protocols import TokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["Keys", "Parts", "application"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Whose tokens are good.

    Attributes:
        jwks: the file or URL of the issuer's public keys.
        issuer: the tokens' issuer.
        audience: the tokens' audience.
    """

    jwks: str
    issuer: str
    audience: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What lies in a STATE folder, opened."""

    state: State
    settings: Settings = field(default_factory=Settings)

    # TODO
