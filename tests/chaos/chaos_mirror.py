"""Clients that mirror the store by a chain of exports, at system, Patient and Group level (laws 3 and 34)."""

import json
from dataclasses import dataclass, field
from typing import Any

from chaos_client import Client

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Query, Selection, Window
from fhir_bulk_middleware.demo.population import EVERY_TENTH
from fhir_bulk_middleware.instant import Instant, Precision, parse, render
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["Mirror", "Resources", "mirrors"]

Resources = SQLiteResourceStore | PostgresResourceStore

TYPES = ("Observation", "Patient")


@dataclass
class Mirror:
    """What one chain of exports has told so far. Only an export that completed and was fetched moves it on.

    Attributes:
        path: where its exports are kicked off, below the mount.
        selection: whose resources it holds.
        since: the `transactionTime` of its last export.
        holds: the line of each resource, by reference.
        exports: how many there were.
        types: the resource types that it holds.
    """

    path: str
    selection: Selection
    since: str | None = None
    holds: dict[str, bytes] = field(default_factory=dict)
    exports: int = 0
    types: tuple[str, ...] = TYPES

    @property
    def query(self) -> str:
        """The query string of its next export."""
        types = ",".join(TYPES)
        return f"_type={types}" if self.since is None else f"_type={types}&_since={self.since}"

    async def follow(self, client: Client, manifest: dict[str, Any], store: Resources) -> None:
        """Apply an export, and compare with the store as it was at its cut."""
        output, gone = await _output(client, manifest), await _gone(client, manifest)
        if both := output.keys() & gone:
            client.wrong(f"{self.path}: in output and in deleted: {sorted(both)[:5]}")
        self.holds |= output
        for reference in gone:
            self.holds.pop(reference, None)
        self.since, self.exports = manifest["transactionTime"], self.exports + 1
        truth = await _truth(store, self.selection, parse(manifest["transactionTime"]))
        for what, references in {
            "lost": truth.keys() - self.holds.keys(),
            "kept though it is gone": self.holds.keys() - truth.keys(),
            "old": {reference for reference in truth.keys() & self.holds.keys() if truth[reference] != self.holds[reference]},
        }.items():
            if references:
                at = render(parse(manifest["transactionTime"]), Precision.MICROSECONDS)
                client.wrong(f"{self.path} as of {at}: {len(references)} {what}: {sorted(references)[:5]}")
        self.holds = truth  # one violation is told once


async def mirrors(store: Resources) -> list[Mirror]:
    """One mirror for each level."""
    group = await store.read("Group", EVERY_TENTH)
    assert group is not None
    members = frozenset(member["entity"]["reference"] for member in json.loads(group.json)["member"])
    return [
        Mirror("/$export", Everything()),
        Mirror("/Patient/$export", EveryPatient()),
        Mirror(f"/Group/{EVERY_TENTH}/$export", Compartments(members)),
    ]


async def _output(client: Client, manifest: dict[str, Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in manifest["output"]:
        for line in (await client.fetch(item["url"])).splitlines():
            content = json.loads(line)
            reference = f"{content['resourceType']}/{content['id']}"
            if reference in found:
                client.wrong(f"{reference} is twice in one export")
            found[reference] = line
    return found


async def _gone(client: Client, manifest: dict[str, Any]) -> set[str]:
    found: list[str] = []
    for item in manifest.get("deleted", []):
        for line in (await client.fetch(item["url"])).splitlines():
            found += [entry["request"]["url"] for entry in json.loads(line)["entry"]]
    if len(found) != len(set(found)):
        client.wrong("a deletion is twice in one export")
    return set(found)


async def _truth(store: Resources, selection: Selection, cut: Instant) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for type_ in TYPES:
        query = Query(type=type_, selection=selection, window=Window(None, cut), as_of=cut)
        async for page in store.pages(query, None):
            for line in page.lines.splitlines():
                found[f"{type_}/{json.loads(line)['id']}"] = line
    return found
