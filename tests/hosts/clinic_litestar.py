"""A host on Litestar."""

from collections.abc import AsyncIterator
from typing import Any

from clinic_parts import CHUNKS, digest, lifespan, static_folder
from clinic_starlette import OwnMiddleware
from litestar import Litestar, MediaType, Request, Response, WebSocket, delete, get, post, websocket
from litestar.datastructures import Cookie
from litestar.openapi.config import OpenAPIConfig
from litestar.response import Redirect, Stream
from litestar.static_files import create_static_files_router

BASE = "/fhir"


@get("/fhir/metadata")
async def metadata() -> dict[str, str]:
    return {"resourceType": "CapabilityStatement", "status": "active"}


@get("/fhir/Patient")
async def patients(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return {"asked": sorted(request.query_params.multi_items())}


@post("/fhir/Patient")
async def create(data: dict[str, Any]) -> dict[str, Any]:
    return data


@get("/fhir/Patient/{id:str}", media_type=MediaType.TEXT)
async def patient(request: Request[Any, Any, Any]) -> str:
    return f"patient {request.path_params['id']}"


@delete("/fhir/Patient/{id:str}")
async def delete_patient() -> None:
    """Nothing is kept."""


@delete("/notes/{id:path}", status_code=200)
async def delete_note(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {"deleted": str(request.path_params["id"])}


@post("/echo", media_type=MediaType.TEXT)
async def echo(request: Request[Any, Any, Any]) -> str:
    return digest(await request.body())


async def _chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


async def _broken() -> AsyncIterator[bytes]:
    yield CHUNKS[0]
    raise RuntimeError("the clinic's stream breaks")


@get("/stream")
async def stream() -> Stream:
    return Stream(_chunks(), media_type="text/plain")


@get("/broken-stream")
async def broken_stream() -> Stream:
    return Stream(_broken(), media_type="text/plain")


@get("/fault")
async def fault() -> None:
    raise RuntimeError("a fault of the clinic")


@get("/cookies", media_type=MediaType.TEXT)
async def cookies(request: Request[Any, Any, Any]) -> Response[str]:
    return Response(str(sorted(request.cookies.items())), cookies=[Cookie("first", "1", max_age=60), Cookie("second", "2")])


@get("/state", media_type=MediaType.TEXT)
async def state(request: Request[Any, Any, Any]) -> str:
    return str(request.app.state.get("started", "no"))


@get("/named", media_type=MediaType.TEXT, name="named")
async def named(request: Request[Any, Any, Any]) -> str:
    return f"{request.url_for('named')} {request.scope.get('root_path')!r} {request.base_url}"


@get("/moved")
async def moved() -> Redirect:
    return Redirect("/fhir/Patient/1", status_code=301)


@post("/nothing", status_code=204)
async def nothing() -> None:
    """Nothing."""


@websocket("/talk")
async def talk(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="clinic")
    await socket.send_text(f"{socket.url.path} {await socket.receive_text()}")
    await socket.close(4001, "said it")


def app() -> Litestar:
    """The host."""
    return Litestar(
        [
            *[metadata, patients, create, patient, delete_patient, delete_note, echo, stream, broken_stream, fault],
            *[cookies, state, named, moved, nothing, talk],
            create_static_files_router("/static", [static_folder()]),
        ],
        lifespan=[lifespan],
        middleware=[OwnMiddleware],
        openapi_config=OpenAPIConfig(title="Clinic", version="1"),
    )
