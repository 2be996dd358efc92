"""Row 7b: an export of one resource that changed, of a server that keeps all of them."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from urllib.parse import urlencode

from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

from .bench import Bench
from .commits import Commits
from .figures import Figure
from .server import Server, serve

__all__ = ["incremental"]

_WARMING = 3


@dataclass(frozen=True, slots=True)
class _Export:
    """An export that is complete; seconds are from the kick-off.

    Attributes:
        path: to poll, and to delete.
        manifest: what it came to.
        accepted: seconds until the kick-off was answered.
        sealed: seconds until the manifest was there.
    """

    path: str
    manifest: dict[str, Any]
    accepted: float
    sealed: float


def incremental(bench: Bench) -> Iterator[Figure]:
    """The time to the manifest as a client sees it whose first poll is held, and what was made durable for it.

    The workers are not nice: how they give way to other programs is another question.
    """
    folder = bench.folder / "incremental"
    folder.mkdir()
    shutil.copy(bench.data.store, folder / "store.db")
    data = replace(bench.data, store=folder / "store.db")
    kicked, taken, jobs, everything = [], [], [], []
    commits, store = Commits(folder), SQLiteResourceStore(data.store)
    (patient,) = data.patients(data.count)
    id_ = patient.removeprefix("Patient/")
    with serve(data, folder, workers=2, niceness=0) as server:
        since = _export(server, {"_type": "Organization"}).manifest["transactionTime"]
        for number in itertools.count():
            asyncio.run(store.update("Patient", id_, {"resourceType": "Patient", "id": id_, "multipleBirthInteger": number}))
            commits.clear()
            export = _export(server, {"_since": since})
            counted = commits.jobs, commits.everything
            server.ask("DELETE", export.path)
            since = export.manifest["transactionTime"]
            found = [(item["type"], item["count"]) for item in export.manifest["output"]]
            if found != [("Patient", 1)] or export.manifest.get("deleted"):
                raise RuntimeError(f"the export of one changed Patient has {found}")
            if number >= _WARMING:
                kicked.append(export.accepted * 1000)
                taken.append(export.sealed * 1000)
                jobs.append(float(counted[0]))
                everything.append(float(counted[1]))
            if len(taken) == 4 * bench.rounds:
                break
    store.close()
    note = f"one changed resource of {data.count:,}, {len(taken)} exports; {median(kicked):.1f} ms of it to the kick-off's answer"
    yield Figure("7b ms", "_since, one change: kick-off to manifest, warm, held first poll, ms", tuple(taken), note)
    yield Figure("7b jobs", "the same: durable commits of the job store", tuple(jobs))
    yield Figure("7b all", "the same: durable commits and fsyncs of everything", tuple(everything))


def _export(server: Server, query: dict[str, str]) -> _Export:
    begun = time.perf_counter()
    path = server.kick_off(f"/fhir/$export?{urlencode(query)}")
    accepted = time.perf_counter() - begun
    manifest = server.wait_as_told(path, "respond-async")
    return _Export(path, manifest, accepted, time.perf_counter() - begun)
