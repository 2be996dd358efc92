"""`fhir-bulk bench`: what it tells is what it read."""

import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.profiler import Stage, measure
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.query import Authorisation, Page, Query
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore

PRINCIPAL = Principal(owner=Owner("i", "s"), scopes=("system/*.rs",), expires_at=Instant(2))
KEY = "00000000-0000-4000-8000-000000000000/all"


class Endless:
    """An adapter that never comes to an end."""

    async def authorise(self, principal: Principal) -> Authorisation:  # noqa: ARG002
        return Authorisation(frozenset({"Patient", "Observation"}))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:  # noqa: ARG002
        for number in count():
            yield Page(b'{"resourceType":"%b","id":"%d"}\n' % (query.type.encode(), number), 1, str(number))


@pytest.mark.anyio
async def test_it_stops_when_its_time_is_over_and_says_so(tmp_path: Path) -> None:
    async with FileOutputStore(tmp_path, blocking=True).create(KEY) as sink:
        found = await measure(Endless(), PRINCIPAL, sink, Settings(), lambda: Instant(1), seconds=0.05)

    assert not found.complete
    assert found.resources > 0
    assert found.total == pytest.approx(0.05, abs=1)


@pytest.mark.anyio
async def test_each_stage_takes_time_and_what_was_counted_was_written(tmp_path: Path) -> None:
    async with FileOutputStore(tmp_path, blocking=True).create(KEY) as sink:
        found = await measure(Endless(), PRINCIPAL, sink, Settings(), lambda: Instant(1), seconds=0.05)

    assert set(found.seconds) == set(Stage)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert (tmp_path / KEY).stat().st_size == found.stored


def test_a_state_is_read_whole_and_nothing_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = State(tmp_path / "state")
    lines = list(population(patients=3))
    state.load("a population of 3 patients", lines, lambda _: None)
    before = sorted(path.name for path in state.folder.iterdir() if not path.name.startswith("store.db-"))

    assert main(["bench", "--dir", str(state.folder)]) == 0

    told = capsys.readouterr().out
    assert re.search(rf"Read all {len(lines):,} resources", told)
    assert [stage for stage in Stage if re.search(rf"^ *{stage.value} +\d", told, re.MULTILINE)] == [*Stage]
    assert sorted(path.name for path in state.folder.iterdir() if not path.name.startswith("store.db-")) == before


def test_an_adapter_of_ones_own_is_made_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_bench_adapter.py").write_text(
        "from fhir_bulk_middleware.contract.query import Authorisation, Page\n"
        "class Adapter:\n"
        "    async def authorise(self, principal):\n"
        "        return Authorisation(frozenset({'Patient'}))\n"
        "    async def pages(self, query, after):\n"
        '        yield Page(b\'{"resourceType":"Patient","id":"1"}\\n\', 1, "1")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert main(["bench", "--adapter", "my_bench_adapter:Adapter"]) == 0

    assert "Read all 1 resources" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dir", "no-such-state"], "holds no resources"),
        (["--adapter", "no_such_module:make"], "--adapter: "),
        (["--adapter", "nonsense"], "a factory is written package.module:callable"),
        (["--adapter", "builtins:dict"], "does not implement SupportsExport"),
        (["--adapter", "builtins:dict", "--seconds", "0"], "--seconds: "),
    ],
)
def test_what_a_person_can_mend_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.syspath_prepend("")

    assert main(["bench", *arguments]) == 2

    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
