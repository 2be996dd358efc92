"""Terminal output: lines, progress bars and tables, with rich if it is installed, else as plain text."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

__all__ = ["Advance", "PlainScreen", "Screen", "screen"]


class Advance(Protocol):
    """A function that updates a progress bar."""

    def __call__(self, done: float, total: float | None = None) -> None:
        """Set the progress; `total` replaces the bar's total."""
        ...


class Screen(Protocol):
    """Protocol of a terminal output."""

    def say(self, text: str = "") -> None:
        """Print one or more lines unchanged."""
        ...

    def bar(self, title: str, total: float | None, unit: str) -> AbstractContextManager[Advance]:
        """Show a progress bar while the context is open; `unit` is `bytes` or a plural such as `resources`."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: the first column left-aligned, the others right-aligned; the last row is the total."""
        ...


def screen() -> Screen:
    """A `RichScreen` if rich is installed, else a `PlainScreen`."""
    try:
        from fhir_bulk_middleware.demo.rich_screen import RichScreen  # noqa: PLC0415 - rich is an extra
    except ImportError:
        return PlainScreen(sys.stdout)
    return RichScreen()


class PlainScreen:
    """A `Screen` of plain text; a bar prints one line at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, text: str = "") -> None:
        """As in `Screen`."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    @contextmanager
    def bar(self, title: str, total: float | None, unit: str) -> Iterator[Advance]:
        """As in `Screen`."""
        reached: float = 0
        del total

        def advance(done: float, total: float | None = None) -> None:
            nonlocal reached
            del total
            reached = done

        yield advance
        self.say(f"{title}: {reached:,.0f} {unit}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """As in `Screen`."""
        lines = [columns, *rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
        rule = "  ".join("-" * width for width in widths)
        align: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(columns) - 1)]
        text = ["  ".join(align[n](cell, widths[n]) for n, cell in enumerate(line)) for line in lines]
        self.say("\n".join([text[0], rule, *text[1:-1], rule, text[-1]]))
