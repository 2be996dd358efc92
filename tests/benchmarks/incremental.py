"""Row 7b: an export of one resource that changed, of a server that keeps all of them."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
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
        since = _export(server, {"_type": "Organization"})[0]["transactionTime"]
        for number in itertools.count():
            asyncio.run(store.update("Patient", id_, {"resourceType": "Patient", "id": id_, "multipleBirthInteger": number}))
            commits.clear()
            manifest, accepted, sealed = _export(server, {"_since": since})
            since = manifest["transactionTime"]
            found = [(item["type"], item["count"]) for item in manifest["output"]]
            if found != [("Patient", 1)] or manifest.get("deleted"):
                raise RuntimeError(f"the export of one changed Patient has {found}")
            if number >= _WARMING:
                kicked.append(accepted * 1000)
                taken.append(sealed * 1000)
                jobs.append(float(commits.jobs))
                everything.append(float(commits.everything))
            if len(taken) == 4 * bench.rounds:
                break
    store.close()
    note = f"one changed resource of {data.count:,}, {len(taken)} exports; {median(kicked):.1f} ms of it to the kick-off's answer"
    yield Figure("7b ms", "_since, one change: kick-off to manifest, warm, held first poll, ms", tuple(taken), note)
    yield Figure("7b jobs", "the same: durable commits of the job store", tuple(jobs))
    yield Figure("7b all", "the same: durable commits and fsyncs of everything", tuple(everything))


def _export(server: Server, query: dict[str, str]) -> tuple[dict[str, Any], float, float]:
    """The manifest, and the seconds until the kick-off was answered and until it was there."""
    begun = time.perf_counter()
    path = server.kick_off(f"/fhir/$export?{urlencode(query)}")
    accepted = time.perf_counter() - begun
    manifest = server.wait_as_told(path, "respond-async")
    sealed = time.perf_counter() - begun
    server.ask("DELETE", path)
    return manifest, accepted, sealed
