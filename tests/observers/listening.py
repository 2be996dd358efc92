"""Observers for tests, importable in worker processes."""

import json
from pathlib import Path

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.events import Event, content
from fhir_bulk_middleware.contract.query import Authorisation
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    async def observe(self, event: Event) -> None:
        self.heard.append(event)

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.heard]


class Deaf:
    async def observe(self, event: Event) -> None:
        raise RuntimeError(f"cannot hear {type(event).__name__}")


class Writer:
    """Keeps what it hears in a file, from any process."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def recipe(self) -> Recipe:
        return Recipe("listening:Writer", {"path": str(self._path)})

    async def observe(self, event: Event) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(content(event)) + "\n")


class KeepsAudit(SQLiteResourceStore):
    """A store that takes AuditEvents, too."""

    async def authorise(self, principal: Principal) -> Authorisation:
        return await super().authorise(principal)

    async def record(self, audit_event: bytes) -> None:
        await self.create("AuditEvent", audit_event)


def keeps_audit(path: str) -> KeepsAudit:
    return KeepsAudit(Path(path))
