"""Events as structured log lines."""

import logging

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.events import AuditFailed, Event, RequestRefused, content
from fhir_bulk_middleware.contract.running import Recipe

__all__ = ["LogEvents"]

_LEVELS: dict[type[Event], int] = {RequestRefused: logging.WARNING, AuditFailed: logging.ERROR}


class LogEvents:
    """Logs each event as one line of JSON, with the same content in the record's `event` for who formats records otherwise.

    Refusals are warnings, events that an audit could not record are errors, all else is information. Neither resource content
    nor a query string is in any event, so none is in the log.

    Args:
        logger: the name of the logger.
    """

    def __init__(self, logger: str = "fhir_bulk_middleware.contract.events") -> None:
        self._name = logger
        self._log = logging.getLogger(logger)

    def recipe(self) -> Recipe:
        """The same in a worker process, which logs to its stderr."""
        return Recipe(f"{__name__}:LogEvents", {"logger": self._name})

    async def observe(self, event: Event) -> None:
        """Log it."""
        level = _LEVELS.get(type(event), logging.INFO)
        if self._log.isEnabledFor(level):
            found = content(event)
            self._log.log(level, "%s", compact_json(found, ascii_only=True), extra={"event": found})
