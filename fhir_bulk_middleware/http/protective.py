"""Headers that keep what a browser, a proxy or a cache does with patient data and its URLs within bounds.

`nosniff`: a body is what its media type says, never a script. `no-referrer`: the URL of a job or a file, which a page that shows
it would hand on, goes to nobody. `no-store`: an answer depends on who asks and on when (ST-25), so nobody keeps it.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["NOT_STORED", "PROTECTIVE", "ProtectiveHeaders"]

NOT_STORED = (b"cache-control", b"no-store")
PROTECTIVE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class ProtectiveHeaders:
    """ASGI middleware that adds these headers to each answer that has none of its own by that name.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                there = {name.lower() for name, _ in headers}
                headers += [header for header in (NOT_STORED, *PROTECTIVE) if header[0] not in there]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, protected if scope["type"] == "http" else send)
