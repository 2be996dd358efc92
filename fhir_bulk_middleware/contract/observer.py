"""The protocols of observers, which receive events."""

from typing import Literal, Protocol, runtime_checkable

from fhir_bulk_middleware.contract.events import Event

__all__ = ["Audit", "Observer"]


class Observer(Protocol):
    """Receives events: logs, metrics, audits. Implemented by `LogEvents`, `AuditFile` and `AuditEvents`.

    With a recipe (`SupportsWorkerProcess`) it is made again in each worker process and receives the events of that process;
    without one it receives only those of its own process.
    """

    async def observe(self, event: Event) -> None:
        """Receive an event. An exception is logged and affects no request; a call that takes too long is cancelled."""
        ...


@runtime_checkable
class Audit(Observer, Protocol):
    """An observer that must have every disclosure and every removal (law 37), such as `AuditFile` and `AuditEvents`.

    If it raises, `Settings.on_audit_failure` decides: the request is refused, or it goes on, and once the audit records again it
    receives an `AuditGap` first. An event may come twice. Refusals that anybody can cause in any number come as a sum
    (`RefusalsSummed`).
    """

    @property
    def essential(self) -> Literal[True]:
        """Marks an audit: when `observe` returns, the event is durable."""
        ...
