"""Jobs for the tests of what becomes of them."""

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, Request
from fhir_bulk_middleware.contract.query import Everything, Level, Window
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant, Precision

OWNER = Owner("https://issuer.example", "somebody")
MOUNT = "fhir"
EVERYTHING = Everything()


def job(*types: str, window: Window = Window(), created_at: Instant, precision: Precision = Precision.SECONDS) -> Job:  # noqa: B008
    return Job(
        id=new_job_id(),
        mount=MOUNT,
        owner=OWNER,
        request=Request(
            url="https://ehr.example/fhir/$export",
            level=Level.SYSTEM,
            types=tuple(sorted(types)),
            window=window,
            retention=7 * 86_400,
            precision=precision,
        ),
        created_at=created_at,
        changed_at=created_at,
    )
