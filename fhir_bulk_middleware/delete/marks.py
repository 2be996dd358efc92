"""Marks of our log of deletes: made from resources before they are removed, and settled after."""

import json
from collections.abc import Iterable
from dataclasses import replace

from fhir_bulk_middleware.contract.deletes import DeletionLog
from fhir_bulk_middleware.contract.removal import Current, Mark
from fhir_bulk_middleware.contract.storage import SupportsRead, SupportsSnapshot
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant

__all__ = ["Marking"]

_AT_ONCE = 1_000


class Marking:
    """Makes marks, and finds out what became of them by reading the storage.

    Args:
        resources: the storage.
        log: where the marks are kept.
        version: the release that the resources are written in.
        clock: the time of a removal, for storages without a clock of their own.
        base_urls: the base URLs under which an absolute reference leads to this storage (KO-85).
    """

    def __init__(
        self, resources: SupportsRead, log: DeletionLog, version: FhirVersion, clock: Clock, base_urls: Iterable[str]
    ) -> None:
        self._resources = resources
        self._log = log
        self._compartments = CompartmentMembership(version, base_urls)
        self._clock = clock

    def mark(self, resource: Current, rights: str, note: str) -> Mark:
        """The mark of a resource that is about to be removed."""
        return Mark(
            type=resource.type,
            id=resource.id,
            version=resource.version,
            owners=self._owners_of(resource),
            rights=rights,
            note=note,
        )

    async def gone(self, mark: Mark, resource: Current | None) -> Mark:
        """The mark of a resource that is gone, with its instant, and with what was really removed where that is known.

        The instant is that of the storage's deletion, since exports as of an instant leave the resource out from then on;
        for a storage without deletions it is now.
        """
        mark = replace(mark, at=await self._gone_at(mark))
        return mark if resource is None else replace(mark, version=resource.version, owners=self._owners_of(resource))

    async def lives(self, mark: Mark) -> bool:
        """Whether there is a current resource with the type and id of the mark."""
        current = await self._resources.current(mark.type, mark.id)
        return current is not None and not current.deleted

    async def settle_doubts(self, type_: str | None = None) -> None:
        """Settle marks in doubt, of one type or of all: resources that are gone were deleted.

        Marks of living resources stay in doubt, since their removal may be under way. Called before a cut is fixed, so that a
        deletion that a crash left in doubt is in the first export that the resource is missing from.
        """
        number = 0
        while marks := await self._log.doubtful(type_, number, _AT_ONCE):
            number = marks[-1].number
            gone = [await self.gone(mark, None) for mark in marks if not await self.lives(mark)]
            if gone:
                await self._log.settle(gone, [])

    async def _gone_at(self, mark: Mark) -> Instant:
        deletion = await self._resources.current(mark.type, mark.id)
        if deletion is not None and deletion.deleted:
            return deletion.last_updated
        return await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()

    def _owners_of(self, resource: Current) -> frozenset[str]:
        return self._compartments.of(json.loads(resource.json), MEMBER_KINDS)
