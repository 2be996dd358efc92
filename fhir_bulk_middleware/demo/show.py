"""What a person at a terminal sees: lines, bars and tables. With rich where it is installed, in plain text where it is not."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

__all__ = ["Advance", "PlainScreen", "Screen", "screen"]


class Advance(Protocol):
    """Shows how far something is."""

    def __call__(self, done: float, total: float | None = None) -> None:
        """`total` when it is known, or known better."""
        ...


class Screen(Protocol):
    """Where to say something."""

    def say(self, text: str = "") -> None:
        """One or more lines, as they are."""
        ...

    def bar(self, title: str, total: float | None, unit: str) -> AbstractContextManager[Advance]:
        """A bar while the context is open; `unit` is `bytes`, or the plural of what is counted."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table: the first column to the left, the others to the right; the last row is a total."""
        ...


def screen() -> Screen:
    """The terminal, as well as it can be used here."""
    try:
        from fhir_bulk_middleware.demo.rich_screen import RichScreen  # noqa: PLC0415 - rich is an extra
    except ImportError:
        return PlainScreen(sys.stdout)
    return RichScreen()


class PlainScreen:
    """Plain text: a bar is one line when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, text: str = "") -> None:
        """As `Screen` says."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    @contextmanager
    def bar(self, title: str, total: float | None, unit: str) -> Iterator[Advance]:
        """As `Screen` says."""
        reached: float = 0
        del total

        def advance(done: float, total: float | None = None) -> None:
            nonlocal reached
            del total
            reached = done

        yield advance
        self.say(f"{title}: {reached:,.0f} {unit}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """As `Screen` says."""
        lines = [columns, *rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
        rule = "  ".join("-" * width for width in widths)
        align: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(columns) - 1)]
        text = ["  ".join(align[n](cell, widths[n]) for n, cell in enumerate(line)) for line in lines]
        self.say("\n".join([text[0], rule, *text[1:-1], rule, text[-1]]))
