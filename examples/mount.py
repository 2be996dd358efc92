"""Bulk data export below `/fhir` of a Starlette application. Run it: `uvicorn mount:app`."""

from pathlib import Path

from starlette.applications import Starlette

from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, SQLiteJobStore, SQLiteResourceStore

state = Path("state")
app = Starlette()  # your FHIR server, with its own routes
bulk = BulkData(
    resources=SQLiteResourceStore(state / "store.db"),  # or an adapter of your own, which has two methods
    verifier=JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir"),
    jobs=SQLiteJobStore(state / "jobs.db"),
    outputs=FileOutputStore(state / "exports"),
)
bulk.install(app, base="/fhir")
