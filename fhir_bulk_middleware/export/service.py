"""Beginning an export on behalf of a caller. It speaks reasons, not HTTP."""

from collections.abc import Iterator

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.export.admission import Admission, KickOff
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.jobs.service import JobService, KickOffDetail

__all__ = ["ExportService"]


class ExportService:
    """Turns kick-offs into jobs.

    Args:
        admission: decides what a kick-off comes to.
        jobs: accepts the job.
    """

    def __init__(self, admission: Admission, jobs: JobService) -> None:
        self._admission = admission
        self._jobs = jobs

    def pace(self, principal: Principal) -> None:
        """Count a kick-off, before anything in it is looked at (law 38).

        Raises:
            Refused: `REQUESTS_TOO_MANY`.
        """
        self._jobs.pace(principal)

    async def begin(self, principal: Principal, kick_off: KickOff) -> Job:
        """Accept an export, durably, and set it going (KO-110).

        The same kick-off under the same idempotency key leads to the same job (law 12).

        Raises:
            Refused: for whatever reason it is not accepted; then no job exists.
        """
        request, rows = await self._admission.decide(principal, kick_off)
        parameters = KickOffDetail(kick_off.group_id, kick_off.parameters.patients or frozenset(), tuple(_criteria(rows)))
        return await self._jobs.accept(principal, request, rows, kick_off.idempotency_key, parameters)


def _criteria(rows: Rows) -> Iterator[Criteria]:
    for each in rows.filters:
        yield from each.alternatives
