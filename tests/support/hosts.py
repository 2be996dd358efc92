"""Hosts as the kit writes through them: one on a store of ours, and one that deletes hard."""

import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, EveryPatient, Page, Query
from fhir_bulk_middleware.contract.removal import (
    Current,
    Matches,
    NeverExisted,
    Protected,
    Removal,
    Removed,
    Target,
    Version,
    VersionMismatch,
)
from fhir_bulk_middleware.fhir import compartments
from fhir_bulk_middleware.fhir.canonical import canonical_and_content
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant, Precision, render, system_clock
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore


class Host:
    """Writes through a store's own methods."""

    def __init__(self, store: MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore) -> None:
        self.store = store

    async def put(self, *resources: str) -> None:
        self.store.load(resource.encode() for resource in resources)

    async def delete(self, type_: str, id_: str) -> None:
        await self.store.delete(type_, id_)


class HardHost:
    """`SupportsExport`, `SupportsRead`, `SupportsDelete` and `SupportsConditionalDelete` over a dictionary.

    It keeps no history, no tombstones and no snapshots, and its versions are not numbers.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self.rows: dict[tuple[str, str], Current] = {}
        self.protected: set[str] = set()
        self.clock = clock
        self.compartments = compartments.CompartmentMembership(FhirVersion.R4)

    # --- the host's own

    async def put(self, *resources: str) -> None:
        for text in resources:
            content = json.loads(text)
            version, now = secrets.token_hex(4), self.clock()
            content["meta"] = {"versionId": version, "lastUpdated": render(now, Precision.MICROSECONDS)}
            order = {name: content[name] for name in ("resourceType", "id", "meta")}
            line = json.dumps(order | content, separators=(",", ":"), ensure_ascii=False).encode()
            type_, id_ = content["resourceType"], content["id"]
            self.rows.pop((type_, id_), None)
            self.rows[type_, id_] = Current(type=type_, id=id_, version=version, last_updated=now, json=line)

    async def delete(self, type_: str, id_: str) -> None:
        self.rows.pop((type_, id_), None)

    # --- what it implements

    async def authorise(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - one answer for all
        return Authorisation(frozenset({"Patient", "Observation", "Organization", "Condition"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        start = int(after or 0)
        rows = [row for row in self.rows.values() if row.type == query.type]
        for place, row in enumerate(rows[start:], start + 1):
            since, until = query.window.since, query.window.until
            if (
                (since is None or row.last_updated > since)
                and (until is None or row.last_updated <= until)
                and self.within(row, query)
            ):
                yield Page(row.json + b"\n", 1, str(place))

    def within(self, row: Current, query: Query) -> bool:
        owners = self.compartments.of(canonical_and_content(row.json)[1])
        match query.selection:
            case Compartments(references):
                return not owners.isdisjoint(references)
            case EveryPatient():
                return bool(owners)
            case _:
                return True

    async def current(self, type_: str, id_: str) -> Current | None:
        return self.rows.get((type_, id_))

    async def deletable(self, principal: Principal) -> Authorisation:
        return await self.authorise(principal)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:  # noqa: ARG002 - it has no rights on rows
        row = self.rows.get((type_, id_))
        if row is None:
            return NeverExisted()
        if if_version is not None and row.version not in if_version:
            return VersionMismatch()
        if row.reference in self.protected:
            return Protected("Others refer to it.")
        del self.rows[type_, id_]
        return Removed(row)

    async def find(self, target: Target, *, at_most: int) -> Matches:
        filters = Filters(target.filters, target.type)
        found = [
            Version(row.id, row.version) for row in self.rows.values() if row.type == target.type and filters.passes(row.json)
        ]
        return Matches(len(found), tuple(found[:at_most]))

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | Protected | None:
        if await self.find(target, at_most=matches.count) != matches:
            return None
        if any(f"{target.type}/{match.id}" in self.protected for match in matches.versions):
            return Protected("Others refer to it.")
        return [self.rows.pop((target.type, match.id)) for match in matches.versions]


def later(instant: Instant) -> Any:
    """A clock that stands."""
    return lambda: instant
