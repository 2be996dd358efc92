"""What came of a check: passed, failed or not checked, in sentences that say what to do next."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Notes", "Outcome", "Remark"]

_OF_A_KIND = 2
"""Faults, or gaps, with one remedy that are told; the others are counted."""


class Outcome(StrEnum):
    """What came of a check."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    NOT_CHECKED = "NOT CHECKED"


@dataclass(frozen=True, slots=True)
class Remark:
    """A fault, or something that could not be checked.

    Attributes:
        what: what was seen, in sentences. They may name ids of resources, and have nothing else of them.
        do: what to do next.
    """

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check.

    Attributes:
        check: the name of the check.
        promise: what the check asks for, a sentence.
        outcome: failed if there is a fault; passed if something was seen and there is no fault.
        seen: what the outcome is based on, such as `2,000 resources`; empty if there was nothing to look at.
        faults: what is wrong.
        gaps: what could not be checked, and why.
        lacks: the protocol that the adapter does not implement, without which there is nothing to check.
    """

    check: str
    promise: str
    outcome: Outcome
    seen: str = ""
    faults: tuple[Remark, ...] = ()
    gaps: tuple[Remark, ...] = ()
    lacks: str = ""


class Notes:
    """Collects what a check sees. Remarks with the same remedy are of one kind, of which some are told."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._faults: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._gaps: defaultdict[str, dict[str, None]] = defaultdict(dict)

    @property
    def failed(self) -> bool:
        """Whether there is a fault."""
        return bool(self._faults)

    def saw(self, what: str, number: int = 1) -> None:
        """Count what was looked at; `what` is a plural such as `resources`."""
        if number:
            self.seen[what] += number

    def fault(self, what: str, do: str) -> None:
        """Note what is wrong and what to do; the same text counts once."""
        self._faults[do].setdefault(what)

    def gap(self, what: str, do: str) -> None:
        """Note what could not be checked and what to do; the same text counts once."""
        self._gaps[do].setdefault(what)

    def finding(self, check: str, promise: str) -> Finding:
        """The finding of a check that has come to its end."""
        outcome = Outcome.FAIL if self._faults else Outcome.PASS if self.seen else Outcome.NOT_CHECKED
        if outcome is Outcome.NOT_CHECKED and not self._gaps:
            self.gap("There was nothing to look at.", "Mend what other checks say, or repeat the check on data that has some.")
        seen = ", ".join(f"{number:,} {what if number > 1 else what.removesuffix('s')}" for what, number in self.seen.items())
        return Finding(check, promise, outcome, seen, _shown(self._faults), _shown(self._gaps))


def _shown(remarks: Mapping[str, Collection[str]]) -> tuple[Remark, ...]:
    found = []
    for do, kind in remarks.items():
        first = [*kind][:_OF_A_KIND]
        more = len(kind) - len(first)
        told = [*first, *([f"And {more:,} more of this kind."] if more else [])]
        found.append(Remark(" ".join(told), do))
    return tuple(found)
