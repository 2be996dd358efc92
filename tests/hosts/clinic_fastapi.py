"""A host on FastAPI, with dependencies, documentation pages, and Starlette's routes where FastAPI has no other."""

from collections.abc import Iterable
from typing import Annotated, Any

import clinic_starlette
from clinic_parts import lifespan, static_folder
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, HTTPException, Query
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute, Mount

BASE = "/fhir"
_SAME = {"/echo", "/stream", "/broken-stream", "/fault", "/cookies", "/state", "/named/", "/moved", "/nothing", "/talk"}


def asks(kind: Annotated[str, Query()] = "none") -> str:
    """A dependency."""
    if kind == "forbidden":
        raise HTTPException(403, "this kind is forbidden")
    return kind


def router() -> APIRouter:
    """The routes that are FastAPI's own."""
    found = APIRouter()

    @found.get(f"{BASE}/metadata")
    async def metadata() -> dict[str, str]:
        return {"resourceType": "CapabilityStatement", "status": "active"}

    @found.get(f"{BASE}/Patient")
    def patients(kind: Annotated[str, Depends(asks)], _count: int = 10) -> dict[str, Any]:
        return {"kind": kind, "count": _count}

    @found.post(f"{BASE}/Patient", status_code=201)
    async def create(name: Annotated[str, Body(embed=True)], tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(str)
        return {"name": name}

    @found.get(f"{BASE}/Patient/{{id}}")
    async def patient(id: str) -> PlainTextResponse:  # noqa: A002 - the host's own name
        return PlainTextResponse(f"patient {id}")

    @found.delete(f"{BASE}/Patient/{{id}}", status_code=204)
    async def delete(id: str) -> None:  # noqa: A002
        del id

    @found.delete("/notes/{id:path}")
    async def delete_note(id: str) -> dict[str, str]:  # noqa: A002
        return {"deleted": id}

    return found


def common(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """The routes of the Starlette host that this one has too."""
    return [route for route in routes if getattr(route, "path", "") in _SAME]


def app() -> FastAPI:
    """The host."""
    made = FastAPI(title="Clinic", lifespan=lifespan)
    made.include_router(router())
    made.router.routes.extend(common(clinic_starlette.app().routes))
    made.router.routes.append(Mount("/static", StaticFiles(directory=static_folder())))
    made.add_middleware(clinic_starlette.OwnMiddleware)
    made.add_exception_handler(404, clinic_starlette.lost)
    return made
