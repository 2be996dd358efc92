"""The registration of a `BulkData` on its job store, and the rules for several on one store (law 32)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.settings import Settings

__all__ = ["AGREED", "NotAdmitted", "Registration", "Registry", "admit", "agreed", "disagreements"]

AGREED = ("lease_seconds", "renew_seconds", "attempts", "deadline", "tombstone_retention")
"""The settings that must be the same in all processes that work on the jobs of one adapter."""


class NotAdmitted(Exception):  # noqa: N818 - an outcome, told to the operator in one sentence
    """The stores refuse this `BulkData`. The message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A mount, as its job store keeps it.

    Attributes:
        mount: the mount's name; a store has one registration for each.
        adapter: the identity of the adapter that the mount's jobs are made for.
        named: whether the host gave a name (`adapter=` or `mount=`), so that a second adapter on the store is intended.
        dialect: the name of its dialect.
        audiences: the audiences of its tokens, sorted; None if its verifier does not say.
        settings: the values of `AGREED`.
    """

    mount: str
    adapter: str
    named: bool
    dialect: str
    audiences: tuple[str, ...] | None
    settings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Registry:
    """A job store and the mounts that work on it.

    Attributes:
        store_id: the store's own id: random, made once, the same for every process that opens the store.
        registrations: by mount.
    """

    store_id: str
    registrations: tuple[Registration, ...]


def admit(new: Registration, standing: Sequence[Registration]) -> None:
    """Check that a registration is compatible with those of the store. The same mount may register again, as after a restart.

    Raises:
        NotAdmitted: its adapter is a second one on the store and has no name; or the mount of its name has another adapter,
            another dialect (law 10) or other audiences (law 32).
    """
    adapters = sorted({other.adapter for other in standing})
    if adapters and new.adapter not in adapters and not new.named:
        raise NotAdmitted(
            f"this job store has the jobs of the adapter {adapters[0]!r}, and this one is {new.adapter!r}: where it is the "
            f"same storage, made in another way, give BulkData(adapter={adapters[0]!r}, mount={_first(standing)!r}); where it is "
            "another one, give it a name of its own, BulkData(adapter=...), or a job store of its own"
        )
    for other in standing:
        if other.mount != new.mount:
            continue
        for what, theirs, ours in (
            ("answers for the adapter", other.adapter, new.adapter),
            ("speaks the dialect", other.dialect, new.dialect),
            ("takes tokens for", _told(other.audiences), _told(new.audiences)),
        ):
            if theirs != ours:
                raise NotAdmitted(
                    f"the mount {new.mount!r} of this job store {what} {theirs!r}, and this one {ours!r}: jobs of one mount must "
                    "not answer through another, so give this one a name of its own, BulkData(mount=...)"
                )


def disagreements(new: Registration, standing: Sequence[Registration]) -> list[str]:
    """The settings of `AGREED` that differ from other mounts of the same adapter, each as a phrase with both values."""
    found = {
        (name, other.settings[name], value)
        for other in standing
        if other.adapter == new.adapter
        for name, value in new.settings.items()
        if name in other.settings and other.settings[name] != value
    }
    return [f"{name} is {ours:g} here and {theirs:g} there" for name, theirs, ours in sorted(found)]


def agreed(settings: Settings, adapter: str, standing: Sequence[Registration]) -> Settings:
    """The settings, with `AGREED` as the adapter's servers registered them: for command line helpers of those servers."""
    theirs = next((other.settings for other in standing if other.adapter == adapter), {})
    known = {name: value for name, value in theirs.items() if name in AGREED}
    return Settings.model_validate(settings.model_dump() | known)


def _first(standing: Sequence[Registration]) -> str:
    return min(standing, key=lambda other: (other.adapter, other.mount)).mount


def _told(audiences: tuple[str, ...] | None) -> str:
    return "an audience that its verifier does not tell" if audiences is None else ", ".join(audiences)
