"""An exhaustive search: visits every state that steps can reach, nearest first, and says which laws are broken on the way."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        states: how many there are.
        violations: by law, the names of the steps of the shortest way there.
    """

    states: int
    violations: dict[str, list[str]]


def search(
    start: S,
    steps: Callable[[S], Iterable[tuple[str, S]]],
    broken: Callable[[S, S], str | None],
    *,
    settled: Callable[[S], S] = lambda state: state,
    ends: Callable[[S], str | None] | None = None,
    uncertain: tuple[str, ...] = ("kill",),
) -> Found:
    """Visit every state. Beyond a violation the search does not go on.

    Args:
        start: the first state.
        steps: the steps that a state allows, by name, with the state after each.
        broken: the law that a step from one state to another breaks, None if it keeps all.
        settled: what is kept of a state after the laws were checked.
        ends: None for a state in which all is done; else the law that says that such a state must be reached. It is checked
            that each state can reach one by steps of which each is certain to be taken some day.
        uncertain: how the names of the other steps begin.
    """
    came: dict[S, tuple[S, str] | None] = {start: None}
    before: dict[S, list[S]] = {}
    left = deque([start])
    violations: dict[str, list[str]] = {}
    while left:
        state = left.popleft()
        for name, reached in steps(state):
            law = broken(state, reached)
            if law is not None:
                violations.setdefault(law, [*_way(came, state), name])
                continue
            after = settled(reached)
            if ends is not None and not name.startswith(uncertain):
                before.setdefault(after, []).append(state)
            if after not in came:
                came[after] = state, name
                left.append(after)
    if ends is not None:
        for law, state in _stuck(came, before, ends):
            violations.setdefault(law, _way(came, state))
    return Found(len(came), violations)


def _stuck(came: Iterable[S], before: dict[S, list[S]], ends: Callable[[S], str | None]) -> Iterator[tuple[str, S]]:
    """The states, nearest first, from which no certain steps lead to an end."""
    left = [state for state in came if ends(state) is None]
    good = set(left)
    while left:
        for state in before.get(left.pop(), ()):
            if state not in good:
                good.add(state)
                left.append(state)
    for state in came:
        if state not in good and (law := ends(state)) is not None:
            yield law, state


def _way(came: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    names: list[str] = []
    while (step := came[state]) is not None:
        state, name = step
        names.append(name)
    return names[::-1]
