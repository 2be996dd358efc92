"""A small bulk data client: kick off, poll, fetch, check. For the demo and for tests; it needs httpx2 (extra `demo`).

It is a client, so it knows HTTP statuses by their names; the product itself leaves them to its dialects.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio

try:
    import httpx2
except ImportError as error:
    raise ImportError("the demo client needs httpx2: pip install 'fhir-bulk-middleware[demo]'") from error

from fhir_bulk_middleware.demo.download import Download, Fetched
from fhir_bulk_middleware.demo.manifest_reading import Manifest, ManifestFile

__all__ = ["BulkClient", "InProgress", "Unexpected"]

_PAUSE: Final = 1.0
"""Seconds between two polls when the server does not say how many."""

_LONGEST_PAUSE: Final = 120.0

Parameters = Mapping[str, str | list[str]]


class Unexpected(Exception):  # noqa: N818 - an answer, not an error of the program
    """An answer that does not belong into the flow of an export.

    Attributes:
        status: its HTTP status.
        body: the beginning of its body; the issues, where it is an OperationOutcome.
    """

    def __init__(self, wanted: str, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.body = _issues(response)
        super().__init__(f"{wanted} expected, got {self.status} {response.reason_phrase}: {self.body}")


@dataclass(frozen=True, slots=True)
class InProgress:
    """The answer to a poll while the export runs.

    Attributes:
        text: the server's `X-Progress`.
        pause: how many seconds to wait until the next poll.
    """

    text: str
    pause: float


class BulkClient:
    """Takes an export home.

    Args:
        http: sends the requests; its base URL, limits and timeouts are the caller's.
        token: gives the bearer token for each request, so that it can be a fresh one.
        sleep: waits some seconds between polls.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        token: Callable[[], str],
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._http = http
        self._token = token
        self._sleep = sleep

    async def kick_off(self, url: str, parameters: Parameters | None = None) -> str:
        """Begin an export; the URL to poll.

        Raises:
            Unexpected: the server did not accept it.
        """
        headers = {**self._bearer(), "accept": "application/fhir+json", "prefer": "respond-async"}
        response = await self._http.get(url, params=parameters, headers=headers)
        if response.status_code != HTTPStatus.ACCEPTED:
            raise Unexpected("202 with a Content-Location", response)
        return response.headers["content-location"]

    async def poll(self, status_url: str) -> InProgress | Manifest:
        """Ask once how far it is.

        Raises:
            Unexpected: the export failed, or is gone.
        """
        response = await self._http.get(status_url, headers={**self._bearer(), "accept": "application/json"})
        if response.status_code == HTTPStatus.OK:
            return Manifest.of(response.json())
        if response.status_code in {HTTPStatus.ACCEPTED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            return InProgress(response.headers.get("x-progress", ""), _pause(response.headers.get("retry-after")))
        raise Unexpected("202 or a manifest", response)

    async def wait(self, status_url: str) -> AsyncIterator[InProgress | Manifest]:
        """Poll until the manifest is there, as often as the server asks for; the manifest is the last item.

        Raises:
            Unexpected: the export failed, or is gone.
        """
        while True:
            answer = await self.poll(status_url)
            yield answer
            if isinstance(answer, Manifest):
                return
            await self._sleep(answer.pause)

    async def cancel(self, status_url: str) -> None:
        """Give the export up, or tell the server that its files can go.

        Raises:
            Unexpected: there is no such export any more.
        """
        response = await self._http.delete(status_url, headers=self._bearer())
        if response.status_code != HTTPStatus.ACCEPTED:
            raise Unexpected("202", response)

    async def fetch(
        self,
        manifest: Manifest,
        folder: Path,
        *,
        connections: int = 4,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[Fetched]:
        """Fetch all files of a manifest into a folder, several at a time, and check each against the manifest.

        A file that is not as the manifest has it keeps the suffix `.part`, and its `Fetched` says why.

        Args:
            manifest: which files.
            folder: where to; it is made if it is missing.
            connections: how many at a time.
            progress: called with the number of bytes that have just been written.

        Raises:
            Unexpected: a file was refused.
            httpx2.HTTPError: a connection broke.
        """
        fetched: dict[int, Fetched] = {}
        todo = iter(enumerate(_names(manifest)))

        async def one_connection() -> None:
            for number, (file, name) in todo:  # shared: each connection takes the next file when it has done one
                fetched[number] = await self._fetch(manifest, file, folder / name, progress)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(connections):
                    group.start_soon(one_connection)
        except ExceptionGroup as failed:
            # The first one stops the others; that there were others is no news.
            raise failed.exceptions[0] from None
        return [fetched[number] for number in sorted(fetched)]

    async def _fetch(self, manifest: Manifest, file: ManifestFile, path: Path, progress: Callable[[int], None]) -> Fetched:
        headers = {"accept": "application/fhir+ndjson", "accept-encoding": "gzip"}
        if manifest.requires_access_token:
            headers |= self._bearer()
        began = time.perf_counter()
        with Download(path) as download:
            async with self._http.stream("GET", file.url, headers=headers) as response:
                if response.status_code != HTTPStatus.OK:
                    await response.aread()
                    raise Unexpected("200 with a file", response)
                async for chunk in response.aiter_bytes(256 * 1024):
                    download.write(chunk)
                    progress(len(chunk))
                return download.finish(file, transferred=response.num_bytes_downloaded, seconds=time.perf_counter() - began)

    def _bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token()}"}


def _names(manifest: Manifest) -> list[tuple[ManifestFile, str]]:
    """Each file with its name: type and number. What the server says becomes part of a path only if it is a plain word."""
    seen: dict[str, int] = {}
    names = []
    for file in manifest.files:
        stem = file.type if file.type.isascii() and file.type.isalpha() else "resources"
        stem = stem if file.list == "output" else f"{file.list}-{stem}"
        seen[stem] = seen.get(stem, 0) + 1
        names.append((file, f"{stem}-{seen[stem]:03}.ndjson"))
    return names


def _pause(retry_after: str | None) -> float:
    """Seconds to wait: `Retry-After` as seconds or as a date (ST-04)."""
    if retry_after is None:
        return _PAUSE
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except ValueError:
            return _PAUSE
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


def _issues(response: httpx2.Response) -> str:
    try:
        issues = response.json()["issue"]
        return "; ".join(issue.get("diagnostics") or issue.get("details", {}).get("text") or issue["code"] for issue in issues)
    except (ValueError, LookupError, TypeError, AttributeError):
        return response.text[:500]
