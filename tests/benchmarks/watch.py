"""When a worker process first read a resource: one file, whose text is an instant of the machine's monotonic clock."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

from .commits import count_commits

__all__ = ["WatchedStore", "forget", "read_at", "watched_store"]


class WatchedStore(SQLiteResourceStore):
    """Says when the first resource of an export was read."""

    def recipe(self) -> Recipe:
        return Recipe(f"{__name__}:watched_store", super().recipe().arguments)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            _first_read(self._database.path.parent)
            yield page


def watched_store(path: str, version: str, base_urls: list[str]) -> WatchedStore:
    """As the recipe of a store has it; called in worker processes."""
    count_commits(Path(path).parent)
    return WatchedStore(Path(path), version=FhirVersion(version), base_urls=base_urls)


def _first_read(folder: Path) -> None:
    """To be called at each read; only the first one is kept."""
    with suppress(FileExistsError):
        descriptor = os.open(folder / "first-read", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(descriptor, b"%d" % time.monotonic_ns())
        os.close(descriptor)


def forget(folder: Path) -> None:
    """Let the next read be the first."""
    (folder / "first-read").unlink(missing_ok=True)


def read_at(folder: Path) -> float:
    """Seconds of the monotonic clock."""
    return int((folder / "first-read").read_text()) / 1e9
