"""ASGI middleware that attaches a `BulkData` to any ASGI application, lifespan included."""

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_bulk_middleware.app import BulkData

__all__ = ["BulkDataMiddleware"]


class BulkDataMiddleware:
    """Answers requests to our routes, and passes all others to the host unchanged.

    Starts the engine after the host has started, and stops it before the host stops. A host without a lifespan is supported.

    Args:
        app: the host.
        bulk: our application.
        base: the path below which the host serves FHIR.
        amend_metadata: whether to add our operations to the host's CapabilityStatement.
    """

    def __init__(self, app: ASGIApp, bulk: BulkData, base: str = "/fhir", *, amend_metadata: bool = True) -> None:
        self._app = app
        self._bulk = bulk
        self._front = bulk.front(app, base, amend_metadata=amend_metadata)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            match, child = self._front.matches(scope)
            if match is Match.FULL:
                await self._front.handle({**scope, **child}, receive, send)
                return
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap the host's lifespan, or answer the server for a host without one."""
        lifespan = _Lifespan(self._bulk, receive, send)
        try:
            await self._app(scope, lifespan.receive, lifespan.send)
        except Exception:  # a host without a lifespan may raise anything; one that has a lifespan has failed
            if lifespan.answered:
                raise
        finally:
            await lifespan.stop()
        if not lifespan.answered:
            await lifespan.answer_for_host()


class _Lifespan:
    """The messages of one lifespan between server and host."""

    def __init__(self, bulk: BulkData, receive: Receive, send: Send) -> None:
        self._bulk = bulk
        self._receive = receive
        self._send = send
        self._asked = False
        self._running = False
        self.answered = False

    async def receive(self) -> Message:
        """A message of the server. Our engine stops before the host receives the shutdown."""
        message = await self._receive()
        self._asked = True
        if message["type"] == "lifespan.shutdown":
            await self.stop()
        return message

    async def send(self, message: Message) -> None:
        """A message of the host. Our engine starts when the host has started."""
        self.answered = True
        if message["type"] == "lifespan.startup.complete":
            message = await self._start()
        await self._send(message)

    async def stop(self) -> None:
        """Stop our engine, if it runs."""
        if self._running:
            self._running = False
            await self._bulk.engine.stop()

    async def answer_for_host(self) -> None:
        """Complete the lifespan protocol for a host without one (Django raises on that scope)."""
        if not self._asked:
            await self._receive()
        message = await self._start()
        await self._send(message)
        if message["type"] == "lifespan.startup.failed":
            return
        try:
            await self._receive()
        finally:
            await self.stop()
        await self._send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> Message:
        try:
            await self._bulk.engine.start()
        except Exception as error:  # noqa: BLE001 - the server logs the message and ends; that is the protocol
            return {"type": "lifespan.startup.failed", "message": f"bulk export did not start: {error}"}
        self._running = True
        return {"type": "lifespan.startup.complete"}
