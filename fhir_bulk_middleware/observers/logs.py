"""Observer that logs events as structured lines."""

import json
import logging

from fhir_bulk_middleware.contract.events import AuditFailed, Event, RequestRefused, content
from fhir_bulk_middleware.contract.running import Recipe

__all__ = ["LogEvents"]

_LEVELS: dict[type[Event], int] = {RequestRefused: logging.WARNING, AuditFailed: logging.ERROR}


class LogEvents:
    """Logs each event as one line of JSON; the log record's `event` has the same content for custom formatters.

    Refusals are warnings, events that an audit could not record are errors, all others are information. Events have no resource
    content and no query strings, so the log has none either.

    Args:
        logger: the name of the logger.
    """

    def __init__(self, logger: str = "fhir_bulk_middleware.contract.events") -> None:
        self._name = logger
        self._log = logging.getLogger(logger)

    def recipe(self) -> Recipe:
        """The recipe for worker processes, which log to their stderr."""
        return Recipe(f"{__name__}:LogEvents", {"logger": self._name})

    async def observe(self, event: Event) -> None:
        """Log an event."""
        level = _LEVELS.get(type(event), logging.INFO)
        if self._log.isEnabledFor(level):
            found = content(event)
            self._log.log(level, "%s", json.dumps(found, separators=(",", ":")), extra={"event": found})
