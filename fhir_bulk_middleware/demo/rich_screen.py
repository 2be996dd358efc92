"""A screen that uses rich (extra `cli`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

try:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError("tables and bars need rich: pip install 'fhir-bulk-middleware[cli]'") from error

from fhir_bulk_middleware.demo.show import Advance

__all__ = ["RichScreen"]


class RichScreen:
    """A `Screen` with colours and live bars; rich omits both if the output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def say(self, text: str = "") -> None:
        """As in `Screen`."""
        # No wrapping and no mark-up, since the text may be a command line to copy.
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: float | None, unit: str) -> Iterator[Advance]:
        """As in `Screen`."""
        amount: ProgressColumn = DownloadColumn() if unit == "bytes" else _Count(unit)
        columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), BarColumn(), amount)
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            task = progress.add_task(title, total=total)

            def advance(done: float, total: float | None = None) -> None:
                progress.update(task, completed=done, total=total)

            yield advance
            reached = progress.tasks[task].completed
            progress.update(task, completed=reached, total=max(reached, 1))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """As in `Screen`."""
        *body, total = rows
        table = Table(show_footer=True, box=SIMPLE, pad_edge=False)  # fits 80 columns
        for number, column in enumerate(columns):
            table.add_column(column, footer=total[number], justify="right" if number else "left", no_wrap=True)
        for row in body:
            table.add_row(*row)
        self._console.print(table)


class _Count(ProgressColumn):
    """The column with the count, such as `1,200 of 14,000 resources`."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The text for one bar."""
        total = f" of {task.total:,.0f}" if task.total and task.total > task.completed else ""
        return Text(f"{task.completed:,.0f}{total} {self._unit}")
