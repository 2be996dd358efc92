"""The server that is measured: the middleware, and beside it, in the same process, what it is compared with.

`python -m tests.benchmarks.served FOLDER STORE FD WORKERS NICENESS`; the folder has a key set.
With -1 workers, exports run in its loop.
"""

import json
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from jose import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.running import JobRunner, Work
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.middleware import BulkDataMiddleware
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

from .commits import count_commits
from .watch import WatchedStore

__all__ = ["AUDIENCE", "IN_LOOP", "ISSUER", "PATIENT", "Nobody"]

ISSUER = "https://benchmark.example"
AUDIENCE = "https://benchmark.example/fhir"
_ALGORITHMS = ["RS384", "ES384", "RS256", "ES256"]
IN_LOOP = -1
"""Instead of a number of workers: exports run in the server's loop, as those of an adapter without a recipe do."""
PATIENT = b'{"resourceType":"Patient","id":"1","active":true}'


class Nobody:
    """A runner that never works, so that what is asked for stays as it is."""

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        del work
        yield

    def wake(self) -> None:
        pass


def _host(base: str) -> Starlette:
    """A host with some routes of its own, as a small FHIR server has them."""

    async def read(_: Request) -> Response:
        return Response(PATIENT, media_type="application/fhir+json")

    paths = ("metadata", "{type}/{id}/_history/{version}", "{type}/{id}/_history", "{type}/{id}", "{type}")
    return Starlette(routes=[Route(f"{base}/{path}", read) for path in paths])


def _bulk(folder: Path, store: Path, workers: int, niceness: int) -> BulkData:
    settings = Settings(
        worker_processes=max(workers, 0),
        worker_niceness=niceness,
        reuse="never",  # of several exports of one store, each is to be measured as the first
        retry_after=1,
        first_poll_wait=1 if workers else 0,  # where nothing works, a held poll is only slow
        poll_burst=10**9,
        polls_per_second=1e6,
        requests_per_owner=10**9,
        kick_offs_per_minute=10**9 if workers else 60,
        refusals_per_minute=10**9 if workers else 300,
    )
    runner: JobRunner = Nobody()
    if workers:
        runner = LoopRunner() if workers == IN_LOOP else ProcessRunner(folder / "runner", settings)
    return BulkData(
        resources=WatchedStore(store),
        verifier=JoseTokenVerifier(jwks=json.loads((folder / "jwks.json").read_text()), issuer=ISSUER, audience=AUDIENCE),
        jobs=SQLiteJobStore(folder / "jobs.db"),
        outputs=FileOutputStore(folder / "exports"),
        runner=runner,
        settings=settings,
    )


def application(folder: Path, store: Path, workers: int, niceness: int) -> ASGIApp:
    """Everything below one roof; the first segment of the path chooses."""
    bulk = _bulk(folder, store, workers, niceness)
    main = _host("/fhir")
    bulk.install(main, "/fhir")
    installed = _host("/installed")
    bulk.install(installed, "/installed")

    keys = json.loads((folder / "jwks.json").read_text())

    async def accepted(_: Request) -> Response:
        return Response(None, 202)

    async def verified(request: Request) -> Response:
        """As hosts do it: python-jose looks at each token anew."""
        token = request.headers["authorization"].removeprefix("Bearer ")
        jwt.decode(token, keys, algorithms=_ALGORITHMS, audience=AUDIENCE, issuer=ISSUER)
        return Response(None, 202)

    async def file(request: Request) -> Response:
        return FileResponse(folder / "exports" / request.path_params["key"])

    paths = {"/bare": accepted, "/bare/verified": verified, "/bare/file/{key:path}": file}
    bare = Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])
    below: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
        "bare": bare,
        "around": BulkDataMiddleware(_host("/around"), bulk, "/around"),
        "installed": installed,
        "without": _host("/without"),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = below.get(scope["path"].split("/", 2)[1], main) if scope["type"] == "http" else main
        await chosen(scope, receive, send)

    return app


def main() -> None:
    """Serve until killed or until stdin ends."""
    folder, store, fd, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    # An idle connection is kept: a scenario may do something else for longer than uvicorn waits.
    count_commits(store.parent)
    config = uvicorn.Config(
        application(folder, store, workers, int(sys.argv[5])), fd=fd, log_level="error", access_log=False, timeout_keep_alive=600
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main()
