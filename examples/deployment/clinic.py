"""The host that `compose.yaml` and `kubernetes.yaml` run: servers are `deployment.clinic:app`, and workers use its `bulk`.

Resources are documents in PostgreSQL. All that differs between places comes from the environment, secrets too.
"""

import asyncio
import json
import os

from documents.storage import DocumentStorage
from documents.writing import SCHEMA
from starlette.applications import Starlette

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.stores.postgres import PostgresJobStore

__all__ = ["app", "bulk"]


class Clinic(DocumentStorage):
    """The resources, with their tables."""

    async def migrate(self) -> None:
        """Make the tables if there are none (`SupportsMigration`)."""
        await asyncio.to_thread(self._migrate)

    def _migrate(self) -> None:
        with self.connection() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('clinic'))")
            if connection.execute("SELECT to_regclass('version')").fetchone() == (None,):
                connection.execute(SCHEMA.encode())


_dsn = os.environ["DATABASE_URL"]
_clinic = Clinic(_dsn)

bulk = BulkData(
    resources=_clinic,
    verifier=JoseTokenVerifier(jwks=os.environ["JWKS"], issuer=os.environ["ISSUER"], audience=os.environ["AUDIENCE"]),
    jobs=PostgresJobStore(_dsn),
    outputs=ObjectOutputStore(
        os.environ["EXPORTS_URL"],
        config=json.loads(os.environ.get("EXPORTS_CONFIG", "{}")),
        client_options=json.loads(os.environ.get("EXPORTS_CLIENT", "{}")),
    ),
    runner=ProcrastinateRunner(_dsn),
    settings=Settings.from_environment(),
    adapter="clinic",
)
app = Starlette()
bulk.install(app, base="/fhir")
