"""`fhir-bulk check` reads an adapter's data: a sound one passes, and each fault is told in a sentence."""

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import broken_adapters
import broken_clinics
import pytest
from broken_adapters import BROKEN, OF_THE_KIT, Sliced, Telling, fill
from clinic import Clinic

from fhir_bulk_middleware.checks.report import CHECKS
from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.check import capabilities
from fhir_bulk_middleware.contract.query import Authorisation, Deletions, Page, Query, Range
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.samples import provenance

SOME_TYPES = ["--types", "Patient,Observation,Organization,Encounter,Group,Provenance"]
PATIENT_MACHINE = ["--seconds", "600", "--turn", "100"]
"""A busy machine takes its time: only what blocks for longer is a fault here."""

Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clinics") / "clinic.db"
    fill(path)
    return path


@pytest.fixture(scope="module")
def fine_clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clinics") / "fine.db"
    fill(path, microseconds=True)
    return path


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command on an adapter; returns the exit code and the report."""

    def run(make: Callable[[], object], *options: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(broken_adapters, "CHOSEN", make)
        code = main(["check", "--adapter", "broken_adapters:made", "--json", *PATIENT_MACHINE, *options])
        return code, json.loads(capsys.readouterr().out)

    return run


def faults(report: dict[str, Any]) -> list[str]:
    return [f"{finding['check']}: {fault['what']}" for finding in report["findings"] for fault in finding["faults"]]


def not_checked(report: dict[str, Any]) -> set[str]:
    return {finding["check"] for finding in report["findings"] if finding["outcome"] == "NOT CHECKED"}


def population_store(kind: Callable[[], MemoryResourceStore]) -> MemoryResourceStore:
    """A storage of two patients, with the Provenance of one of them and of an Organization."""
    store, lines = kind(), list(population(patients=2))
    about = []
    for type_ in ("Patient", "Organization"):
        first = next(json.loads(line) for line in lines if line.startswith(f'{{"resourceType":"{type_}"'.encode()))
        about.append(provenance(f"of-{type_}", f"{type_}/{first['id']}").encode())
    store.load([*lines, *about])
    return store


# --- Sound adapters ---


@pytest.mark.parametrize("kind", [Clinic, Sliced, Telling])
def test_a_sound_adapter_over_tables_passes(check: Check, clinic: Path, kind: type[Clinic]) -> None:
    code, report = check(partial(kind, str(clinic)))

    assert faults(report) == []
    assert code == 0
    assert [(finding["check"], finding["promise"]) for finding in report["findings"]] == [*CHECKS]
    lacking = {finding["check"] for finding in report["findings"] if finding["lacks"]}
    assert not_checked(report) == lacking, "all that the adapter implements was looked at"
    offered = report["offering"]
    assert "Manifests of exports at Patient and Group level say contextComplete: false." in offered["notes"]
    assert all(text.startswith("without it ") and len(text) > 20 for text in offered["missing"].values())


def test_our_stores_pass_with_all_that_they_can_do(check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = check(partial(population_store, MemoryResourceStore), *SOME_TYPES)
    assert (code, faults(report)) == (0, [])
    assert not_checked(report) == {"deletions", "deletion edges", "recipe"}

    state = State(tmp_path / "state")
    state.load("a population of 2 patients", population(patients=2), lambda _: None)
    assert main(["check", "--dir", str(state.folder), "--json", *PATIENT_MACHINE, *SOME_TYPES]) == 0
    report = json.loads(capsys.readouterr().out)
    assert not_checked(report) == {"deletions", "deletion edges", "provenance"}


# --- Broken ones ---


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_adapter_is_told_in_a_sentence(check: Check, clinic: Path, fine_clinic: Path, broken: Any) -> None:
    fine = broken in {broken_adapters.CutsMicrosecondsOff, broken_adapters.ShowsFewerDigits}
    if issubclass(broken, MemoryResourceStore):
        make: Callable[[], object] = partial(population_store, broken)
    else:
        make = partial(broken, str(fine_clinic if fine else clinic))
    code, report = check(make, "--group", "everybody", *SOME_TYPES)

    assert code == 1
    assert [text for text in faults(report) if text.startswith(f"{broken.check}: ") and broken.says in text], faults(report)
    assert all(fault["do"] for finding in report["findings"] for fault in finding["faults"]), "each fault says what to do next"


@pytest.mark.parametrize("broken", broken_clinics.MUTANTS, ids=lambda broken: broken.__name__)
def test_what_the_kit_catches_is_told_or_only_writing_shows_it(
    check: Check, clinic: Path, broken: type[broken_clinics.Mutant]
) -> None:
    name, says = OF_THE_KIT[broken]
    code, report = check(partial(broken, str(clinic)))

    assert code == int(bool(name))
    assert [text for text in faults(report) if text.startswith(f"{name}: ") and says in text] or not name, faults(report)


# --- What a person reads, and what a program reads ---


def test_it_says_what_the_adapter_can_do_and_what_each_missing_protocol_would_bring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clinic: Path
) -> None:
    monkeypatch.setattr(broken_adapters, "CHOSEN", partial(broken_clinics.ForgetsThePerformer, str(clinic)))

    assert main(["check", "--adapter", "broken_adapters:made", *PATIENT_MACHINE]) == 1

    told = capsys.readouterr().out
    implemented, missing = told.partition("It does not implement")[0], told.partition("It does not implement")[2]
    for protocol in capabilities():
        assert protocol.__name__ in (implemented if issubclass(Clinic, protocol) else missing.partition("Routes")[0])
    assert "SupportsSlices: without it each type is one slice." in told
    assert re.search(r"GET POST +/Patient/\$export\n", told)
    assert "/Group/" not in told, "there is no Group level without SupportsGroups"
    assert "exactSnapshot: false" in told
    assert re.search(r"^FAIL +compartments: ", told, re.MULTILINE)
    assert "Add this element to the condition of `Compartments`" in told, "a fault says what to do"
    assert re.search(r"^ *pages +\d+ +\d+\.\d\d +", told, re.MULTILINE), "what a page costs"
    assert re.search(r"^\d+ pass, \d+ fail, \d+ not checked\.$", told, re.MULTILINE)


def test_the_json_has_all_of_it(check: Check, clinic: Path) -> None:
    _, report = check(partial(Clinic, str(clinic)))

    assert report["summary"]["fail"] == 0
    assert sum(report["summary"].values()) == len(CHECKS)
    assert report["offering"]["routes"]["/$export"] == ["GET", "POST"]
    assert {cost["method"] for cost in report["costs"]} == {"authorise", "pages", "deletions"}
    assert all(cost["calls"] > 0 and 0 <= cost["median"] <= cost["longest"] for cost in report["costs"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--adapter", "no_such_module:make"], "in the current folder, "),
        (["--adapter", "nonsense"], "a factory is written package.module:callable"),
        (["--adapter", "builtins:dict"], "does not implement SupportsExport"),
        (["--adapter", "broken_adapters:_elsewhere.x"], "--adapter: "),
        (["--dir", "no-such-state"], "holds no resources"),
        (["--adapter", "builtins:dict", "--claims", "[1]"], "--claims: a JSON object"),
        (["--adapter", "builtins:dict", "--claims", "{"], "--claims: not JSON"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["check", *arguments]) == 2

    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("option", ["--resources", "--patients", "--seconds", "--turn"])
def test_a_limit_is_positive(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "--adapter", "builtins:dict", option, "0"])

    assert ended.value.code == 2
    assert "a positive number is required" in capsys.readouterr().err


# --- Bounds ---


def test_a_large_type_is_read_in_part_and_the_report_says_so(check: Check, clinic: Path) -> None:
    code, report = check(partial(Sliced, str(clinic)), "--resources", "10", "--patients", "2")

    assert (code, faults(report)) == (0, [])
    gaps = [gap for finding in report["findings"] for gap in finding["gaps"]]
    assert any("Observation has more than 10 resources" in gap["what"] for gap in gaps)
    assert any("--resources" in gap["do"] for gap in gaps)


def test_what_is_not_reached_in_time_is_not_checked(check: Check, clinic: Path) -> None:
    code, report = check(partial(Clinic, str(clinic)), "--seconds", "0.000001")

    assert (code, faults(report)) == (0, [])
    assert report["summary"]["not_checked"] >= len(CHECKS) - 2
    assert any("--seconds" in gap["do"] for finding in report["findings"] for gap in finding["gaps"])


class Hanging(Sliced):
    """Waits for ever when it is asked for slices."""

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        await anyio.sleep_forever()
        return await super().slices(query, target_bytes)


def test_an_adapter_that_hangs_is_left_when_the_time_is_over(check: Check, clinic: Path) -> None:
    code, report = check(partial(Hanging, str(clinic)), "--seconds", "2")

    assert (code, faults(report)) == (0, [])
    assert {"slices", "deletions", "recipe"} <= not_checked(report)


def test_nothing_is_written(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    fill(path)
    before = path.read_bytes()

    assert check(partial(Sliced, str(path)))[0] == 0

    assert path.read_bytes() == before


# --- What the adapter is told, and what it says ---


class Refusing(Clinic):
    async def authorise(self, principal: Principal) -> Authorisation:
        found = await super().authorise(principal)
        return found if principal.claims.get("tenant") == "a" and principal.owner.subject == "me" else Authorisation(frozenset())


def test_the_client_has_the_claims_that_are_given(check: Check, clinic: Path) -> None:
    code, report = check(partial(Refusing, str(clinic)))
    assert (code, report["summary"]["pass"]) == (0, 1)
    assert "--claims" in report["findings"][1]["gaps"][0]["do"]

    code, report = check(partial(Refusing, str(clinic)), "--claims", '{"tenant": "a", "sub": "me"}')
    assert (code, faults(report)) == (0, [])
    assert report["summary"]["pass"] > 10


class Absolute(Clinic):
    """Its references are URLs of its own."""

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b'"Patient/', b'"https://ehr.example/fhir/Patient/')


def test_absolute_references_are_the_servers_own_below_its_base_url(check: Check, clinic: Path) -> None:
    code, report = check(partial(Absolute, str(clinic)))
    assert (code, faults(report)) == (0, [])
    compartments = next(finding for finding in report["findings"] if finding["check"] == "compartments")
    assert "--base-url https://ehr.example/fhir" in compartments["gaps"][0]["do"]

    class Forgetful(Absolute, broken_clinics.ForgetsThePerformer):
        recipe = None  # type: ignore[assignment] # it is a class of this test

    code, report = check(partial(Forgetful, str(clinic)), "--base-url", "https://ehr.example/fhir")
    assert code == 1
    assert any("Observation.performer alone" in text for text in faults(report))


class Busy(Clinic):
    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().deletions(query, after):
            yield page
            raise Refused(Reason.BUSY, "later")


class StumblesOverARow(Clinic):
    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        try:
            json.loads("{")
        except ValueError as error:
            error.add_note("The row of Patient/7 cannot be made a resource")
            raise
        async for page in super().pages(query, after):
            yield page


def test_an_exception_is_told_with_the_line_of_the_host_and_its_notes(check: Check, clinic: Path) -> None:
    """The line that raised it is in the standard library; that of the host is the one to look at."""
    _, report = check(partial(StumblesOverARow, str(clinic)))

    (told,) = {text for text in faults(report) if text.startswith("pages: ")}
    where = r"pages: JSONDecodeError in pages, test_check_command\.py line \d+: Expecting property name .*"
    assert re.fullmatch(where + r"\. The row of Patient/7 cannot be made a resource\.", told), told


def test_a_storage_that_is_busy_is_no_fault(check: Check, clinic: Path) -> None:
    code, report = check(partial(Busy, str(clinic)))

    assert (code, faults(report)) == (0, [])
    told = [gap["what"] for finding in report["findings"] for gap in finding["gaps"] if finding["check"] == "deletions"]
    assert told == ["The storage was busy."]
