"""A factory for servers of several processes (`uvicorn --factory served:app --workers 4`), with STATE in the environment."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State
from fhir_bulk_middleware.cli.wiring import Stores, application
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings


async def process(_: Request) -> PlainTextResponse:
    """Which process answers."""
    return PlainTextResponse(str(os.getpid()))


def app() -> Starlette:
    state = State(Path(os.environ["STATE"]))
    verifier = JoseTokenVerifier(jwks=state.mint().jwks, issuer=ISSUER, audience=AUDIENCE)
    settings = Settings(
        worker_processes=2,
        jobs_per_owner=3,
        page_bytes=2048,
        part_bytes=16_384,
        slice_bytes=65_536,
        poll_burst=1_000,
        polls_per_second=1_000,
    )
    host = application(state, Stores.of(state), verifier, settings, dialect=STANDARD, base="/fhir")
    host.router.routes.insert(0, Route("/process", process))
    return host
