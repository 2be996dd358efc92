"""Audit files follow one another in one chain, whoever writes and whatever dies (law 37)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.observers.audit_file import AuditFile, Broken, Verified, verify

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}


def full_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.0*"))


def records(path: Path) -> list[dict[str, object]]:
    """All records of a chain, in order."""
    return [json.loads(line) for file in [*full_files(path), path] for line in file.read_bytes().splitlines()]


_CROWD = """
import sys
from fhir_bulk_middleware.observers.audit_file import AuditFile
audit = AuditFile(sys.argv[1], sync="never", rotate_bytes=3000, patience=60)
for number in range(200):
    audit.append({"event": "test", "who": sys.argv[2], "number": number})
"""


def test_three_processes_write_one_chain_of_many_files(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    crowd = [subprocess.Popen([sys.executable, "-c", _CROWD, str(path), str(who)], env=ENVIRONMENT) for who in range(3)]
    assert [process.wait(PATIENCE) for process in crowd] == [0, 0, 0]

    found = verify(path)

    assert isinstance(found, Verified)
    assert found.files == len(full_files(path)) + 1 > 20
    kept = records(path)
    assert found.lines == len(kept) == 600 + len(full_files(path))
    for who in "012":
        assert [record["number"] for record in kept if record.get("who") == who] == list(range(200))


def test_a_file_begins_with_the_hash_that_ends_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, rotate_bytes=300)
    for number in range(4):
        audit.append({"event": "test", "number": number})

    (full, *_) = full_files(path)
    following = json.loads((tmp_path / "audit.jsonl.000002").read_bytes().splitlines()[0])
    assert following["event"] == "chain-continued"
    assert following["file"] == 2
    anchors = [following["previous"]]
    assert isinstance(verify(path, *anchors), Verified)
    assert full.stat().st_mode & 0o077 == 0


def test_each_day_has_a_file_of_its_own_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    now = [parse("2026-03-01T23:59:59Z")]
    for at in ("2026-03-01T23:59:59Z", "2026-03-02T00:00:00Z", "2026-03-02T13:00:00Z", "2026-03-05T00:00:00Z"):
        now[0] = parse(at)
        AuditFile(path, rotate_daily=True, clock=lambda: Instant(now[0])).append({"event": "test", "at": at})

    days = [[json.loads(line)["at"][:10] for line in file.read_bytes().splitlines()] for file in [*full_files(path), path]]

    assert days == [["2026-03-01"], ["2026-03-02"] * 3, ["2026-03-05"] * 2]
    assert isinstance(verify(path), Verified)


def test_full_files_that_were_moved_away_are_vouched_for_by_their_last_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, sync="never", rotate_bytes=500)
    for number in range(8):
        audit.append({"event": "test", "number": number})
    first, second = full_files(path)[:2]
    last_of_first = json.loads(second.read_bytes().splitlines()[0])["previous"]
    first.unlink()

    assert isinstance(verify(path), Broken)
    assert isinstance(verify(path, after=last_of_first), Verified)
    assert main(["audit", "verify", str(path), "--after", last_of_first]) == 0
    assert main(["audit", "verify", str(path), "--after", "0" * 64]) == 1
    assert "line 1: it does not follow" in capsys.readouterr().out
    second.unlink()
    assert isinstance(verify(path, after=last_of_first), Broken)


_KILLED = """
import os, sys
from pathlib import Path
from fhir_bulk_middleware.observers.audit_file import AuditFile
how, real = sys.argv[1], (os.write, os.fsync, os.link, os.ftruncate, Path.replace)

def append(path, fatal, begin):
    calls = 0
    def counted(function, half=False):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == fatal:
                if half and how == "half-written":
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), 9)
            return function(*arguments, **named)
        return call
    write, os.fsync, os.link, os.ftruncate, Path.replace = map(counted, real)
    os.write = counted(real[0], half=True)
    audit = AuditFile(path, rotate_bytes=300)
    for number in range(begin, begin + 3):
        audit.append({"event": "test", "number": number})
        print(number, flush=True)
    os._exit(0)

for line in sys.stdin:
    path, fatal, begin = line.split()
    child = os.fork() or append(path, int(fatal), int(begin))
    _, status = os.waitpid(child, 0)
    print("survived" if status == 0 else "died", flush=True)
"""


@contextmanager
def killed_writers(how: str) -> Iterator[Callable[[Path, int, int], tuple[bool, list[int]]]]:
    """Processes that append three events to a file and are killed at a step: whether one survived, and what it was told it wrote.

    They are forked by a process that has imported everything, which takes longer than all the rest.
    """
    command = [sys.executable, "-c", _KILLED, how]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told, said = process.stdin, process.stdout
        assert told is not None
        assert said is not None

        def write(path: Path, step: int, begin: int) -> tuple[bool, list[int]]:
            told.write(f"{path} {step} {begin}\n")
            told.flush()
            *numbers, end = iter_until_end(said)
            return end == "survived", [int(number) for number in numbers]

        yield write
        told.close()


def iter_until_end(said: IO[str]) -> list[str]:
    found: list[str] = []
    while not found or found[-1] not in {"survived", "died"}:
        found.append(said.readline().strip())
        assert found[-1], "it ended"
    return found


@pytest.mark.parametrize("how", ["half-written", "not written"])
def test_a_process_that_is_killed_at_any_step_leaves_a_chain_that_holds(tmp_path: Path, how: str) -> None:
    """Three events from nothing make a key, a head, lines, and two more files; each system call is the last once."""
    survived, step = False, 0
    with killed_writers(how) as write:
        while not survived:
            step += 1
            path = tmp_path / f"{step}" / "audit.jsonl"
            path.parent.mkdir()
            acknowledged: list[int] = []
            for begin in (0, 100):  # the second process goes on behind the first and dies at the same step
                survived, numbers = write(path, step, begin)
                acknowledged += numbers
                if not acknowledged and not path.with_name("audit.jsonl.key").exists():
                    with pytest.raises(FileNotFoundError):
                        verify(path)
                else:
                    assert isinstance(verify(path), Verified), (step, begin)
            AuditFile(path, rotate_bytes=300).append({"event": "test", "number": 1000})

            assert isinstance(verify(path), Verified), step
            kept = [record["number"] for record in records(path) if record["event"] == "test"]
            assert [number for number in kept if number in acknowledged] == acknowledged, step
            assert "chain-broken" not in [record["event"] for record in records(path)]
    assert step > 25
