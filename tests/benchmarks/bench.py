"""What every scenario needs: a folder, data, and how long it may take."""

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fhir_bulk_middleware.contract.job import Codec
from fhir_bulk_middleware.files.part import default_codec
from fhir_bulk_middleware.settings import Settings

from .data import Data, prepare
from .exports import Exports
from .figures import Figure, Skipped

__all__ = ["Bench", "Scenario", "core"]


@dataclass(slots=True)
class Bench:
    """One run of the suite.

    Attributes:
        folder: where everything lies; best in memory, so that no disk is measured.
        rounds: how often each contender measures.
        resources: size of the usual data.
        seconds: how long a load lasts.
        source: NDJSON files to take instead of the population.
        say: tells how it goes.
    """

    folder: Path
    rounds: int
    resources: int
    seconds: float = 2
    source: Path | None = None
    say: Callable[[str], None] = lambda _: None
    _data: dict[int, Data] = field(default_factory=dict)

    @property
    def data(self) -> Data:
        """The usual data."""
        return self.data_of(self.resources)

    def data_of(self, resources: int) -> Data:
        """The population, or one's own files, of this size; made once."""
        if resources not in self._data:
            self.say(f"loading {self.source or f'about {resources:,} resources'} ...")
            self._data[resources] = prepare(self.folder / f"data-{resources}", resources, self.source)
        return self._data[resources]

    @contextmanager
    def exports(
        self, data: Data, codec: Codec | None = None, settings: Settings | None = None, *, reuse: str = "never"
    ) -> Generator[Exports]:
        """Stores for some exports, removed afterwards. By default none links files of another."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="work-"))
        exports = Exports(data, folder, codec or default_codec(), settings, reuse=reuse)
        try:
            yield exports
        finally:
            exports.close()
            shutil.rmtree(folder)


Scenario = Callable[[Bench], Iterable[Figure | Skipped]]


@contextmanager
def core(number: int) -> Iterator[None]:
    """Stay on one core, together with all processes that are started meanwhile."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        os.sched_setaffinity(0, {sorted(before)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
