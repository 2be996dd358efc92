"""Which object removes and records for a storage: the storage itself, or our log before it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fhir_bulk_middleware.contract.deletes import (
    DeletionLog,
    SupportsBatchDelete,
    SupportsConditionalDelete,
    SupportsDelete,
    SupportsOutbox,
)
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsDeletions,
    SupportsForgetting,
    SupportsRead,
)
from fhir_bulk_middleware.delete.journal import JournalledDeletes
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock

__all__ = ["Sources", "sources_of"]


@dataclass(frozen=True, slots=True)
class Sources:
    """The objects that remove and record for a storage; None for what it cannot do.

    Attributes:
        one: removes one resource.
        several: finds and removes by criteria.
        journal: removes in journalled batches.
        deletions: lists deletions.
        outboxes: those that record removals until observers know of them (law 37).
        log: our log before the storage, None without one.
        horizon: says since when `deletions` is complete; None if it always is.
        forgetting: the storage and the log, if they can forget old deletions.
    """

    one: SupportsDelete | None
    several: SupportsConditionalDelete | None
    journal: SupportsBatchDelete | None
    deletions: SupportsDeletions | None
    outboxes: tuple[SupportsOutbox, ...] = ()
    log: JournalledDeletes | None = None
    horizon: SupportsDeletionHorizon | None = None
    forgetting: tuple[SupportsForgetting, ...] = ()


def sources_of(
    resources: object, log: DeletionLog | None, version: FhirVersion, clock: Clock, base_urls: Iterable[str] = ()
) -> Sources:
    """The sources of a storage: the storage itself where it records its deletions, otherwise the log before it.

    Raises:
        TypeError: there is a log, and the storage cannot be read, which the log needs.
    """
    several = resources if isinstance(resources, SupportsConditionalDelete) else None
    deletions = resources if isinstance(resources, SupportsDeletions) else None
    journal = resources if isinstance(resources, SupportsBatchDelete) and deletions is not None else None
    horizon = resources if isinstance(resources, SupportsDeletionHorizon) else None
    forgetting = tuple(
        each for each in (resources, log) if isinstance(each, SupportsForgetting) and isinstance(each, SupportsDeletionHorizon)
    )
    of_storage = Sources(None, None, None, deletions, horizon=horizon, forgetting=forgetting)
    if not isinstance(resources, SupportsDelete):
        return of_storage
    outbox = resources if isinstance(resources, SupportsOutbox) else None
    if log is None:
        return replace(of_storage, one=resources, several=several, journal=journal, outboxes=() if outbox is None else (outbox,))
    if not isinstance(resources, SupportsRead):
        raise TypeError(f"log: {type(resources).__name__} is no SupportsRead, which a log of its deletes needs; it lacks current")
    logged = JournalledDeletes(resources, several, log, version, clock, base_urls=base_urls)
    if deletions is not None and outbox is not None:
        return replace(
            of_storage, one=resources, several=several, journal=journal or logged, outboxes=(outbox, logged), log=logged
        )
    return replace(
        of_storage,
        one=logged,
        several=None if several is None else logged,
        journal=logged,
        deletions=deletions or logged,
        outboxes=(logged,),
        log=logged,
        horizon=logged if deletions is None else horizon,
    )
