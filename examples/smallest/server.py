"""A FHIR server whose resources are in a dict, and bulk data export added to it. Run it: `uvicorn --factory server:app`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from fhir_bulk_middleware import (
    Authorisation,
    BulkData,
    Compartments,
    EveryPatient,
    FileOutputStore,
    Instant,
    JoseTokenVerifier,
    Page,
    PageMaker,
    Principal,
    Query,
    Selection,
    SQLiteJobStore,
    TokenVerifier,
    canonical,
)


def owners(resource: dict[str, Any]) -> set[str]:
    """The patients whose resource it is."""
    own = {"reference": f"{resource['resourceType']}/{resource['id']}"}
    links = [own, resource.get("subject", {}), *resource.get("performer", [])]
    return {text for link in links if (text := link.get("reference", "")).startswith("Patient/")}


class Shelf(dict[str, tuple[Instant, dict[str, Any]]]):
    """The storage adapter: resources by reference, each with the instant of its last change. It has two methods."""

    async def authorise(self, principal: Principal) -> Authorisation:
        """What the bearer of the token may export, scopes aside."""
        return Authorisation(types=frozenset({"Patient", "Observation"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, by their references, from behind the cursor; each as a line of compact JSON."""
        pages, since, until = PageMaker(query.page_bytes), query.window.since or 0, query.window.until or 2**63
        for key, (changed, resource) in sorted(self.items()):
            wanted = resource["resourceType"] == query.type and since < changed <= until and key > (after or "")
            if wanted and selected(query.selection, owners(resource)):
                page = pages.add(canonical(resource).text(None, changed), key)
                if page is not None:
                    yield page
        if (page := pages.last()) is not None:
            yield page


def selected(selection: Selection, patients: set[str]) -> bool:
    """Whether a resource of these patients is among those that are asked for."""
    if isinstance(selection, Compartments):
        return not patients.isdisjoint(selection.references)
    return bool(patients) or not isinstance(selection, EveryPatient)


def host(shelf: Shelf, folder: Path, verifier: TokenVerifier) -> Starlette:
    """The host, with bulk data export below `/fhir`."""
    app = Starlette()  # with the routes that it has
    jobs, outputs = SQLiteJobStore(folder / "jobs.db"), FileOutputStore(folder / "exports")
    BulkData(resources=shelf, verifier=verifier, jobs=jobs, outputs=outputs).install(app, base="/fhir")
    return app


def app() -> Starlette:
    """For uvicorn."""
    ann = {"resourceType": "Patient", "id": "ann", "name": [{"text": "Ann"}]}
    verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
    return host(Shelf({"Patient/ann": (Instant(1_700_000_000_000_000), ann)}), Path("state"), verifier)
