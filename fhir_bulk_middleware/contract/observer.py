"""What is told of events."""

from typing import Literal, Protocol, runtime_checkable

from fhir_bulk_middleware.contract.events import Event

__all__ = ["Audit", "Observer"]


class Observer(Protocol):
    """Is told what happens.

    With a recipe (`SupportsWorkerProcess`) it is made again in each worker process and hears there of what happens there; without
    one it hears only of what happens in its own process.
    """

    async def observe(self, event: Event) -> None:
        """Take note. What it raises is logged and harms nobody; when it takes too long it is cancelled."""
        ...


@runtime_checkable
class Audit(Observer, Protocol):
    """An observer that must have every disclosure and every removal (law 37), such as `AuditFile` and `AuditEvents`.

    What becomes of a request whose event it cannot record says `Settings.on_audit_failure`: it is refused, or it goes on and the
    audit is told of the gap (`AuditGap`) before anything else once it records again. An event that was told to it may come again.
    It is not told of single refusals that anybody can cause in any number, but of their sum (`RefusalsSummed`).
    """

    @property
    def essential(self) -> Literal[True]:
        """Says that this is an audit; when `observe` returns the event is durable."""
        ...
