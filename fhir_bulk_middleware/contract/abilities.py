"""What a mount's adapter can do, what it cannot, and where its exports run: told once, to the operator's log (law 43)."""

import logging
from collections.abc import Collection, Mapping

from fhir_bulk_middleware.contract.check import capabilities, without
from fhir_bulk_middleware.contract.deletes import SupportsDelete
from fhir_bulk_middleware.contract.running import JobRunner, SupportsWorkerProcess
from fhir_bulk_middleware.settings import Settings

__all__ = ["tell_abilities"]

_log = logging.getLogger("fhir_bulk_middleware")


def tell_abilities(
    adapter: str,
    abilities: Collection[type],
    *,
    parts: Mapping[str, object],
    settings: Settings,
    system_time: bool,
    runner: JobRunner | None,
    deletes: bool,
) -> None:
    """Log what the adapter can do and what not, and where exports run.

    It is a warning that the server's own loop does the work though nobody asked for that: polls get slower while an export runs.

    Args:
        adapter: the name of its class.
        abilities: the protocols that it has.
        parts: what must be made again in a worker process, by the name of the argument.
        settings: how many workers there are to be.
        system_time: whether time is the machine's, as it is in worker processes.
        runner: what the host chose, None for the default.
        deletes: whether the host said that DELETE of resources is ours.
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
