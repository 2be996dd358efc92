"""The health of a mount: a check for each part, and what follows from all of them.

The document has the form of draft-inadarei-api-health-check-06. It is for anybody, so it holds no names, versions, addresses or
causes; the log has the causes.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import anyio

from fhir_bulk_middleware.contract.figures import Census
from fhir_bulk_middleware.health.gauging import Gauges
from fhir_bulk_middleware.health.question import Unanswered
from fhir_bulk_middleware.instant import Clock, seconds_between
from fhir_bulk_middleware.settings import Settings

__all__ = ["Health", "Probe"]

_log = logging.getLogger("fhir_bulk_middleware")

Check = dict[str, Any]


class _Status(StrEnum):
    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"


_GRAVITY: Final = list(_Status)


class Health:
    """What a probe found.

    Attributes:
        document: the checks and the gravest status among them.
        ready: whether requests should come here: false if a store cannot be reached, or the engine has stopped.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        gravest = max((_Status(check["status"]) for check in checks.values()), key=_GRAVITY.index)
        self.document = {"status": gravest.value, "checks": {name: [check] for name, check in checks.items()}}
        self.ready = gravest is not _Status.FAIL


class Probe:
    """Checks a mount. All checks run at once, and none takes longer than two seconds.

    Args:
        gauges: answer the questions.
        settings: how much space workers need.
        engine_runs: returns whether the engine runs.
        clock: the current time.
    """

    def __init__(self, gauges: Gauges, settings: Settings, *, engine_runs: Callable[[], bool], clock: Clock) -> None:
        self.wanted = settings.health
        """Whether there are to be probes."""
        self._gauges = gauges
        self._space = settings.part_bytes * max(1, settings.worker_processes)
        self._engine_runs = engine_runs
        self._clock = clock
        self._failing: set[str] = set()

    async def health(self) -> Health:
        """The health now; figures are at most five seconds old."""
        found: dict[str, Check] = {"engine:running": _check(_Status.PASS if self._engine_runs() else _Status.FAIL)}
        checks = {
            "jobs:reachable": self._jobs,
            "jobs:queued": self._queued,
            "outputs:reachable": self._outputs,
            "workers:alive": self._workers,
        }
        answers: dict[str, dict[str, Check]] = {}

        async def check(name: str, ask: Callable[[], Awaitable[dict[str, Check]]]) -> None:
            answers[name] = await self._checked(name, ask)

        async with anyio.create_task_group() as tasks:
            for name, ask in checks.items():
                tasks.start_soon(check, name, ask)
        for name in checks:
            found |= answers[name]
        return Health(found)

    async def _checked(self, name: str, ask: Callable[[], Awaitable[dict[str, Check]]]) -> dict[str, Check]:
        """The result of a check, or its failure. The cause is logged when the check begins to fail, not for each probe."""
        try:
            checks = await ask()
        except Exception as error:  # noqa: BLE001 - a store may raise anything
            if name not in self._failing:
                self._failing.add(name)
                _log.error("health: %s fails", name, exc_info=None if isinstance(error, Unanswered) else error)
            output = "there is no answer" if isinstance(error, Unanswered) else "it failed; the log has the cause"
            return {name: {**_check(_Status.FAIL), "output": output}}
        if name in self._failing:
            self._failing.remove(name)
            _log.warning("health: %s passes again", name)
        return checks

    async def _jobs(self) -> dict[str, Check]:
        await self._gauges.store_id.answer()
        return {"jobs:reachable": _check(_Status.PASS)}

    async def _queued(self) -> dict[str, Check]:
        census: Census | None = await self._gauges.census.answer()
        if census is None:
            return {}
        oldest = 0.0 if census.oldest_queued is None else max(0.0, seconds_between(census.oldest_queued, self._clock()))
        return {
            "jobs:queued": _check(_Status.PASS, census.queued, "jobs"),
            "jobs:oldestQueued": _check(_Status.PASS, round(oldest, 1), "s"),
        }

    async def _outputs(self) -> dict[str, Check]:
        free = await self._gauges.free_bytes.answer()
        found = {"outputs:reachable": _check(_Status.PASS)}
        if free is not None:
            found["outputs:free"] = _check(_Status.PASS if free >= self._space else _Status.WARN, free, "bytes")
        return found

    async def _workers(self) -> dict[str, Check]:
        alive = await self._gauges.workers.answer()
        return {} if alive is None else {"workers:alive": _check(_Status.PASS if alive else _Status.WARN, alive, "workers")}


def _check(status: _Status, value: float | None = None, unit: str = "") -> Check:
    return {"status": status.value} | ({} if value is None else {"observedValue": value, "observedUnit": unit})
