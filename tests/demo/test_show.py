"""What a person sees, with rich and without."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fhir_bulk_middleware.demo.download import Fetched
from fhir_bulk_middleware.demo.journey import Journey, show
from fhir_bulk_middleware.demo.manifest_reading import Manifest, ManifestFile
from fhir_bulk_middleware.demo.rich_screen import RichScreen
from fhir_bulk_middleware.demo.show import PlainScreen, Screen

SCREENS = ["plain", "rich"]


def written(kind: str) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return (PlainScreen(stream) if kind == "plain" else RichScreen(Console(file=stream, width=120)), stream)


def fetched(type_: str, count: int, size: int, problems: tuple[str, ...] = ()) -> Fetched:
    file = ManifestFile("output", type_, "http://ehr/file", count, size, None)
    return Fetched(file, Path(f"{type_}.ndjson"), count, size, transferred=size, seconds=0.5, problems=problems)


def journey(*files: Fetched) -> Journey:
    document = {"transactionTime": "2026-01-01T00:00:00Z", "requiresAccessToken": True}
    return Journey(Manifest.of(document), files, exporting=1.0, fetching=1.0)


@pytest.mark.parametrize("kind", SCREENS)
def test_a_bar_says_what_it_came_to(kind: str) -> None:
    screen, stream = written(kind)

    with screen.bar("Loading", 10, "resources") as advance:
        advance(3)
        advance(1234, 1234)

    assert "Loading" in stream.getvalue()
    assert "1,234 resources" in stream.getvalue()


@pytest.mark.parametrize("kind", SCREENS)
def test_a_command_line_stays_whole_and_as_it_is(kind: str) -> None:
    screen, stream = written(kind)
    line = "curl -H 'Authorization: Bearer " + "x" * 400 + "' 'http://127.0.0.1/[bold]'"

    screen.say(line)

    assert stream.getvalue() == line + "\n"


@pytest.mark.parametrize("kind", SCREENS)
def test_the_table_adds_up_each_type_and_all_of_them(kind: str) -> None:
    screen, stream = written(kind)

    show(journey(fetched("Patient", 1000, 5000), fetched("Patient", 500, 2500), fetched("Group", 2, 100)), screen)

    cells = [[cell.strip(" │┃") for cell in line.split()] for line in stream.getvalue().splitlines()]
    rows = [[cell for cell in row if cell] for row in cells]
    assert ["Patient", "2", "1,500", "7,500", "1.00", "1,500"] in rows
    assert ["Group", "1", "2", "100", "0.50", "4"] in rows
    assert ["Total", "3", "1,502", "7,600", "2.00", "751"] in rows


def test_what_does_not_match_is_named_with_its_file() -> None:
    bad = journey(fetched("Patient", 2, 10, ("lines: 2, the manifest says 3",)), fetched("Group", 2, 100))

    assert bad.problems == ["Patient.ndjson: lines: 2, the manifest says 3"]
