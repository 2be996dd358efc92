"""A FHIR server whose patients are a dict, and bulk data export added to it. Run it: `uvicorn --factory server:app`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from fhir_bulk_middleware import (
    Authorisation,
    BulkData,
    Compartments,
    FileOutputStore,
    Instant,
    JoseTokenVerifier,
    Page,
    PageMaker,
    Principal,
    Query,
    SQLiteJobStore,
    TokenVerifier,
    canonical,
)


class Patients(dict[str, tuple[Instant, dict[str, Any]]]):
    """The storage adapter: resources by id, each with the instant of its last change in microseconds. It has two methods."""

    async def authorise(self, principal: Principal) -> Authorisation:
        """What the bearer of the token may export, scopes aside."""
        return Authorisation(types=frozenset({"Patient"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The patients of a query, in the order of their ids, from behind the cursor; each as a line of compact JSON."""
        pages, since, until = PageMaker(query.page_bytes), query.window.since or 0, query.window.until or 2**63
        for id_, (changed, resource) in sorted(self.items()):
            mine = not isinstance(query.selection, Compartments) or f"Patient/{id_}" in query.selection.references
            if id_ > (after or "") and since < changed <= until and mine:
                if (page := pages.add(canonical(resource).text(None, changed), id_)) is not None:
                    yield page
        if (page := pages.last()) is not None:
            yield page


def host(patients: Patients, folder: Path, verifier: TokenVerifier) -> Starlette:
    """The host, with bulk data export below `/fhir`."""
    app = Starlette()  # with the routes that it has
    jobs, outputs = SQLiteJobStore(folder / "jobs.db"), FileOutputStore(folder / "exports")
    BulkData(resources=patients, verifier=verifier, jobs=jobs, outputs=outputs).install(app, base="/fhir")
    return app


def app() -> Starlette:
    """For uvicorn."""
    ann = {"resourceType": "Patient", "id": "ann", "name": [{"text": "Ann"}]}
    verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
    return host(Patients(ann=(Instant(1_700_000_000_000_000), ann)), Path("state"), verifier)
