"""Who removes for a storage, and who keeps account of it: the storage itself, or our log before it."""

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
    """Who does what for a storage; None for what nobody can do.

    Attributes:
        one: removes one resource.
        several: finds and removes by criteria.
        journal: removes in journalled batches.
        deletions: knows what was deleted.
        outboxes: record what is removed through the others (law 37); whoever is not among them does not.
        log: our log before the storage, None without one.
        horizon: says since when `deletions` tells all; None if it always does.
        forgetting: the storage and the log, as far as they forget deletions on request.
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
    """The storage itself, as far as it keeps account of its deletions and records them for observers; else the log before it.

    Raises:
        TypeError: the storage deletes, but neither it nor a log would know what was deleted; or it cannot be read, which the log
            needs.
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
