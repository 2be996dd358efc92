"""Exports as a client takes them: with the client that `fhir-bulk demo` uses, which checks each file against the manifest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2

from fhir_bulk_middleware.demo.client import BulkClient
from fhir_bulk_middleware.demo.manifest_reading import Manifest

_PAUSE = 0.05


async def exported(
    http: httpx2.AsyncClient, token: str, folder: Path, url: str = "/$export", **parameters: str
) -> tuple[Manifest, dict[str, list[dict[str, Any]]]]:
    """The manifest of an export, and the parsed lines of its files by the manifest's list."""
    client = BulkClient(http, lambda: token, sleep=lambda _: anyio.sleep(_PAUSE))
    location = await client.kick_off(url, parameters or None)
    (manifest,) = [answer async for answer in client.wait(location) if isinstance(answer, Manifest)]
    found: dict[str, list[dict[str, Any]]] = {}
    for fetched in await client.fetch(manifest, folder):
        assert not fetched.problems, fetched.problems
        found.setdefault(fetched.file.list, []).extend(map(json.loads, fetched.path.read_bytes().splitlines()))
    return manifest, found


def polled(ask: Callable[[str], httpx2.Response], location: str) -> httpx2.Response:
    """The first answer to a poll that neither says that the job goes on nor that the poll came too soon."""
    while (answer := ask(location)).status_code in {202, 429}:
        pass
    return answer
