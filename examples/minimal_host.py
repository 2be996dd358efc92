"""A FHIR server with one table, and bulk data export added to it.

Run it: `uvicorn --factory minimal_host:app`
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fhir_bulk_middleware import (
    Authorisation,
    BulkData,
    Compartments,
    FileOutputStore,
    JoseTokenVerifier,
    Page,
    Principal,
    Query,
    SQLiteJobStore,
    TokenVerifier,
)

PATIENTS = """
    SELECT id, json FROM patient WHERE id > ? AND updated > ? AND updated <= ? ORDER BY id LIMIT 100
"""


class Warehouse:
    """The storage adapter: two methods. Each further protocol that it implements adds a capability."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def authorise(self, principal: Principal) -> Authorisation:
        """What the bearer of the token may export, scopes aside."""
        return Authorisation(types=frozenset({"Patient"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """Resources as lines of compact JSON, in one fixed order, beginning after a cursor; instants are microseconds."""
        window, cursor = query.window, after or ""
        bounds = (window.since or 0, window.until or 2**63 - 1)
        with closing(sqlite3.connect(self._path)) as database:
            while rows := database.execute(PATIENTS, (cursor, *bounds)).fetchall():
                cursor = rows[-1][0]
                lines = [json for id_, json in rows if wanted(query, id_)]
                if lines:
                    yield Page("".join(f"{line}\n" for line in lines).encode(), len(lines), cursor)


def wanted(query: Query, id_: str) -> bool:
    """Whether a patient is among those that are asked for."""
    selection = query.selection
    return not isinstance(selection, Compartments) or f"Patient/{id_}" in selection.references


async def metadata(request: Request) -> JSONResponse:
    """A route of the host's own; it goes on working."""
    return JSONResponse({"resourceType": "CapabilityStatement", "status": "active", "kind": "instance"})


def host(folder: Path, verifier: TokenVerifier) -> Starlette:
    """The host, with bulk data export below `/fhir`."""
    app = Starlette(routes=[Route("/fhir/metadata", metadata)])
    bulk = BulkData(
        resources=Warehouse(folder / "warehouse.db"),
        verifier=verifier,
        jobs=SQLiteJobStore(folder / "jobs.db"),
        outputs=FileOutputStore(folder / "exports"),
    )
    bulk.install(app, base="/fhir")
    return app


def app() -> Starlette:
    """For uvicorn."""
    verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
    return host(Path("state"), verifier)
