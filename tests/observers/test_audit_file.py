"""The audit file shows each way to tamper with it, and outlives crashes and crowds (SE-17)."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.events import FileServed
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.observers.audit_file import AuditFile, Broken, Verified, verify
from fhir_bulk_middleware.principal import Owner

Lines = list[bytes]


def written(path: Path, count: int) -> AuditFile:
    audit = AuditFile(path, sync="never")
    for number in range(count):
        audit.append({"event": "test", "number": number})
    return audit


def test_a_file_that_nobody_touched_holds(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 5)

    found = verify(path)

    assert isinstance(found, Verified)
    assert found.lines == 5
    assert path.stat().st_mode & 0o077 == 0
    assert [json.loads(line)["number"] for line in path.read_bytes().splitlines()] == [0, 1, 2, 3, 4]


def edit(lines: Lines) -> Lines:
    return [line.replace(b'"number":2', b'"number":7') for line in lines]


def forge(lines: Lines) -> Lines:
    """A line of one's own, with the right hash of the line before it."""
    record = json.loads(lines[2])
    return [*lines[:2], json.dumps({**record, "number": 9}, separators=(",", ":")).encode() + b"\n", *lines[3:]]


TAMPERINGS: dict[str, tuple[Callable[[Lines], Lines], int]] = {
    "edit": (edit, 4),
    "forge": (forge, 4),
    "edit the last": (lambda lines: [*lines[:-1], lines[-1].replace(b"4", b"5")], 5),
    "delete the first": (lambda lines: lines[1:], 1),
    "delete one": (lambda lines: lines[:2] + lines[3:], 3),
    "delete the last": (lambda lines: lines[:-1], 5),
    "delete all": (lambda _: [], 1),
    "insert": (lambda lines: [*lines[:2], b'{"previous":"0","event":"x"}\n', *lines[2:]], 3),
    "repeat": (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
    "reorder": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
    "append": (lambda lines: [*lines, lines[-1]], 6),
    "truncate a line": (lambda lines: [*lines[:-1], lines[-1][:-5]], 5),
    "blank line": (lambda lines: [*lines[:3], b"\n", *lines[3:]], 4),
    "nonsense": (lambda lines: [*lines[:3], b"nonsense\n", *lines[3:]], 4),
    "no hash": (lambda lines: [*lines[:3], b'{"event":"x"}\n', *lines[4:]], 4),
    "another encoding": (lambda lines: [*lines[:3], b"\xff\xfe\n", *lines[3:]], 4),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_each_tampering_is_found_at_its_line(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 5)
    tamper, line = TAMPERINGS[how]
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))

    found = verify(path)

    assert isinstance(found, Broken), found
    assert found.line == line, found
    assert main(["audit", "verify", str(path)]) == 1
    assert f"line {line}: " in capsys.readouterr().out


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_byte_that_is_changed_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    written(path, data.draw(st.integers(1, 6)))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    assert isinstance(verify(path), Broken)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.permutations(range(6)), st.integers(0, 6))
def test_any_other_choice_or_order_of_lines_is_found(
    tmp_path_factory: pytest.TempPathFactory, count: int, order: list[int], kept: int
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    written(path, count)
    chosen = [number for number in order if number < count][:kept]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in chosen))

    found = verify(path)

    assert isinstance(found, Verified) == (chosen == list(range(count)))


def test_a_new_chain_is_found_by_a_hash_that_was_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 3)
    kept = verify(path)
    assert isinstance(kept, Verified)
    written(path, 2)
    assert isinstance(verify(path, kept.head), Verified), "a hash of an earlier end is in the chain still"
    path.unlink()
    path.with_name("audit.jsonl.head").unlink()
    for _ in range(4):
        AuditFile(path, sync="never").append({"event": "forged"})

    assert isinstance(verify(path), Verified)
    assert verify(path, kept.head) == Broken(5, "no line has the hash that was expected")


def test_a_line_that_a_crash_left_unfinished_is_removed_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path, 2)
    with path.open("ab") as file:
        file.write(b'{"previous":"abc')
    assert verify(path) == Broken(3, "it is unfinished")

    audit.append({"event": "next"})

    assert isinstance(verify(path), Verified)
    assert json.loads(path.read_bytes().splitlines()[-1])["removedUnfinishedBytes"] == 16


@pytest.mark.parametrize("head", ["gone", "old", "nonsense"])
def test_a_head_that_a_crash_left_behind_is_brought_up_to_date(tmp_path: Path, head: str) -> None:
    path = tmp_path / "audit.jsonl"
    place = tmp_path / "audit.jsonl.head"
    written(path, 2)
    old = place.read_bytes()
    written(path, 1)
    match head:
        case "gone":
            place.unlink()
        case "old":
            place.write_bytes(old)
        case "nonsense":
            place.write_bytes(b"{")
    assert isinstance(verify(path), Verified)

    written(path, 1)

    assert json.loads(place.read_bytes())["lines"] == 4
    assert isinstance(verify(path), Verified)


def test_lines_longer_than_a_look_at_the_end_are_chained_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, sync="never")
    for size in (10, 70_000, 300_000, 10):
        audit.append({"event": "x" * size})

    assert isinstance(verify(path), Verified)


_CROWD = """
import sys
from fhir_bulk_middleware.observers.audit_file import AuditFile
audit = AuditFile(sys.argv[1], sync="never")
for number in range(200):
    audit.append({"event": "test", "who": sys.argv[2], "number": number})
"""


def test_several_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}  # noqa: PTH109
    crowd = [subprocess.Popen([sys.executable, "-c", _CROWD, str(path), str(who)], env=environment) for who in range(3)]
    assert [process.wait(60) for process in crowd] == [0, 0, 0]

    found = verify(path)

    assert isinstance(found, Verified)
    assert found.lines == 600
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    for who in "012":
        assert [record["number"] for record in records if record["who"] == who] == list(range(200))


@pytest.mark.parametrize("blocking", [True, False])
def test_an_event_is_a_line(tmp_path: Path, *, blocking: bool) -> None:
    path = tmp_path / "audit.jsonl"
    event = FileServed(
        at=Instant(1_700_000_000_123_456), mount="m", owner=Owner("i", "s"), job_id="j", file_id="f", type="Patient", size=7
    )
    asyncio.run(AuditFile(path, blocking=blocking).observe(event))

    assert json.loads(path.read_bytes()) == {
        "previous": "0" * 64,
        "event": "file-served",
        "at": "2023-11-14T22:13:20.123456Z",
        "mount": "m",
        "owner": {"issuer": "i", "subject": "s"},
        "job_id": "j",
        "file_id": "f",
        "type": "Patient",
        "size": 7,
    }


def test_verifying_what_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
