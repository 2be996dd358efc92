"""Response headers that protect patient data from browsers, proxies and caches.

`nosniff`: a browser must not run a body as a script. `no-referrer`: a browser must not pass the URL of a job or file on to other
sites. `no-store`: caches must not keep an answer, which depends on the caller and the time (ST-25).
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["NOT_STORED", "PROTECTIVE", "ProtectiveHeaders"]

NOT_STORED = (b"cache-control", b"no-store")
PROTECTIVE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class ProtectiveHeaders:
    """ASGI middleware that adds these headers to each answer, unless the answer sets them.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                there = {name.lower() for name, _ in headers}
                headers += [header for header in (NOT_STORED, *PROTECTIVE) if header[0] not in there]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, protected if scope["type"] == "http" else send)
