"""Logs at start, one line each: whose tokens are taken, what the adapter can do, where exports run, who is told, what is missing.

Once for each mount (law 43): of several server processes in one process group, as uvicorn and gunicorn start them, one says it
and the others say it at DEBUG. Worker processes log none of it. A line is a warning if exports run in the server's event loop
although the settings ask for worker processes, because requests get slower then.
"""

import errno
import hashlib
import logging
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.check import capabilities, without
from fhir_bulk_middleware.contract.deletes import (
    SupportsBatchDelete,
    SupportsConditionalDelete,
    SupportsDelete,
    SupportsLockedDelete,
    SupportsOutbox,
)
from fhir_bulk_middleware.contract.observer import Audit
from fhir_bulk_middleware.contract.running import JobRunner, SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import SupportsDeletions
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.identity import TellsAudiences, TellsIssuer
from fhir_bulk_middleware.settings import Settings

__all__ = ["Startup", "without_recipe"]

_log = logging.getLogger("fhir_bulk_middleware")

_BY_THE_LOG = (SupportsDeletions, SupportsOutbox, SupportsBatchDelete)
"""What our log of deletes does for a storage that cannot."""
_OF_OUR_ROUTES = (SupportsConditionalDelete, SupportsLockedDelete, SupportsOutbox, SupportsBatchDelete)
"""What matters only if DELETE of resources is answered here."""


@dataclass(frozen=True, kw_only=True)
class Startup:
    """What a mount was made of.

    Attributes:
        mount: its name.
        adapter: the identity of its adapter.
        verifier: verifies tokens.
        abilities: the protocols that the adapter implements.
        parts: the objects that a worker process must make again, by the name of the argument; `resources` is the adapter.
        settings: the number of worker processes, and what happens if an audit fails.
        observers: receive events.
        system_time: whether the clock is the machine's, as it is in worker processes.
        runner: the host's runner, None for the default.
        deletes: how DELETE of resources is answered; None if it is the host's.
        log: whether our log of deletes stands before the storage.
    """

    mount: str
    adapter: str
    verifier: TokenVerifier
    abilities: Collection[type]
    parts: Mapping[str, object]
    settings: Settings
    observers: Sequence[object]
    system_time: bool
    runner: JobRunner | None
    deletes: DeletePolicy | None
    log: bool

    async def announce(self) -> None:
        """Log the lines, and keep other processes of the group from repeating them until cancelled."""
        lines = list(self._lines())
        with _first(repr((self.mount, lines))) as first:
            for level, line in lines:
                _log.log(level if first else logging.DEBUG, "mount %s: %s", self.mount, line)
            await anyio.sleep_forever()

    def _lines(self) -> Iterator[tuple[int, str]]:
        yield logging.INFO, self._identity()
        yield logging.INFO, self._abilities()
        yield self._place()
        yield logging.INFO, self._told()
        yield logging.INFO, self._not_promised()

    def _identity(self) -> str:
        verifier = self.verifier
        kind = type(verifier).__name__
        audiences = f" for {', '.join(sorted(verifier.audiences))}" if isinstance(verifier, TellsAudiences) else ""
        if isinstance(verifier, TellsIssuer):
            return f"tokens of {verifier.issuer}{audiences} are accepted, checked with {verifier.keys} ({kind})"
        return f"tokens{audiences} are accepted if {kind} accepts them"

    def _abilities(self) -> str:
        can = ", ".join(each.__name__ for each in self.abilities)
        if self.deletes is not None:
            deletes = "; DELETE of resources is answered here"
        elif SupportsDelete in self.abilities:
            deletes = "; it can delete, and DELETE of resources stays the host's: deletes=AIDBOX makes it ours"
        else:
            deletes = ""
        return f"the adapter {type(self.parts['resources']).__name__} ({self.adapter}) has {can}{deletes}"

    def _place(self) -> tuple[int, str]:
        lacking = without_recipe(self.parts) + ([] if self.system_time else ["clock is not the machine's"])
        if self.runner is not None:
            return logging.INFO, f"exports run in the runner that was given: {type(self.runner).__name__}"
        if not self.settings.worker_processes:
            return logging.INFO, "exports run in the server's own loop, as worker_processes=0 says"
        if lacking:
            slow = "exports run in the server's own loop and slow down its requests, since they cannot run in worker processes"
            return logging.WARNING, f"{slow}: {'; '.join(lacking)} (help(fhir_bulk_middleware.SupportsWorkerProcess) says how)"
        return logging.INFO, f"exports run in {self.settings.worker_processes} worker processes"

    def _told(self) -> str:
        if not self.observers:
            return "nobody is told of exports, files and deletes: there are no observers, and so no audit"
        names = [f"{type(each).__name__}{' (audit)' if isinstance(each, Audit) else ''}" for each in self.observers]
        failing = {
            "refuse": "what an audit cannot record is refused",
            "go_on": "what an audit cannot record is carried out all the same (on_audit_failure)",
        }[self.settings.on_audit_failure]
        audited = any(isinstance(each, Audit) for each in self.observers)
        return f"events are told to {', '.join(names)}; {failing if audited else 'there is no audit among them'}"

    def _not_promised(self) -> str:
        made_up_for = {*self.abilities, *(_BY_THE_LOG if self.log else ()), *(_OF_OUR_ROUTES if self.deletes is None else ())}
        lacking = [f"no {each.__name__} ({without(each)})" for each in capabilities() if each not in made_up_for]
        return f"not promised: {', '.join(lacking)}" if lacking else "all that an adapter can promise is promised"


def without_recipe(parts: Mapping[str, object]) -> list[str]:
    """The parts that a worker process cannot make again, each as a phrase."""
    lacking = {name: part for name, part in parts.items() if not isinstance(part, SupportsWorkerProcess)}
    return [f"{name} ({type(part).__name__}) has no recipe()" for name, part in lacking.items()]


@contextmanager
def _first(said: str) -> Iterator[bool]:
    """Whether no other process of this process group says the same now.

    The first one holds a socket in Linux's abstract namespace, which leaves no file behind and is free when the process ends.
    """
    name = f"\0fhir-bulk-start-{os.getuid()}-{os.getpgrp()}-{hashlib.sha256(said.encode()).hexdigest()[:32]}"
    with socket.socket(socket.AF_UNIX) as held:
        try:
            held.bind(name)
        except OSError as error:
            yield error.errno != errno.EADDRINUSE  # if the system has no such names, say it
        else:
            yield True
