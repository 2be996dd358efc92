"""The limits on what the checks read."""

from dataclasses import dataclass

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits on what the checks read.

    Attributes:
        resources: resources of one type that a single read takes at most.
        patients: patients whose compartments are read.
        seconds: time for all checks together; what is not reached by then is not checked.
        turn: seconds for which a method may hold the server's event loop at a time (law 38).
        page_bytes: the size of pages that is asked for.
        types: the types to read; None for all that `authorise` allows.
        groups: ids of groups whose members are read, besides the Group resources that are found.
    """

    resources: int = 2_000
    patients: int = 20
    seconds: float = 60.0
    turn: float = 0.05
    page_bytes: int = 256 * 1024
    types: frozenset[str] | None = None
    groups: tuple[str, ...] = ()
