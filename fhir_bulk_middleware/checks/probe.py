"""Reads an adapter within bounds, checks the form of what it hands over, and measures each call."""

import sysconfig
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import fhir_bulk_middleware
from fhir_bulk_middleware.checks.bounds import Bounds
from fhir_bulk_middleware.checks.finding import Remark
from fhir_bulk_middleware.checks.record import LineFault, LineReader, Record
from fhir_bulk_middleware.checks.turn import Timed
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Everything, Page, Query, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport
from fhir_bulk_middleware.export.firewall import Firewall, FirewallBreach
from fhir_bulk_middleware.export.page_form import MalformedPage, PageForm
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Refused
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Call", "Probe", "Reading", "raised"]

T = TypeVar("T")

_LINE_FAULTS = 5
_OURS = str(Path(fhir_bulk_middleware.__file__).parent)
_STANDARD = sysconfig.get_path("stdlib")
_INSTALLED = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
_SEE_PAGE = "See `Page` in fhir_bulk_middleware.contract.query."


@dataclass(frozen=True, slots=True)
class Call:
    """The time of one call.

    Attributes:
        seconds: from its begin to its end.
        turn: seconds for which it held the event loop at a time.
    """

    seconds: float
    turn: float


@dataclass(slots=True)
class Reading:
    """What a query gave.

    Attributes:
        records: the resources, in their order.
        cursors: of each page, the cursor at which it begins and the cursor behind it, with the call that gave it.
        complete: whether the query was read to its end.
        fault: why it could not be: a page is malformed.
        line_faults: lines that are not canonical; they are not among the records.
    """

    records: list[Record] = field(default_factory=list)
    cursors: list[tuple[str | None, str, Call]] = field(default_factory=list)
    complete: bool = True
    fault: Remark | None = None
    line_faults: list[Remark] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids, in their order."""
        return [record.id for record in self.records]

    @property
    def digests(self) -> list[bytes]:
        """The digests of the lines, in their order."""
        return [record.digest for record in self.records]

    @property
    def repeated(self) -> list[str]:
        """The ids that come more than once."""
        seen: set[str] = set()
        return sorted({id_ for id_ in self.ids if id_ in seen or seen.add(id_)})  # type: ignore[func-returns-value]

    @property
    def sound(self) -> bool:
        """Whether all that was read could be read."""
        return self.fault is None and not self.line_faults


@dataclass(slots=True)
class Probe:
    """An adapter that is checked.

    Attributes:
        adapter: the storage adapter.
        principal: the client in whose name it is read.
        allowed: what `authorise` returned.
        cut: the cut of all reads; None if the storage has no snapshots.
        bounds: the limits.
        lines: reads lines.
        types: the types that are read, sorted.
        calls: the calls of each method so far.
    """

    adapter: SupportsExport
    principal: Principal
    bounds: Bounds
    lines: LineReader
    allowed: Authorisation = Authorisation(frozenset())  # noqa: RUF009 - frozen
    cut: Instant | None = None
    types: tuple[str, ...] = ()
    calls: defaultdict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    _until: float = field(init=False)
    _walks: dict[tuple[str, Selection], Reading] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """The time runs from now."""
        self._until = time.monotonic() + self.bounds.seconds

    @property
    def left(self) -> float:
        """Seconds that are left for all checks."""
        return self._until - time.monotonic()

    def forget(self) -> None:
        """Forget what was read, since the storage may have changed."""
        self._walks.clear()

    async def call(self, name: str, awaitable: Awaitable[T]) -> T:
        """Await a method of the adapter, and note its time."""
        timed = Timed(awaitable)
        try:
            return await timed
        finally:
            self.calls[name].append(Call(timed.seconds, timed.longest))

    def query(
        self,
        type_: str,
        selection: Selection | None = None,
        *,
        since: int | None = None,
        until: int | None = None,
        as_of: int | None = None,
        range_: str = "",
        page_bytes: int | None = None,
    ) -> Query:
        """A query as exports make it: as of the cut, with a window that ends there at the latest."""
        cut = self.cut if as_of is None else as_of
        if cut is not None:
            until = cut if until is None else min(until, cut)
        return Query(
            type=type_,
            selection=selection or Everything(),
            rights=self.allowed.rights,
            window=Window(None if since is None else Instant(since), None if until is None else Instant(until)),
            as_of=None if cut is None else Instant(cut),
            range=range_,
            page_bytes=page_bytes or self.bounds.page_bytes,
        )

    async def walk(self, type_: str, selection: Selection | None = None) -> Reading:
        """All resources of a type, within the bounds; read once."""
        key = (type_, selection or Everything())
        if key not in self._walks:
            try:
                self._walks[key] = await self.read(self.query(type_, selection))
            except Refused:
                raise
            except Exception as error:  # noqa: BLE001 - told once, with the pages, and not with each check
                self._walks[key] = Reading(complete=False, fault=Remark(*raised(error)))
        return self._walks[key]

    async def read(self, query: Query, after: str | None = None, *, most: int | None = None, pages: int = 0) -> Reading:
        """What a query gives from behind a cursor, up to a number of resources, or of pages (0: no limit)."""
        stream = self.adapter.pages(query, after)
        return await self.take(stream, query, after, most=most, pages=pages)

    async def take(
        self,
        stream: AsyncIterator[Page],
        query: Query,
        after: str | None = None,
        *,
        most: int | None = None,
        pages: int = 0,
        name: str = "pages",
    ) -> Reading:
        """The resources of pages that a method of the adapter gives."""
        found, form = Reading(), PageForm(query.type, query.page_bytes, after, cursors=name == "pages")
        firewall = Firewall(query.type, Everything())
        most = self.bounds.resources if most is None else most
        async with closing(stream) as source:
            while (page := await self._next(source, name)) is not None:
                try:
                    form.check(page)
                    firewall.check(page)
                except (MalformedPage, FirewallBreach) as error:
                    what, _, where = str(error).partition("; see ")
                    found.fault = Remark(f"{what[0].upper()}{what[1:]}.", f"See {where}." if where else _SEE_PAGE)
                    found.complete = False
                    break
                if len(page.lines) > query.page_bytes and page.count > 1:
                    found.fault = Remark(
                        f"A page of {query.type} has {len(page.lines):,} bytes in {page.count:,} resources, and"
                        f" {query.page_bytes:,} were asked for.",
                        "End a page before the resource with which it would exceed `Query.page_bytes`; a single one may.",
                    )
                found.cursors.append((after, page.cursor, self.calls[name][-1]))
                after = page.cursor
                self._add(found, page, query.type)
                if len(found.records) >= most or len(found.cursors) == pages or self.left <= 0:
                    found.complete = False
                    break
        return found

    async def deletions(self, query: Query, *, most: int | None = None) -> tuple[list[str], bool]:
        """The references of the deletions of a query, and whether these are all of them.

        Raises:
            MalformedPage: a page breaks the rules of `Deletions`.
        """
        form, found = PageForm(query.type, query.page_bytes, None), list[str]()
        async with closing(cast("SupportsDeletions", self.adapter).deletions(query, None)) as source:
            while (page := await self._next(source, "deletions")) is not None:
                form.check_deletions(page)
                found += page.references
                if len(found) >= (most or self.bounds.resources) or self.left <= 0:
                    return found, False
        return found, True

    async def _next(self, source: AsyncIterator[T], name: str) -> T | None:
        with suppress(StopAsyncIteration):
            return await self.call(name, source.__anext__())
        return None

    def _add(self, found: Reading, page: Page, type_: str) -> None:
        for line in page.lines.split(b"\n")[:-1]:
            try:
                found.records.append(self.lines.read(line, type_))
            except LineFault as fault:
                if len(found.line_faults) < _LINE_FAULTS:
                    found.line_faults.append(Remark(fault.what, fault.do))

    async def sound(self, selection: Selection | None = None) -> dict[str, Reading]:
        """By type, what was read of it; without the types that are empty or malformed."""
        found = {type_: await self.walk(type_, selection) for type_ in self.types}
        return {type_: reading for type_, reading in found.items() if reading.records and reading.sound}


def raised(error: Exception) -> tuple[str, str]:
    """An exception of the adapter as a sentence, with the place in the host's code where it came from, and what to do."""
    frame = _place(error)
    place = f" in {frame.name}, {Path(frame.filename).name} line {frame.lineno}" if frame else ""
    notes = " ".join(f"{note.rstrip('.')}." for note in getattr(error, "__notes__", ()))
    text = f"{type(error).__name__}{place}: {error}".rstrip(". ")
    where = "this line" if frame else "what the adapter gave"
    return f"{text}. {notes}".rstrip(), f"Look at {where}; a storage that cannot answer now raises Refused(Reason.BUSY)."


def _place(error: Exception) -> traceback.FrameSummary | None:
    """The last line of the host, or else of an installed package, since the host may be one; None if there is neither."""
    raising = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in raising if Path(frame.filename).is_absolute() and not frame.filename.startswith(_OURS)]
    installed = [frame for frame in frames if frame.filename.startswith(_INSTALLED)]
    host = [frame for frame in frames if not frame.filename.startswith((*_INSTALLED, _STANDARD))]
    return next(reversed(host or installed), None)
