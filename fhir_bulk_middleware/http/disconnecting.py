"""Notices that the client of a request has disconnected."""

import anyio
from starlette.requests import Request

__all__ = ["disconnected"]


async def disconnected(request: Request) -> None:
    """Wait until the client of the request is gone. What is left of the body is discarded, so nothing may read it afterwards."""
    ended = False
    while (message := await request.receive())["type"] != "http.disconnect":
        if ended:  # the server sends the end of the body again and again, so it would keep the loop busy and tell nothing
            await anyio.sleep_forever()
        ended = not message.get("more_body", False)
