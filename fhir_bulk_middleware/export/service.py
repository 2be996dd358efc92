"""Begins exports. Speaks of reasons, not of HTTP."""

from collections.abc import Iterator

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.export.admission import Admission
from fhir_bulk_middleware.export.kick_off import KickOff
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.jobs.service import JobService, KickOffDetail

__all__ = ["ExportService"]


class ExportService:
    """Turns kick-offs into jobs.

    Args:
        admission: decides what may be exported.
        jobs: stores the job.
    """

    def __init__(self, admission: Admission, jobs: JobService) -> None:
        self._admission = admission
        self._jobs = jobs

    def pace(self, principal: Principal) -> None:
        """Count a kick-off before its content is parsed (law 38).

        Raises:
            Refused: `REQUESTS_TOO_MANY`.
        """
        self._jobs.pace(principal)

    async def begin(self, principal: Principal, kick_off: KickOff) -> Job:
        """Store an export durably and wake the workers (KO-110).

        A repeated kick-off with the same idempotency key returns the same job (law 12).

        Raises:
            Refused: no job was stored.
        """
        request, rows = await self._admission.decide(principal, kick_off)
        asked = KickOffDetail(kick_off.group_id, kick_off.named_patients, tuple(_criteria(rows)))
        return await self._jobs.accept(principal, request, rows, kick_off.idempotency_key, asked)


def _criteria(rows: Rows) -> Iterator[Criteria]:
    for each in rows.filters:
        yield from each.alternatives
