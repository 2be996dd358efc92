"""The events of one delete: intent before anything is removed, and its outcome (law 37)."""

import uuid
from collections.abc import Sequence

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.events import Deleted, DeleteIntended, NothingDeleted, RemovalKind
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["DeleteAccount"]


class DeleteAccount:
    """Sends the events of one delete to observers.

    Args:
        observers: receive the events.
        clock: the time of the events.
        mount: the name of the mount.
        principal: the client.
        removal: the kind of delete.
        type_: the resource type.
        criteria: the client's criteria; None for a delete by id.
    """

    def __init__(
        self,
        observers: Observers,
        clock: Clock,
        *,
        mount: str,
        principal: Principal,
        removal: RemovalKind,
        type_: str,
        criteria: Criteria | None = None,
    ) -> None:
        self._observers = observers
        self._clock = clock
        self._mount = mount
        self._principal = principal
        self._removal = removal
        self._type = type_
        self._criteria = criteria
        self._intended: tuple[str, ...] | None = None

    async def intend(self, ids: Sequence[str]) -> None:
        """Record that these resources are about to be removed; the same ones are recorded once.

        Raises:
            Refused: an audit cannot record it, so nothing may be removed.
        """
        references = tuple(f"{self._type}/{id_}" for id_ in ids)
        if references == self._intended:
            return
        await self._observers.require(
            DeleteIntended(
                at=self._clock(),
                mount=self._mount,
                owner=self._principal.owner,
                caller=self._principal.caller,
                removal=self._removal,
                type=self._type,
                references=references,
                criteria=await self._asked(),
            )
        )
        self._intended = references

    async def event(self) -> Deleted:
        """The event of the removal, without what only the removal determines: its instant, and what is gone."""
        return Deleted(
            at=self._clock(),
            mount=self._mount,
            owner=self._principal.owner,
            caller=self._principal.caller,
            removal=self._removal,
            type=self._type,
            references=(),
            criteria=await self._asked(),
            record_id=uuid.uuid4().hex,
        )

    async def left(self, outcome: DeleteOutcome, ids: Sequence[str] = ()) -> None:
        """Record that nothing was removed, and which resources a dry run is about to show to the client.

        Raises:
            Refused: an audit cannot record it, and resources would be shown.
        """
        event = NothingDeleted(
            at=self._clock(),
            mount=self._mount,
            owner=self._principal.owner,
            caller=self._principal.caller,
            removal=self._removal,
            type=self._type,
            outcome=outcome,
            references=tuple(f"{self._type}/{id_}" for id_ in ids),
            criteria=await self._asked(),
        )
        await (self._observers.require(event) if ids else self._observers.tell(event))

    async def _asked(self) -> tuple[str, ...]:
        return await self._observers.detail.criteria([] if self._criteria is None else [self._criteria])
