"""The protocol of parts that keep tables, which a deployment may want to make before its servers start."""

from typing import Protocol, runtime_checkable

__all__ = ["SupportsMigration"]


@runtime_checkable
class SupportsMigration(Protocol):
    """A store, an adapter or a runner with tables of its own, which `fhir-bulk migrate --app` makes."""

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date. Nothing happens if they are; of several callers one does it, others wait.

        Raises:
            RuntimeError: that is impossible; the message says why and what to do.
        """
        ...
