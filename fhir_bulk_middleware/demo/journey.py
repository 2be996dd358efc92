"""Runs one export from end to end and shows its progress."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    import httpx2
except ImportError as error:
    raise ImportError("the demo needs httpx2: pip install 'fhir-bulk-middleware[demo]'") from error

from fhir_bulk_middleware.demo.client import BulkClient, InProgress
from fhir_bulk_middleware.demo.download import Fetched
from fhir_bulk_middleware.demo.manifest_reading import Manifest
from fhir_bulk_middleware.demo.show import Screen

__all__ = ["Journey", "show", "take_home"]

_PROGRESS = re.compile(r"([\d,]+) of about ([\d,]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Journey:
    """A downloaded export.

    Attributes:
        files: all its files.
        exporting: seconds from the kick-off to the manifest.
        fetching: seconds from the manifest to the last checked file.
    """

    manifest: Manifest
    files: tuple[Fetched, ...]
    exporting: float
    fetching: float

    @property
    def count(self) -> int:
        """The number of exported resources."""
        return sum(file.count for file in self.files if file.file.list == "output")

    @property
    def problems(self) -> list[str]:
        """Differences from the manifest, one sentence each; empty if there are none."""
        return [f"{file.path}: {problem}" for file in self.files for problem in file.problems]


async def take_home(base_url: str, token: Callable[[], str], folder: Path, out: Screen) -> Journey:
    """Export all resources of a server and download the files.

    Args:
        base_url: the server's base URL.
        token: returns a bearer token.
        folder: the folder for the files.
        out: shows the progress.

    Raises:
        Unexpected: the server sent an unexpected response.
        httpx2.HTTPError: the server cannot be reached.
    """
    async with httpx2.AsyncClient(timeout=60) as http:
        client = BulkClient(http, token)
        began = time.perf_counter()
        status_url = await client.kick_off(f"{base_url}/$export")
        with out.bar("Exporting  ", None, "resources") as advance:
            manifest = await _wait(client, status_url, advance)
        completed = time.perf_counter()
        size = sum(file.size or 0 for file in manifest.files)
        with out.bar("Downloading", size, "bytes") as advance:
            arrived = 0

            def progress(count: int) -> None:
                nonlocal arrived
                arrived += count
                advance(arrived)

            files = await client.fetch(manifest, folder, progress=progress)
        return Journey(manifest, tuple(files), completed - began, time.perf_counter() - completed)


async def _wait(client: BulkClient, status_url: str, advance: Callable[[float, float | None], None]) -> Manifest:
    async for answer in client.wait(status_url):
        if isinstance(answer, InProgress):
            known = _PROGRESS.search(answer.text)
            if known is not None:
                done, total = (float(number.replace(",", "")) for number in known.groups())
                advance(done, total)
        else:
            count = sum(file.count or 0 for file in answer.files if file.list == "output")
            advance(count, count)
            return answer
    raise AssertionError("waiting ends with a manifest")


def show(journey: Journey, out: Screen) -> None:
    """Show a table of the downloaded files, by type."""
    by_type: dict[str, list[Fetched]] = {}
    for file in journey.files:
        by_type.setdefault(file.file.type or file.file.list, []).append(file)
    rows = [_row(type_, files, sum(file.seconds for file in files)) for type_, files in sorted(by_type.items())]
    rows.append(_row("Total", journey.files, journey.exporting + journey.fetching))
    out.say()
    out.table(["Type", "Files", "Resources", "Bytes", "Seconds", "Resources/s"], rows)
    out.say(
        f"Exported in {journey.exporting:.2f} s (kick-off to manifest), downloaded and checked in {journey.fetching:.2f} s."
        " A type's seconds are those of its download."
    )


def _row(title: str, files: "list[Fetched] | tuple[Fetched, ...]", seconds: float) -> list[str]:
    count = sum(file.count for file in files)
    rate = count / seconds if seconds else 0
    size = sum(file.size for file in files)
    return [title, str(len(files)), f"{count:,}", f"{size:,}", f"{seconds:.2f}", f"{rate:,.0f}"]
