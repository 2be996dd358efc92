"""An adapter over the tables of a relational clinic: columns made into FHIR by code, and no text or version of any resource.

Times are kept as UTC text to the millisecond, as many schemas have them.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.paging import PageMaker
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, Deletions, EveryPatient, Page, Query
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant, Precision, system_clock
from fhir_bulk_middleware.testing.samples import Samples

__all__ = ["SCHEMA", "Clinic", "ClinicSamples", "Desk", "shown"]

SCHEMA = """
    CREATE TABLE patient (id TEXT PRIMARY KEY, name TEXT NOT NULL, updated TEXT NOT NULL, deleted TEXT);
    CREATE TABLE observation (
        id TEXT PRIMARY KEY, patient_id TEXT, performer_id TEXT, what TEXT NOT NULL, updated TEXT NOT NULL, deleted TEXT
    );
"""
_ROWS = 100


def shown(instant: Instant) -> str:
    """An instant as the tables have it, the microseconds cut off."""
    moment = datetime.fromtimestamp(instant // 1_000_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{instant // 1_000 % 1_000:03}"


class Clinic:
    """The adapter. What mutants change stands in attributes and methods of its own."""

    columns: ClassVar[Mapping[str, str]] = {"Patient": "t.id, name", "Observation": "t.id, what, patient_id, performer_id"}
    sources: ClassVar[Mapping[str, str]] = {"Patient": "patient t", "Observation": "observation t"}
    links: ClassVar[Mapping[str, tuple[str, ...]]] = {"Patient": ("t.id",), "Observation": ("patient_id", "performer_id")}
    lives = "t.deleted IS NULL"
    window = "t.updated > :since AND t.updated <= :until"
    behind = "(t.updated, t.id) > (:updated, :id)"

    def __init__(self, path: str) -> None:
        self._path = path
        self._database = sqlite3.connect(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def recipe(self) -> Recipe:
        """The same file, in another process."""
        return Recipe(f"{type(self).__module__}:{type(self).__name__}", {"path": self._path})

    async def authorise(self, principal: Principal) -> Authorisation:
        """Everything, to everybody."""
        del principal
        return Authorisation(frozenset(self.columns))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """Rows by the time of their last change, then by id."""
        updated, _, id_ = (after or "|").partition("|")
        conditions = f"{self.lives} AND {self.window} AND {self.behind} AND {self.selected(query)}"
        statement = (
            f"SELECT t.updated, {self.columns[query.type]} FROM {self.sources[query.type]}"  # noqa: S608 - constants
            f" WHERE {conditions} ORDER BY t.updated, t.id LIMIT {_ROWS}"
        )
        pages = PageMaker(query.page_bytes)
        while True:
            values = {**self.bounds(query), "updated": updated, "id": id_}
            rows = self._database.execute(statement, values).fetchall()
            for row in rows:
                if (page := pages.add(self.line(query.type, row), f"{row[0]}|{row[1]}")) is not None:
                    yield page
            if len(rows) < _ROWS:
                break
            updated, id_ = rows[-1][:2]
        if (page := pages.last()) is not None:
            yield page

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """Rows that are marked as deleted, by the time of that."""
        rows = self._database.execute(
            f"SELECT t.id FROM {query.type.lower()} t WHERE t.deleted > :since AND t.deleted <= :until AND {self.selected(query)}"  # noqa: S608
            " AND t.id > :id ORDER BY t.id",
            {**self.bounds(query), "id": after or ""},
        ).fetchall()
        if rows:
            yield Deletions(tuple(f"{query.type}/{id_}" for (id_,) in rows), rows[-1][0])

    def selected(self, query: Query) -> str:
        """The condition of a selection."""
        match query.selection:
            case Compartments():
                wanted = "IN (SELECT value FROM json_each(:owners))"
            case EveryPatient():
                wanted = "IS NOT NULL"
            case _:
                return "1"
        return f"({' OR '.join(f'{link} {wanted}' for link in self.links[query.type])})"

    def bounds(self, query: Query) -> dict[str, str]:
        """The values of window and selection."""
        since, until, selection = query.window.since, query.window.until, query.selection
        owners = selection.references if isinstance(selection, Compartments) else ()
        return {
            "since": "" if since is None else shown(since),
            "until": "9" if until is None else shown(until),
            "owners": json.dumps([reference.removeprefix("Patient/") for reference in owners]),
        }

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        """A row as FHIR."""
        updated, id_, text, *links = row
        content: dict[str, Any] = {"resourceType": type_, "id": id_, "meta": {"lastUpdated": self.instant(updated)}}
        if type_ == "Patient":
            content["name"] = [{"text": text}]
        else:
            patient, performer = links
            content |= {"status": "final", "code": {"text": text}}
            if patient is not None:
                content["subject"] = {"reference": f"Patient/{patient}"}
            if performer is not None:
                content["performer"] = [{"reference": f"Patient/{performer}"}]
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def instant(self, updated: str) -> str:
        """A time of the tables as FHIR's instant."""
        return f"{updated.replace(' ', 'T')}Z"


class Desk:
    """Changes the tables, as the clinic's own application does."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    async def put(self, *resources: str) -> None:
        """Rows for these, in one transaction at one time."""
        now = shown(system_clock())
        with self._database as transaction:
            for content in map(json.loads, resources):
                if content["resourceType"] == "Patient":
                    row = (content["id"], content["name"][0]["text"], now)
                    transaction.execute("REPLACE INTO patient VALUES (?, ?, ?, NULL)", row)
                    continue
                links = [content.get("subject"), *content.get("performer", [None])]
                ids = [link and link["reference"].removeprefix("Patient/") for link in links]
                transaction.execute(
                    "REPLACE INTO observation VALUES (?, ?, ?, ?, ?, NULL)", (content["id"], *ids, content["code"]["text"], now)
                )

    async def delete(self, type_: str, id_: str) -> None:
        """Mark a row."""
        with self._database as transaction:
            transaction.execute(f"UPDATE {type_.lower()} SET deleted = ? WHERE id = ?", (shown(system_clock()), id_))  # noqa: S608


class ClinicSamples(Samples):
    """Two types, two links, milliseconds; no Organization, and no observation on a Location."""

    precision = Precision.MILLISECONDS
    outside_type = None
    types = frozenset({"Observation"})

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """An observation on the first, performed by the second."""
        links = dict(zip(("subject", "performer"), patients, strict=False))
        return self._observation(id_, text or f"of {id_}", links)

    def outside(self, id_: str) -> str | None:
        """There is nothing else."""
        del id_
        return None

    def naming(self, id_: str, patient: str, outside: str) -> str | None:
        """There is nothing else to name."""
        del id_, patient, outside
        return None

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str | None:
        """By either link."""
        del type_
        return self._observation(id_, f"of {id_}", {path: reference})

    def _observation(self, id_: str, text: str, links: Mapping[str, str]) -> str:
        content: dict[str, Any] = {"resourceType": "Observation", "id": id_, "status": "final", "code": {"text": text}}
        if "subject" in links:
            content["subject"] = {"reference": links["subject"]}
        if "performer" in links:
            content["performer"] = [{"reference": links["performer"]}]
        return json.dumps(content)
