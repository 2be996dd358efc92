"""Measures the time of each stage of an export."""

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Codec
from fhir_bulk_middleware.contract.output_store import OutputSink
from fhir_bulk_middleware.contract.query import Everything, Page, Query, Rows, Window
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsSnapshot
from fhir_bulk_middleware.export.firewall import Firewall
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.files.deflate import gzip_compressor
from fhir_bulk_middleware.files.part import default_codec
from fhir_bulk_middleware.instant import Clock, Precision
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Profile", "Stage", "measure"]


class Stage(StrEnum):
    """The stages through which an export passes each page."""

    READ = "read"
    FILTER = "filter"
    HASH = "hash"
    COMPRESS = "compress"  # no time if parts are not compressed
    WRITE = "write"


@dataclass(slots=True)
class Profile:
    """The result of a measurement.

    Attributes:
        seconds: seconds by stage.
        resources: number of resources.
        plain: bytes of NDJSON.
        stored: bytes written.
        complete: whether all data was read within the time limit.
    """

    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    resources: int = 0
    plain: int = 0
    stored: int = 0
    complete: bool = True

    @property
    def total(self) -> float:
        """The sum of the seconds of all stages."""
        return sum(self.seconds.values())


async def measure(
    resources: SupportsExport, principal: Principal, sink: OutputSink, settings: Settings, clock: Clock, *, seconds: float
) -> Profile:
    """Read a storage as an export of everything does, in one process and without a job, for about this many seconds.

    Each page passes all stages before the next is read, as in an export, with the same effect on caches. An export with several
    workers needs the same CPU time, and less elapsed time.

    Args:
        resources: the storage adapter.
        principal: the principal of the export.
        sink: receives the bytes; sealed at the end.
        settings: sets the page size.
        clock: used if the storage has no clock.
        seconds: time limit.
    """
    found = Profile()
    compressor = gzip_compressor() if default_codec() is Codec.GZIP else None
    watch = _Watch(found)
    digest = hashlib.sha256()
    allowed = await resources.authorise(principal)
    cut = await resources.cut(Precision.MICROSECONDS) if isinstance(resources, SupportsSnapshot) else None
    rows = Rows(Everything(), allowed.rights)
    for type_ in sorted(allowed.types):
        query = Query(type=type_, rows=rows, window=Window(None, cut or clock()), as_of=cut, page_bytes=settings.page_bytes)
        firewall, form = Firewall(type_, rows.selection), PageForm(type_, query.page_bytes, None)
        async with closing(resources.pages(query, None)) as pages:
            watch.start()
            while (page := await _next(pages)) is not None:
                watch.lap(Stage.READ)
                form.check(page)
                firewall.check(page)
                watch.lap(Stage.FILTER)
                digest.update(page.lines)
                watch.lap(Stage.HASH)
                data = page.lines if compressor is None else compressor.compress(memoryview(page.lines))
                watch.lap(Stage.COMPRESS)
                await sink.write(data)
                watch.lap(Stage.WRITE)
                found.resources += page.count
                found.plain += len(page.lines)
                found.stored += len(data)
                if found.total > seconds:
                    found.complete = False
                    break
            else:
                watch.lap(Stage.READ)
        if not found.complete:
            break
    watch.start()
    data = b"" if compressor is None else compressor.flush()
    watch.lap(Stage.COMPRESS)
    await sink.write(data)
    await sink.seal()
    watch.lap(Stage.WRITE)
    found.stored += len(data)
    return found


class _Watch:
    def __init__(self, found: Profile) -> None:
        self._seconds = found.seconds
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    with suppress(StopAsyncIteration):
        return await anext(pages)
    return None
