"""Logs once, at start, what a mount's adapter can do, what it cannot, and where its exports run (law 43)."""

import logging
from collections.abc import Collection, Mapping

from fhir_bulk_middleware.contract.check import capabilities, without
from fhir_bulk_middleware.contract.deletes import SupportsDelete
from fhir_bulk_middleware.contract.running import JobRunner, SupportsWorkerProcess
from fhir_bulk_middleware.settings import Settings

__all__ = ["log_abilities"]

_log = logging.getLogger("fhir_bulk_middleware")


def log_abilities(
    adapter: str,
    abilities: Collection[type],
    *,
    parts: Mapping[str, object],
    settings: Settings,
    system_time: bool,
    runner: JobRunner | None,
    deletes: bool,
) -> None:
    """Log what the adapter can and cannot do, and where exports run.

    It is a warning if exports run in the server's loop although the settings ask for worker processes: polls get slower then.

    Args:
        adapter: the name of the adapter's class.
        abilities: the protocols that it implements.
        parts: the objects that a worker process must make again, by the name of the argument.
        settings: the number of worker processes.
        system_time: whether the clock is the machine's, as it is in worker processes.
        runner: the host's runner, None for the default.
        deletes: whether `deletes=` makes DELETE of resources ours.
    """
    can = ", ".join(each.__name__ for each in abilities)
    cannot = "".join(f"\n  no {each.__name__}: {without(each)}" for each in capabilities() if each not in abilities)
    _log.info("%s has %s.%s", adapter, can, cannot)
    if SupportsDelete in abilities and not deletes:
        _log.info("%s can delete, and DELETE of resources stays the host's: deletes=AIDBOX makes it ours.", adapter)
    remade = {name: isinstance(part, SupportsWorkerProcess) for name, part in parts.items()}
    lacking = [f"{name} ({type(parts[name]).__name__}) has no recipe()" for name, there in remade.items() if not there]
    if not system_time:
        lacking.append("clock is not the machine's")
    if runner is not None:
        _log.info("Exports run in the runner that was given: %s.", type(runner).__name__)
    elif not settings.worker_processes:
        _log.info("Exports run in the server's own loop, as worker_processes=0 says.")
    elif lacking:
        _log.warning(
            "Exports run in the server's own loop and slow down its requests, since they cannot run in worker processes: %s"
            " (see SupportsWorkerProcess in fhir_bulk_middleware.contract).",
            "; ".join(lacking),
        )
    else:
        _log.info("Exports run in %d worker processes.", settings.worker_processes)
