"""A work that says something to every log, when it is made in a worker process."""

import logging


class Chatty:
    def __init__(self) -> None:
        for logger in ("fhir_bulk_middleware", "fhir_bulk_middleware.contract.events", "httpx2"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(logger).log(level, "%s says %s", logger, logging.getLevelName(level).lower())

    async def step(self, worker: str) -> bool:  # noqa: ARG002
        return False

    async def abandoned(self, worker: str) -> None:
        pass
