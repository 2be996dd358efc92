"""What a mount with an adapter offers: routes, promises, and what each missing protocol would bring."""

from collections.abc import Mapping
from dataclasses import dataclass

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Principal, TokenRejected
from fhir_bulk_middleware.contract.check import capabilities, check_capabilities, first_sentence, without
from fhir_bulk_middleware.contract.deletes import SupportsDelete
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.discovery.documentation import of_mount
from fhir_bulk_middleware.export.manifest import notes_in_words, storage_notes
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.workers.runner import LoopRunner

__all__ = ["Offering", "offering"]


@dataclass(frozen=True, slots=True)
class Offering:
    """What a mount with an adapter offers.

    Attributes:
        implemented: by protocol, what kind of storage it is.
        missing: by protocol that the adapter does not implement, what is missing without it.
        routes: by path below the mount, its methods; with DELETE routes if the adapter can have them.
        promises: what the CapabilityStatement says of exports.
        notes: what manifests say that is not promised, in sentences.
        place: where exports run.
    """

    implemented: Mapping[str, str]
    missing: Mapping[str, str]
    routes: Mapping[str, tuple[str, ...]]
    promises: str
    notes: tuple[str, ...]
    place: str


class _Nobody:
    """A verifier that accepts no token; nothing is asked of the mount."""

    async def verify(self, token: str) -> Principal:
        """Refuse it."""
        del token
        raise TokenRejected("no requests here")


def offering(adapter: SupportsExport, version: FhirVersion = FhirVersion.R4) -> Offering:
    """What a mount with this adapter and default settings offers. The storage is not read.

    Raises:
        TypeError: a method of the adapter cannot be called as its protocol's.
        ValueError: the adapter has no identity that a job store could keep.
    """
    deletes = isinstance(adapter, SupportsDelete) and isinstance(adapter, SupportsDeletions)
    settings = Settings()
    bulk = BulkData(
        resources=adapter,
        verifier=_Nobody(),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        runner=LoopRunner(),
        deletes=AIDBOX if deletes else None,
        settings=settings,
        fhir_version=version,
        adapter="check",
    )
    abilities = check_capabilities(adapter, "resources")
    routes: dict[str, tuple[str, ...]] = {}
    for row in bulk.table:
        routes[row.path] = (*routes.get(row.path, ()), row.method)
    return Offering(
        implemented={each.__name__: first_sentence(each) for each in abilities},
        missing={each.__name__: f"without it {without(each)}" for each in capabilities() if each not in abilities},
        routes=routes,
        promises=of_mount(bulk.offer),
        notes=notes_in_words(storage_notes(adapter, context=settings.context)),
        place="Exports run in worker processes, if the other parts have recipes, too."
        if isinstance(adapter, SupportsWorkerProcess)
        else f"Exports run in the server's event loop, since {type(adapter).__name__} has no recipe().",
    )
