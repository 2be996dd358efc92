"""The identity of an adapter, and its registration in the stores (law 32).

Each job carries the identity of the *adapter* that it was made for; only that adapter's processes work on it, sweep it and serve
its files. A *mount* answers requests; several mounts of one adapter share stores, workers and limits (law 10).
"""

import hashlib
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.binding import bind
from fhir_bulk_middleware.contract.deletes import DeletionLog
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.recipes import recipes_of
from fhir_bulk_middleware.contract.registration import AGREED, NotAdmitted, Registration, admit, disagreements
from fhir_bulk_middleware.dialects import Dialect
from fhir_bulk_middleware.settings import Settings

__all__ = ["Identity", "Place", "TellsAudiences", "TellsIssuer", "identity_of", "registration_of"]

_log = logging.getLogger("fhir_bulk_middleware")

_LONGEST = 200

_PASSWORD_NAME = re.compile("(?:pg)?passw(?:or)?d", re.IGNORECASE)
_PASSWORD_OF_URL = re.compile(r"(://[^:/?#@]*):[^/?#]*@")
_PASSWORD_PAIR = re.compile(r"\bpassw(?:or)?d\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s&;]*)", re.IGNORECASE)


@runtime_checkable
class TellsAudiences(Protocol):
    """A token verifier that knows its audiences. Without it, mounts cannot be compared by them."""

    @property
    def audiences(self) -> frozenset[str]:
        """The accepted values of `aud`; one of them suffices."""
        ...


@runtime_checkable
class TellsIssuer(Protocol):
    """A token verifier that knows whose tokens it accepts, and says so when a mount starts."""

    @property
    def issuer(self) -> str:
        """The required value of `iss`."""
        ...

    @property
    def keys(self) -> str:
        """Where the keys come from, in words and without secrets."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of an adapter.

    Attributes:
        name: stored with each job.
        given: whether the host chose the name.
        parts: the objects of the adapter, which distinguish two adapters of one class in one process; empty if the name is
            enough: one that the host chose, or one with a digest of recipes.
    """

    name: str
    given: bool
    parts: tuple[object, ...] = ()


def identity_of(name: str | None, mount: str | None, **parts: object) -> Identity:
    """The identity of an adapter: the name that the host gave, else a derived one.

    If all parts have recipes (`SupportsWorkerProcess`), it is the class of the first part with a digest of all recipes, which is
    the same in every process. Otherwise it is the classes with the name of the mount, if the host gave one, and within a process
    also the objects. The host must give a name if different processes make different adapters of one class, without recipes, for
    tokens of one audience: nothing else tells them apart.

    Args:
        name: of the adapter, None if the host gave none.
        mount: the name of the mount, None if the host gave none.
        parts: the storage, and the groups and the log if they are separate objects.

    Raises:
        ValueError: the name is empty, too long or not printable.
    """
    if name is not None:
        if not name.strip() or len(name) > _LONGEST or not name.isprintable():
            raise ValueError(f"adapter: a printable name of 1 to {_LONGEST} characters is required")
        return Identity(name, given=True)
    there: dict[str, object] = {}
    for key, part in parts.items():
        if part is not None and not any(part is other for other in there.values()):
            there[key] = part
    kinds = [_kind(part) for part in there.values()]
    recipes = recipes_of(**there)
    if recipes is None:
        return Identity("+".join(kinds) + (f"@{mount}" if mount else ""), given=False, parts=tuple(there.values()))
    digest = hashlib.sha256(json.dumps(_without_passwords(recipes), sort_keys=True).encode()).hexdigest()
    return Identity(f"{kinds[0]}-{digest[:12]}", given=False)


def _without_passwords(value: JsonValue) -> JsonValue:
    """The arguments of recipes without the passwords of databases.

    A new password makes no other adapter, and log and metrics show the digest of what remains, from which nobody can guess one.
    """
    if isinstance(value, dict):
        return {name: None if _PASSWORD_NAME.fullmatch(name) else _without_passwords(kept) for name, kept in value.items()}
    if isinstance(value, list):
        return [_without_passwords(each) for each in value]
    return _PASSWORD_PAIR.sub("", _PASSWORD_OF_URL.sub(r"\1@", value)) if isinstance(value, str) else value


def _kind(part: object) -> str:
    """The name of the class; the same whether its module is imported or run as a script."""
    module = type(part).__module__
    if module == "__main__":
        main = sys.modules[module]
        module = main.__spec__.name if main.__spec__ is not None else Path(getattr(main, "__file__", None) or module).stem
    return f"{module}.{type(part).__qualname__}"


def registration_of(
    identity: Identity, mount: str, dialect: Dialect, verifier: TokenVerifier, settings: Settings, *, named: bool
) -> Registration:
    """What a mount records about itself in its job store."""
    return Registration(
        mount=mount,
        adapter=identity.name,
        named=named,
        dialect=dialect.name,
        audiences=tuple(sorted(verifier.audiences)) if isinstance(verifier, TellsAudiences) else None,
        settings={name: getattr(settings, name) for name in AGREED},
    )


class Place:
    """The registration of a `BulkData` in its stores while it runs.

    Args:
        identity: of its adapter.
        registration: what the mount records in the job store.
        jobs: the job store.
        outputs: the output store.
        log: our own log of deletes, if there is one.
    """

    def __init__(
        self,
        identity: Identity,
        registration: Registration,
        jobs: JobStore,
        outputs: OutputStore,
        log: DeletionLog | None = None,
    ) -> None:
        self._identity = identity
        self._registration = registration
        self._jobs = jobs
        self._outputs = outputs
        self._log = log

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Register, for the time of the context.

        Raises:
            NotAdmitted: the stores belong to another adapter or deployment.
        """
        told: list[str] = []

        def decide(standing: Sequence[Registration]) -> None:
            admit(self._registration, standing)
            told.extend(disagreements(self._registration, standing))

        await self._jobs.register(self._registration, decide)
        await bind(self._outputs, self._jobs)
        for line in told:
            _log.warning(
                "mount %s: %s, in another process or before a restart; all processes on one job store need the same value, or "
                "they treat each other's work as abandoned",
                self._registration.mount,
                line,
            )
        with _alone((await self._jobs.registry()).store_id, self._identity), _logging(self._log, self._identity):
            yield


@contextmanager
def _alone(store: str, identity: Identity) -> Iterator[None]:
    """For the time of the context, no other adapter object of this process may use this identity on this job store."""
    if not identity.parts:
        yield
        return
    key = store, identity.name
    others = _present.setdefault(key, [])
    if not all(_same(parts, identity.parts) for parts in others):
        raise NotAdmitted(
            f"this process already has another {identity.name} on this job store, and nothing tells the two apart: give each its "
            "name, BulkData(adapter=..., mount=...)"
        )
    others.append(identity.parts)
    try:
        yield
    finally:
        others.pop()  # all of them are the same
        if not others:
            del _present[key]


@contextmanager
def _logging(log: DeletionLog | None, identity: Identity) -> Iterator[None]:
    """For the time of the context, no other adapter in this process may use this log: our exports would list its deletions."""
    if log is None:
        yield
        return
    recipes = recipes_of(log=log)
    key = id(log) if recipes is None else json.dumps(recipes, sort_keys=True)
    users = _logs.setdefault(key, [])
    if not all(user == identity.name for user in users):
        raise NotAdmitted(
            f"the log of deletes is already that of the adapter {users[0]!r}: its exports would tell what was deleted in this "
            "one; give each adapter a log of its own"
        )
    users.append(identity.name)
    try:
        yield
    finally:
        users.pop()  # all of them are the same
        if not users:
            del _logs[key]


_logs: dict[int | str, list[str]] = {}
"""For each log of deletes, the adapters in this process that use it, one entry for each registration."""

_present: dict[tuple[str, str], list[tuple[object, ...]]] = {}
"""For each job store and adapter name, the objects of adapters without a unique name, one entry for each registration."""


def _same(some: tuple[object, ...], others: tuple[object, ...]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
