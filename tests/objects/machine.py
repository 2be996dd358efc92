"""What runs on each of several machines: `uvicorn --factory machine:app` and `fhir-bulk worker --app machine:bulk`.

In the environment: DSN, SCHEMA, OUTPUTS and SETTINGS (JSON), JWKS (JSON), and WORKERS, the number of workers.
"""

import json
import os
import socket
import time
from collections.abc import AsyncIterator

import psycopg
from house import AUDIENCE, ISSUER
from starlette.applications import Starlette

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore

_REACHED = "INSERT INTO {}.reached VALUES (%s) ON CONFLICT DO NOTHING"
_TOGETHER = "SELECT count(*) >= %s FROM {}.reached"


class Meeting(PostgresResourceStore):
    """Waits with its first page until every worker has reached one, so that all take part in an export."""

    def recipe(self) -> Recipe:
        return Recipe("machine:Meeting", super().recipe().arguments)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        self._meet()
        async for page in super().pages(query, after):
            yield page

    def _meet(self) -> None:
        schema = os.environ["SCHEMA"]
        with psycopg.connect(os.environ["DSN"], autocommit=True) as connection:
            connection.execute(_REACHED.format(schema).encode(), (f"{socket.gethostname()}-{os.getpid()}",))
            while connection.execute(_TOGETHER.format(schema).encode(), (os.environ["WORKERS"],)).fetchone() != (True,):
                time.sleep(0.02)


def made() -> BulkData:
    dsn, schema = os.environ["DSN"], os.environ["SCHEMA"]
    return BulkData(
        resources=Meeting(dsn, schema=schema),
        verifier=JoseTokenVerifier(jwks=json.loads(os.environ["JWKS"]), issuer=ISSUER, audience=AUDIENCE),
        jobs=PostgresJobStore(dsn, schema=schema),
        outputs=ObjectOutputStore(**json.loads(os.environ["OUTPUTS"])),
        runner=ProcrastinateRunner(dsn, schema=schema),
        settings=Settings(**json.loads(os.environ["SETTINGS"])),
        adapter="machines",
    )


bulk = made()


def app() -> Starlette:
    host = Starlette()
    bulk.install(host, "/fhir")
    return host
