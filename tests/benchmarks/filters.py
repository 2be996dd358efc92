"""What is asked for less than everything costs, against everything (rows 6, 7, 8 and 11b)."""

from collections.abc import Callable, Iterator

import pytest

from fhir_bulk_middleware.contract.job import Options
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Filter
from fhir_bulk_middleware.export.firewall import Firewall
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion

from .bench import Bench, core
from .exports import Export, Exports, Wanted
from .figures import Figure, Skipped, ratio
from .rounds import interleave

__all__ = ["context", "filters", "firewall", "shapes"]

_ELEMENTS = ("status", "code", "subject", "patient")
_FILTERED = ("Observation", "status=final")
"""A query that most lines must be parsed for: the worst case of a filter."""
_NEEDLE = ("Observation", "code=http://loinc.org|8302-2")
"""A query for something that an index finds in few lines."""


def filters(bench: Bench) -> Iterator[Figure]:
    """Rows 6 and 7: what costs by what is selected."""
    data = bench.data
    wanted = {
        "everything": Wanted(),
        "6 1 %": Wanted(Compartments(data.patients(100))),
        "6 10 %": Wanted(Compartments(data.patients(10))),
        "7 1 %": Wanted(since=data.changed_last(0.01)),
        "7 10 %": Wanted(since=data.changed_last(0.1)),
    }
    names = {"6": "Group", "7": "_since"}
    with bench.exports(data) as exports, core(0):
        sealed: dict[str, Export] = {}
        found = interleave({name: _contender(exports, name, what, sealed) for name, what in wanted.items()}, bench.rounds)
    for row in list(wanted)[1:]:
        number, share = row.split(" ", 1)
        part = sealed[row].size / sealed["everything"].size
        yield ratio(row, f"{names[number]} {share} / everything", found[row], found["everything"], f"{part:.1%} of the bytes")


def context(bench: Bench) -> Iterator[Figure]:
    """What a group's lines name, collected and followed and exported with them, against the same group without it (law 40)."""
    data = bench.data
    wanted = {}
    for share, one_in in {"1 %": 100, "10 %": 10}.items():
        group = Compartments(data.patients(one_in))
        wanted[f"{share} without"] = Wanted(group)
        wanted[f"{share} with"] = Wanted(group, context=data.types)
    with bench.exports(data) as exports, core(0):
        sealed: dict[str, Export] = {}
        found = interleave({name: _contender(exports, name, what, sealed) for name, what in wanted.items()}, bench.rounds)
    for share in ("1 %", "10 %"):
        mine, without = sealed[f"{share} with"], sealed[f"{share} without"]
        more = f"{mine.count - without.count:,} resources of context beside {without.count:,}"
        row = "context 10 %" if share == "10 %" else ""
        yield ratio(row, f"Group {share} with context / without", found[f"{share} with"], found[f"{share} without"], more)


def shapes(bench: Bench) -> Iterator[Figure | Skipped]:
    """Rows 8 and 8b: what changes lines, or leaves some out by what is in them."""
    data = bench.data
    lately = "Observation", f"date=ge{data.newest_observations(0.01)}"
    wanted = {
        "everything": Wanted(),
        "8": Wanted(options=Options(elements=_ELEMENTS)),
        "observations": Wanted(types=("Observation",)),
        "many": _filtered(*_FILTERED),
        "few": _filtered(*_NEEDLE),
        "8b": _filtered(*lately),
    }
    with bench.exports(data) as exports, core(0):
        sealed: dict[str, Export] = {}
        found = interleave({name: _contender(exports, name, what, sealed) for name, what in wanted.items()}, bench.rounds)
    if sealed["8"].size == sealed["everything"].size:
        yield Skipped("8", "_elements / everything", "this version does not apply _elements")
    else:
        yield ratio("8", "_elements / everything", found["8"], found["everything"], _share(sealed["8"], sealed["everything"]))
    for name, (type_, query) in {"many": _FILTERED, "few": _NEEDLE, "8b": lately}.items():
        title = f"_typeFilter={type_}?{query} / all of {type_}"
        row = name if name == "8b" else ""
        if sealed[name].size == sealed["observations"].size and name != "many":
            yield Skipped(row, title, "this version does not apply _typeFilter")
        else:
            yield ratio(row, title, found[name], found["observations"], _share(sealed[name], sealed["observations"]))


def firewall(bench: Bench) -> Iterator[Figure]:
    """Row 11b: the last look at each line, at Patient level; and at system level."""
    data = bench.data
    with bench.exports(data) as exports, core(0):
        sealed: dict[str, Export] = {}
        contenders = {}
        for name, what in {"Patient": Wanted(EveryPatient()), "system": Wanted()}.items():
            contenders[f"{name} with"] = _contender(exports, f"{name} with", what, sealed)
            contenders[f"{name} without"] = _unchecked(_contender(exports, f"{name} without", what, sealed))
        found = interleave(contenders, bench.rounds)
    yield ratio("11b", "Patient level with firewall / without", found["Patient with"], found["Patient without"])
    yield ratio("", "system level with firewall / without", found["system with"], found["system without"])


def _contender(exports: Exports, name: str, wanted: Wanted, sealed: dict[str, Export]) -> Callable[[], float]:
    def measure() -> float:
        sealed[name] = exports.here(wanted)
        return sealed[name].seconds

    return measure


def _unchecked(measure: Callable[[], float]) -> Callable[[], float]:
    """The same without a look at the lines; there is no switch for that, and there shall be none."""

    def measure_unchecked() -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Firewall, "check", lambda *_: None)
            return measure()

    return measure_unchecked


def _filtered(type_: str, query: str) -> Wanted:
    criteria = Criteria.parse(FhirVersion.R4, type_, query)
    return Wanted(types=(type_,), filters=(Filter(type_, (criteria,)),))


def _share(mine: Export, whole: Export) -> str:
    return f"{mine.size / whole.size:.1%} of the bytes"
