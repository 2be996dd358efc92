"""A host on Starlette."""

from collections.abc import AsyncIterator
from typing import Any

from clinic_parts import CHUNKS, digest, lifespan, static_folder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

BASE = "/fhir"


class OwnMiddleware:
    """Marks each answer, and answers some requests itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (b"x-blocked", b"yes") in scope["headers"]:
            await PlainTextResponse("blocked by the clinic", 403)(scope, receive, send)
            return

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"X-Clinic", b"open")]}
            await send(message)

        await self._app(scope, receive, marked)


async def metadata(_: Request) -> Response:
    return JSONResponse({"resourceType": "CapabilityStatement", "status": "active"})


async def patient(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.path_params.get('id')} {request.url.query} {request.url.path}")


async def patients(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} patients {sorted(request.query_params.multi_items())}")


async def echo(request: Request) -> Response:
    return PlainTextResponse(digest(await request.body()), 201, {"Location": str(request.url)})


async def stream(_: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk

    return StreamingResponse(chunks(), media_type="text/plain")


async def broken_stream(_: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield CHUNKS[0]
        raise RuntimeError("the clinic's stream breaks")

    return StreamingResponse(chunks(), media_type="text/plain")


async def fault(_: Request) -> Response:
    raise RuntimeError("a fault of the clinic")


async def cookies(request: Request) -> Response:
    answer = PlainTextResponse(f"{sorted(request.cookies.items())}")
    answer.set_cookie("first", "1", max_age=60, httponly=True, samesite="strict")
    answer.set_cookie("second", "2", path="/fhir")
    return answer


async def state(request: Request) -> Response:
    return PlainTextResponse(getattr(request.state, "started", "no"))


async def named(request: Request) -> Response:
    return PlainTextResponse(f"{request.url_for('named')} {request.scope['root_path']!r} {request.base_url}")


async def moved(_: Request) -> Response:
    return RedirectResponse("/fhir/Patient/1", 301)


async def nothing(_: Request) -> Response:
    return Response(status_code=204)


async def talk(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="clinic")
    await websocket.send_text(f"{websocket.url.path} {await websocket.receive_text()}")
    await websocket.close(4001, "said it")


async def lost(*_: Any) -> Response:
    return PlainTextResponse("the clinic has no such page", 404, {"X-Lost": "yes"})


def app() -> Starlette:
    """The host."""
    return Starlette(
        routes=[
            Mount(
                BASE,
                routes=[
                    Route("/metadata", metadata),
                    Route("/Patient", patients, methods=["GET", "POST", "DELETE"]),
                    Route("/Patient/{id}", patient, methods=["GET", "PUT", "DELETE"]),
                    Route("/Binary/{id}", patient, methods=["GET", "DELETE"]),
                    Route("/$reindex", patients, methods=["POST"]),
                ],
            ),
            Route("/notes/{id:path}", patient, methods=["GET", "DELETE"]),
            Route("/echo", echo, methods=["POST", "PUT"]),
            Route("/stream", stream),
            Route("/broken-stream", broken_stream),
            Route("/fault", fault),
            Route("/cookies", cookies),
            Route("/state", state),
            Route("/named/", named),
            Route("/moved", moved),
            Route("/nothing", nothing, methods=["POST"]),
            Mount("/static", StaticFiles(directory=static_folder())),
            WebSocketRoute("/talk", talk),
        ],
        middleware=[Middleware(OwnMiddleware), Middleware(GZipMiddleware, minimum_size=8000)],
        exception_handlers={404: lost},
        lifespan=lifespan,
    )
