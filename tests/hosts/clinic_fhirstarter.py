"""A host on FHIRStarter, which serves FHIR at its root and reads `$export` as the id of a patient."""

import clinic_fastapi
import clinic_starlette
from clinic_parts import lifespan, static_folder
from fhir.resources.patient import Patient
from fhirstarter import FHIRProvider, FHIRStarter, InteractionContext
from fhirstarter.exceptions import FHIRResourceNotFoundError
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

BASE = ""
provider = FHIRProvider()


@provider.read(Patient)
async def read(_: InteractionContext, id_: str) -> Patient:
    """A patient."""
    if id_ != "1":
        raise FHIRResourceNotFoundError
    return Patient(id=id_, active=True)


@provider.create(Patient)
async def create(_: InteractionContext, __: Patient) -> str:
    """A new patient."""
    return "2"


@provider.search_type(Patient)
async def search(_: InteractionContext, family: str | None) -> dict[str, object]:
    """A Bundle."""
    return {"type": "searchset", "total": 0 if family is None else 1}


@provider.delete(Patient)
async def delete(_: InteractionContext, __: str) -> None:
    """Delete a patient."""


def app() -> FHIRStarter:
    """The host."""
    made = FHIRStarter(title="Clinic", lifespan=lifespan)
    made.add_providers(provider)
    made.router.routes.extend(clinic_fastapi.common(clinic_starlette.app().routes))
    made.router.routes.append(Mount("/static", StaticFiles(directory=static_folder())))
    made.add_middleware(clinic_starlette.OwnMiddleware)
    return made
