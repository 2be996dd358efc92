"""A small bulk data client: kick off, poll, fetch, check. For the demo and for tests; it needs httpx2 (extra `demo`).

As a client it uses HTTP statuses directly, which the rest of the package leaves to its dialects.
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
"""Seconds between two polls without a `Retry-After`."""

_LONGEST_PAUSE: Final = 120.0

Parameters = Mapping[str, str | list[str]]


class Unexpected(Exception):  # noqa: N818 - a response, not an error of the program
    """An unexpected response.

    Attributes:
        status: its HTTP status.
        body: the issues of an OperationOutcome, or the beginning of another body.
    """

    def __init__(self, wanted: str, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.body = _issues(response)
        super().__init__(f"{wanted} expected, got {self.status} {response.reason_phrase}: {self.body}")


@dataclass(frozen=True, slots=True)
class InProgress:
    """The response to a poll while the export runs.

    Attributes:
        text: the server's `X-Progress`.
        pause: seconds until the next poll.
    """

    text: str
    pause: float


class BulkClient:
    """A bulk data client.

    Args:
        http: sends the requests; the caller sets its base URL, limits and timeouts.
        token: returns the bearer token, empty for a server without authorization; called for each request, so that it can be
            a fresh one.
        sleep: waits between polls; its argument is seconds.
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
        """Kick off an export and return the URL to poll.

        Raises:
            Unexpected: the server did not accept it.
        """
        headers = {**self._bearer(), "accept": "application/fhir+json", "prefer": "respond-async"}
        response = await self._http.get(url, params=parameters, headers=headers)
        if response.status_code != HTTPStatus.ACCEPTED:
            raise Unexpected("202 with a Content-Location", response)
        return response.headers["content-location"]

    async def poll(self, status_url: str) -> InProgress | Manifest:
        """Poll once.

        Raises:
            Unexpected: the export failed, or does not exist any more.
        """
        response = await self._http.get(status_url, headers={**self._bearer(), "accept": "application/json"})
        if response.status_code == HTTPStatus.OK:
            return Manifest.of(response.json())
        if response.status_code in {HTTPStatus.ACCEPTED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            return InProgress(response.headers.get("x-progress", ""), _pause(response.headers.get("retry-after")))
        raise Unexpected("202 or a manifest", response)

    async def wait(self, status_url: str) -> AsyncIterator[InProgress | Manifest]:
        """Poll at the server's pace until the export is complete; the last item is the manifest.

        Raises:
            Unexpected: the export failed, or does not exist any more.
        """
        while True:
            answer = await self.poll(status_url)
            yield answer
            if isinstance(answer, Manifest):
                return
            await self._sleep(answer.pause)

    async def cancel(self, status_url: str) -> None:
        """Cancel an export, or release the files of a complete one.

        Raises:
            Unexpected: the export does not exist any more.
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

        A file that differs from the manifest keeps the suffix `.part`, and its `Fetched` has the problems.

        Args:
            manifest: the manifest.
            folder: the target; made if it is missing.
            connections: number of concurrent downloads.
            progress: called with the number of bytes of each write.

        Raises:
            Unexpected: a file was refused.
            httpx2.HTTPError: a connection broke.
        """
        fetched: dict[int, Fetched] = {}
        todo = iter(enumerate(_names(manifest)))

        async def one_connection() -> None:
            for number, (file, name) in todo:  # shared: each connection takes the next file
                fetched[number] = await self._fetch(manifest, file, folder / name, progress)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(connections):
                    group.start_soon(one_connection)
        except ExceptionGroup as failed:
            # The first failure cancels the other downloads; the others add no information.
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
        token = self._token()
        return {"authorization": f"Bearer {token}"} if token else {}


def _names(manifest: Manifest) -> list[tuple[ManifestFile, str]]:
    """Each file with a local name of type and number. A type from the server is used only if it is alphabetic ASCII."""
    seen: dict[str, int] = {}
    names = []
    for file in manifest.files:
        stem = file.type if file.type.isascii() and file.type.isalpha() else "resources"
        stem = stem if file.list == "output" else f"{file.list}-{stem}"
        seen[stem] = seen.get(stem, 0) + 1
        names.append((file, f"{stem}-{seen[stem]:03}.ndjson"))
    return names


def _pause(retry_after: str | None) -> float:
    """The seconds in a `Retry-After` header, which has seconds or a date (ST-04)."""
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
