"""Checks of where methods run: whether they hold the server's event loop, and whether a worker can make the adapter again."""

from collections.abc import Awaitable, Callable
from typing import cast

from fhir_bulk_middleware.checks.factory import released
from fhir_bulk_middleware.checks.finding import Notes, Remark
from fhir_bulk_middleware.checks.probe import Call, Probe
from fhir_bulk_middleware.contract.recipes import make
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsExport,
    SupportsGroups,
    SupportsPatients,
    SupportsSnapshot,
)
from fhir_bulk_middleware.instant import Precision

__all__ = ["event_loop", "recipe"]

_TRIES = 3
_FREE = "await an asynchronous driver, or run the blocking part in a thread: anyio.to_thread.run_sync."
_IN_SERVER = Remark("It runs in the server's event loop, whose requests all wait.", f"Do not block there: {_FREE}")
_IN_LOOP = Remark(
    "The adapter has no recipe(), so exports run in the server's event loop, whose requests all wait.",
    f"Implement `SupportsWorkerProcess`, so that exports run in worker processes; or {_FREE}",
)


async def event_loop(probe: Probe, notes: Notes) -> None:
    """No method that runs in the server holds its event loop; of several calls the shortest counts, since machines are busy."""
    for name, ask in _in_the_server(probe).items():
        await _measure(probe, notes, name, ask, _IN_SERVER)
    page = await _slowest_page(probe)
    if page is None:
        return
    type_, after = page

    async def read() -> object:
        return await probe.read(probe.query(type_), after, pages=1)

    if isinstance(probe.adapter, SupportsWorkerProcess):
        notes.saw("pages", _TRIES)  # in a worker process a page may block
        for _ in range(_TRIES):
            await read()
        return
    await _measure(
        probe,
        notes,
        "pages",
        read,
        _IN_LOOP,
    )


def _in_the_server(probe: Probe) -> dict[str, Callable[[], Awaitable[object]]]:
    """The methods that run in the server, by name, and a call of each."""
    adapter: object = probe.adapter
    found: dict[str, Callable[[], Awaitable[object]]] = {
        "authorise": lambda: probe.call("authorise", probe.adapter.authorise(probe.principal))
    }
    if isinstance(adapter, SupportsSnapshot):
        found["now"] = lambda: probe.call("now", adapter.now())
        if not isinstance(adapter, SupportsWorkerProcess):
            found["cut"] = lambda: probe.call("cut", adapter.cut(Precision.MICROSECONDS))
    if isinstance(adapter, SupportsDeletionHorizon):
        found["deletions_known_since"] = lambda: probe.call("deletions_known_since", adapter.deletions_known_since())
    if isinstance(adapter, SupportsGroups):
        group = next(iter(probe.bounds.groups), "no-group")
        found["members"] = lambda: probe.call("members", adapter.members(group, probe.principal))
    if isinstance(adapter, SupportsPatients):
        asked = frozenset({"Patient/no-patient"})
        found["patients"] = lambda: probe.call("patients", adapter.patients(asked, probe.principal))
    return found


async def _measure(probe: Probe, notes: Notes, name: str, ask: Callable[[], Awaitable[object]], fault: Remark) -> None:
    calls: list[Call] = []
    for _ in range(_TRIES):
        before = len(probe.calls[name])
        await ask()
        calls += probe.calls[name][before : before + 1]
    notes.saw("calls", len(calls))
    shortest = min((call.turn for call in calls), default=0.0)
    if shortest > probe.bounds.turn:
        notes.fault(
            f"{name} holds its thread for {shortest * 1000:,.0f} ms without giving way, more than {probe.bounds.turn * 1000:,.0f}"
            f" ms. {fault.what}",
            fault.do,
        )


async def _slowest_page(probe: Probe) -> tuple[str, str | None] | None:
    """The type and the cursor of the page that took longest."""
    pages = [(call.turn, type_, after) for type_, reading in (await probe.sound()).items() for after, _, call in reading.cursors]
    slowest = max(pages, key=lambda page: page[0], default=None)
    return None if slowest is None else slowest[1:]


async def recipe(probe: Probe, notes: Notes) -> None:
    """The adapter that a worker process makes reads the same data."""
    async with released(make(cast("SupportsWorkerProcess", probe.adapter).recipe())) as again:
        if not isinstance(again, SupportsExport):
            notes.fault(f"The recipe makes a {type(again).__name__}, which is no adapter.", "Name what makes an equal adapter.")
            return
        for type_ in [*await probe.sound()][:1]:
            query = probe.query(type_)
            here = await probe.read(query, pages=1)
            there = await probe.take(again.pages(query, None), query, pages=1)
            notes.saw("pages")
            if not set(here.digests) & set(there.digests):
                notes.fault(
                    f"The adapter that the recipe makes reads other resources of {type_} than this one.",
                    "Put the address of the same database into the recipe's arguments.",
                )
