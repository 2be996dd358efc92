"""A factory for servers on machines of their own (`uvicorn --factory far_apart:app`) that share PostgreSQL and files.

In the environment: DSN, SCHEMA, SHARED (the folder), and TMPDIR, a folder that is this machine's own.
"""

import os
import time
from pathlib import Path

from listed import Complete, observation
from starlette.applications import Starlette

from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, Settings
from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.stores.postgres import PostgresJobStore

COUNT = 30
"""Resources, in slices of three."""


class Far(Complete):
    """Slices of three resources; a worker says that it reached its first page, then blocks until it is let through."""

    def __init__(self, folder: str) -> None:
        super().__init__({"Observation": [observation(number) for number in range(COUNT)]})
        self._folder = Path(folder)

    def recipe(self) -> Recipe:
        return Recipe("far_apart:Far", {"folder": str(self._folder)})

    async def before_page(self, number: int) -> None:
        del number
        (self._folder / f"reached-{os.getpid()}").touch()
        while not (self._folder / "open").exists():
            time.sleep(0.002)  # noqa: ASYNC251 - an adapter that blocks is what it is about


def bulk() -> BulkData:
    shared = Path(os.environ["SHARED"])
    return BulkData(
        resources=Far(str(shared)),
        verifier=JoseTokenVerifier(jwks=State(shared).mint().jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=PostgresJobStore(os.environ["DSN"], schema=os.environ["SCHEMA"]),
        outputs=FileOutputStore(shared / "exports"),
        settings=Settings(
            worker_processes=1, lease_seconds=4, renew_seconds=1, poll_burst=1_000, polls_per_second=1_000, first_poll_wait=0
        ),
        adapter="far",
    )


def app() -> Starlette:
    host = Starlette()
    bulk().install(host, "/fhir")
    return host
