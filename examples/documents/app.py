"""A small FHIR server on `DocumentStorage`: read, write and delete resources, and export them.

Run it: `uvicorn documents.app:app`, with the address of the database in `DOCUMENTS_DSN` and the folder of keys, jobs and files in
`DOCUMENTS_STATE`. `python -m documents.app` makes the tables.
"""

import asyncio
import os
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from documents.storage import DocumentStorage
from documents.writing import SCHEMA
from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, Settings, SQLiteJobStore

__all__ = ["app", "host"]

_FHIR = "application/fhir+json"


def host(storage: DocumentStorage, state: Path, settings: Settings | None = None) -> Starlette:
    """The server. Who may call its own routes is the business of its own middleware, which this example leaves out."""

    async def read(request: Request) -> Response:
        json = await asyncio.to_thread(storage.read, request.path_params["type"], request.path_params["id"])
        return Response(status_code=404) if json is None else Response(json, media_type=_FHIR)

    async def write(request: Request) -> Response:
        try:
            await asyncio.to_thread(storage.write, await request.body())
        except ValueError as error:
            return Response(f"not a resource: {error}", 400)
        return Response(status_code=200)

    async def delete(request: Request) -> Response:
        await asyncio.to_thread(storage.delete, request.path_params["type"], request.path_params["id"])
        return Response(status_code=204)

    path = "/fhir/{type}/{id}"
    app = Starlette(
        routes=[Route(path, read), Route(path, write, methods=["PUT"]), Route(path, delete, methods=["DELETE"])],
    )
    bulk = BulkData(
        resources=storage,
        verifier=JoseTokenVerifier(jwks=state / "keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir"),
        jobs=SQLiteJobStore(state / "jobs.db"),
        outputs=FileOutputStore(state / "exports"),
        settings=settings or Settings(),
    )
    bulk.install(app, base="/fhir")
    return app


def app() -> Starlette:
    """For uvicorn."""
    return host(DocumentStorage(os.environ["DOCUMENTS_DSN"]), Path(os.environ.get("DOCUMENTS_STATE", "state")))


if __name__ == "__main__":
    with psycopg.connect(os.environ["DOCUMENTS_DSN"], autocommit=True) as database:
        database.execute(SCHEMA.encode())
