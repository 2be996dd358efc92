"""Patients on FHIRStarter, with bulk export. Run it: `uvicorn fhirstarter_host.app:application`.

FHIRStarter's own `GET /Patient/{id}` takes `/Patient/$export` for the id `$export` and answers 400, also before what is mounted
below it. `BulkDataMiddleware` around the whole application answers our paths before FHIRStarter sees them, and leaves all others.
"""

import os
from pathlib import Path

from fhir.resources.patient import Patient
from fhirstarter import FHIRProvider, FHIRStarter, InteractionContext
from fhirstarter.exceptions import FHIRResourceNotFoundError

from fhir_bulk_middleware import (
    BulkData,
    BulkDataMiddleware,
    FhirVersion,
    FileOutputStore,
    JoseTokenVerifier,
    SQLiteJobStore,
    SQLiteResourceStore,
)

state = Path(os.environ.get("PATIENTS_STATE", "state"))
store = SQLiteResourceStore(state / "store.db", version=FhirVersion.R5)  # or an adapter to what you have
provider = FHIRProvider()


@provider.read(Patient)
async def read(context: InteractionContext, id_: str) -> Patient:
    """A patient as it is now."""
    found = await store.read("Patient", id_)
    if found is None or found.deleted:
        raise FHIRResourceNotFoundError
    return Patient.model_validate_json(found.json)


@provider.create(Patient)
async def create(context: InteractionContext, resource: Patient) -> str:
    """A new patient, under a new id."""
    return (await store.create("Patient", resource.model_dump_json().encode())).id


@provider.update(Patient)
async def update(context: InteractionContext, id_: str, resource: Patient) -> str:
    """The next version of a patient."""
    return (await store.update("Patient", id_, resource.model_dump_json().encode())).id


@provider.delete(Patient)
async def delete(context: InteractionContext, id_: str) -> None:
    """Delete a patient; the next export with `_since` tells it."""
    await store.delete("Patient", id_)


app = FHIRStarter(title="Patients")
app.add_providers(provider)
bulk = BulkData(
    resources=store,
    verifier=JoseTokenVerifier(jwks=state / "keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir"),
    jobs=SQLiteJobStore(state / "jobs.db"),
    outputs=FileOutputStore(state / "exports"),
    fhir_version=FhirVersion.R5,
)
application = BulkDataMiddleware(app, bulk, base="/")
