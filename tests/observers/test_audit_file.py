"""The audit file shows each way to tamper with it, and outlives crashes and crowds (SE-17)."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.events import FileServed
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.observers.audit_file import AuditFile, Verified, verify


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


def test_a_line_that_a_crash_left_unfinished_is_removed_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path, 2)
    with path.open("ab") as file:
        file.write(b'{"previous":"abc')
    found = verify(path)
    assert isinstance(found, Verified), "nobody was told that it was recorded, so nothing is missing"
    assert (found.lines, found.unfinished) == (2, 16)
    assert main(["audit", "verify", str(path)]) == 0
    assert "16 bytes of an incomplete line" in capsys.readouterr().out

    audit.append({"event": "next"})

    assert isinstance(verify(path), Verified)
    assert json.loads(path.read_bytes().splitlines()[-1])["removedUnfinishedBytes"] == 16


def test_a_head_that_a_crash_left_behind_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    place = tmp_path / "audit.jsonl.head"
    written(path, 2)
    old = place.read_bytes()
    written(path, 2)
    place.write_bytes(old)
    assert isinstance(verify(path), Verified)

    written(path, 1)

    assert json.loads(place.read_bytes())["size"] == path.stat().st_size
    found = verify(path)
    assert isinstance(found, Verified)
    assert found.lines == 5


def test_lines_longer_than_a_look_at_the_end_are_chained_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, sync="never")
    for size in (10, 70_000, 300_000, 10):
        audit.append({"event": "x" * size})

    assert isinstance(verify(path), Verified)


_CROWD = """
import sys
from fhir_bulk_middleware.observers.audit_file import AuditFile
audit = AuditFile(sys.argv[1], sync="never", patience=float(sys.argv[3]))
for number in range(200):
    audit.append({"event": "test", "who": sys.argv[2], "number": number})
"""


def test_several_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}  # noqa: PTH109
    crowd = [
        subprocess.Popen([sys.executable, "-c", _CROWD, str(path), str(who), str(PATIENCE)], env=environment) for who in range(3)
    ]
    assert [process.wait(PATIENCE) for process in crowd] == [0, 0, 0]

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
        at=Instant(1_700_000_000_123_456),
        mount="m",
        owner=Owner("i", "s"),
        caller=Caller(client_id="c", address="192.0.2.7", request_id="r"),
        job_id="j",
        file_id="f",
        type="Patient",
        size=7,
    )
    asyncio.run(AuditFile(path, blocking=blocking).observe(event))

    record = json.loads(path.read_bytes())
    assert re.fullmatch("[0-9a-f]{64}", record.pop("mac"))
    assert record == {
        "previous": "0" * 64,
        "event": "file-served",
        "at": "2023-11-14T22:13:20.123456Z",
        "mount": "m",
        "owner": {"issuer": "i", "subject": "s"},
        "caller": {"client_id": "c", "address": "192.0.2.7", "request_id": "r"},
        "job_id": "j",
        "file_id": "f",
        "type": "Patient",
        "size": 7,
    }


def test_verifying_what_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_line_is_durable_before_its_head_and_both_before_the_event_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 1)
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")  # noqa: PTH115 - no path names it otherwise
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"replace {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    AuditFile(path).append({"event": "test"})

    beside = f".audit.jsonl.head.{os.getpid()}"
    assert done == ["sync audit.jsonl", f"sync {beside}", "replace audit.jsonl.head", f"sync {tmp_path.name}"]
    done.clear()
    AuditFile(path, sync="never").append({"event": "test"})
    assert done == ["replace audit.jsonl.head"]
