"""The wiring of what the server shows of all kinds of job. `fhir_bulk_middleware.kinds` wires their work."""

from fhir_bulk_middleware.contract.job import JobKind
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.rights import removal_uncovered
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.delete.status import RemovalStatus
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.export.signed_urls import SignedUrls, check_signing
from fhir_bulk_middleware.export.status import ExportStatus
from fhir_bulk_middleware.export.types import export_uncovered
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.view import Kind
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings

__all__ = ["kinds_of"]


def kinds_of(
    *,
    runs: RemovalRuns,
    outputs: OutputStore,
    policy: DeletePolicy,
    dialect: Dialect,
    replies: Replies,
    addresses: Addresses,
    settings: Settings,
    clock: Clock,
    notes: dict[str, bool],
    observers: Observers,
) -> tuple[Kind, ...]:
    """The kinds of job in the server.

    Args:
        runs: the results of remove-alls.
        outputs: the output store.
        policy: how deletes are answered.
        dialect: how jobs are answered.
        replies: makes responses.
        addresses: builds URLs.
        settings: limits and times.
        clock: the current time.
        notes: the promises of the storage, for manifests (law 6).
        observers: receive the event of signed URLs.

    Raises:
        TypeError: URLs are to be signed, and the output store cannot.
    """
    signed_urls = None
    if settings.signed_url_seconds is not None:
        signed_urls = SignedUrls(check_signing(outputs), settings.signed_url_seconds, observers=observers, clock=clock)
    exports = ExportStatus(
        dialect=dialect,
        replies=replies,
        addresses=addresses,
        settings=settings,
        notes=notes,
        clock=clock,
        outputs=outputs,
        signed_urls=signed_urls,
    )
    removals = RemovalStatus(
        outputs=outputs,
        runs=runs,
        policy=policy,
        dialect=dialect,
        replies=replies,
        addresses=addresses,
        settings=settings,
        clock=clock,
    )
    return (
        Kind(JobKind.EXPORT, exports, export_uncovered, has_files=True),
        # The parts of a remove-all are records for its result, not files.
        Kind(JobKind.REMOVE_ALL, removals, removal_uncovered, has_files=False),
    )
