"""A factory for servers of one STATE that hold polls open (`uvicorn --factory holding:app`).

In the environment: STATE; LOOK, after how many seconds a held poll looks at its job unasked; HOLD, for how many seconds a poll is
held at most. With IDLE nothing works on jobs.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State
from fhir_bulk_middleware.cli.wiring import Stores
from fhir_bulk_middleware.contract.running import Work
from fhir_bulk_middleware.jobs import held_polls, service
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.runner import ProcessRunner


class Idle:
    """A runner that never works, so that jobs stay as they are."""

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        del work
        yield

    def wake(self) -> None:
        """Nothing to wake."""


def app() -> Starlette:
    held_polls.LOOK_SECONDS = float(os.environ["LOOK"])
    vars(service)["HOLD_SECONDS"] = int(os.environ["HOLD"])
    state = State(Path(os.environ["STATE"]))
    stores = Stores.of(state)
    settings = Settings(worker_processes=2, jobs_per_owner=50, poll_burst=1_000, kick_offs_per_minute=6_000)
    host = Starlette()
    bulk = BulkData(
        resources=stores.resources,
        verifier=JoseTokenVerifier(jwks=state.mint().jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=stores.jobs,
        outputs=stores.outputs,
        runner=Idle() if "IDLE" in os.environ else ProcessRunner(state.runner, settings),
        settings=settings,
        adapter="state",
    )
    bulk.install(host, "/fhir")
    return host
