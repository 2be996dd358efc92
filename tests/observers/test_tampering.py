"""Whatever is done to an audit file, `verify` fails, and goes on failing however much is written behind it (law 37)."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.observers.audit_file import AuditFile, Broken, Verified, verify

Lines = list[bytes]
SECRET = "a secret of the operator, kept elsewhere"


def audit_file(path: Path, key: str | None = None) -> AuditFile:
    return AuditFile(path, sync="never", rotate_bytes=800, key=key)


def written(path: Path, key: str | None = None) -> AuditFile:
    """Two full files and one that is written to, some lines in each."""
    audit = audit_file(path, key)
    number = 0
    while not second(path).exists() or len(path.read_bytes().splitlines()) < 4:
        audit.append({"event": "test", "number": number})
        number += 1
    assert isinstance(verify(path, key=key), Verified)
    assert not path.with_name("audit.jsonl.000003").exists()
    return audit


def first(path: Path) -> Path:
    return path.with_name("audit.jsonl.000001")


def second(path: Path) -> Path:
    return path.with_name("audit.jsonl.000002")


def head(path: Path) -> Path:
    return path.with_name("audit.jsonl.head")


def key(path: Path) -> Path:
    return path.with_name("audit.jsonl.key")


def lines(change: Callable[[Lines], Lines], of: Callable[[Path], Path] = lambda path: path) -> Callable[[Path], object]:
    def tamper(path: Path) -> None:
        found = of(path).read_bytes().splitlines(keepends=True)
        changed = change(list(found))
        assert changed != found
        of(path).write_bytes(b"".join(changed))

    return tamper


def edited(line: bytes) -> bytes:
    return line.replace(b'"number":', b'"number":9')


def forged(before: bytes, mac: bytes = b"0" * 64) -> bytes:
    """A line of one's own with the right hash of the line before it."""
    previous = hashlib.sha256(before.rstrip(b"\n")).hexdigest()
    return b'{"previous":"' + previous.encode() + b'","event":"test","mac":"' + mac + b'"}\n'


def mac_of(line: bytes) -> bytes:
    return bytes(json.loads(line)["mac"], "ascii")


def together(*tampers: Callable[[Path], object]) -> Callable[[Path], object]:
    def tamper(path: Path) -> None:
        for each in tampers:
            each(path)

    return tamper


def remove(of: Callable[[Path], Path]) -> Callable[[Path], object]:
    return lambda path: of(path).unlink()


def head_that_fits(path: Path) -> None:
    """A head for the file as it is now, signed with a guess instead of the key."""
    content = path.read_bytes()
    last = hashlib.sha256(content.splitlines()[-1]).hexdigest() if content else "0" * 64
    bare = {**json.loads(head(path).read_bytes()), "size": len(content), "hash": last}
    mac = hashlib.sha256(json.dumps(bare).encode()).hexdigest()
    head(path).write_text(json.dumps({**bare, "mac": mac}, separators=(",", ":")))


def swap(path: Path) -> None:
    beside = path.with_name("beside")
    first(path).rename(beside)
    second(path).rename(first(path))
    beside.rename(second(path))


def new_chain(path: Path) -> None:
    """The files of another chain, key and all, in place of these."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    other = elsewhere / path.name
    written(other)
    for each in elsewhere.iterdir():
        if each.name != key(path).name:
            shutil.copy(each, path.parent / each.name)


cut_last = lines(lambda found: found[:-1])
TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "edit a line": lines(lambda found: [found[0], edited(found[1]), *found[2:]]),
    "edit a line of a full file": lines(lambda found: [found[0], edited(found[1]), *found[2:]], second),
    "edit the last line": lines(lambda found: [*found[:-1], edited(found[-1])]),
    "edit the last line of a full file": lines(lambda found: [*found[:-1], edited(found[-1])], first),
    "edit a line and keep its length": lines(lambda found: [*found[:-1], found[-1].replace(b"test", b"tess")]),
    "forge a line": lines(lambda found: [*found[:2], forged(found[1]), *found[3:]]),
    "forge the last line": lines(lambda found: [*found[:-1], forged(found[-2])]),
    "forge the last line with an old signature": lines(lambda found: [*found[:-1], forged(found[-2], mac_of(found[-1]))]),
    "delete the first line": lines(lambda found: found[1:], first),
    "delete the line that continues": lines(lambda found: found[1:]),
    "delete one line": lines(lambda found: [found[0], *found[2:]]),
    "delete the last line": cut_last,
    "delete the last two lines": lines(lambda found: found[:-2]),
    "delete the last line of a full file": lines(lambda found: found[:-1], second),
    "empty the file": lines(lambda _: []),
    "remove the file": remove(lambda path: path),
    "remove the file and its head": together(remove(lambda path: path), remove(head)),
    "remove all but the key": together(remove(lambda path: path), remove(head), remove(first), remove(second)),
    "insert a line": lines(lambda found: [*found[:2], forged(found[1]), *found[2:]]),
    "repeat a line": lines(lambda found: [*found[:2], found[1], *found[2:]]),
    "repeat the last line": lines(lambda found: [*found, found[-1]]),
    "append a forged line": lines(lambda found: [*found, forged(found[-1])]),
    "append a forged line with an old signature": lines(lambda found: [*found, forged(found[-1], mac_of(found[-1]))]),
    "put lines in another order": lines(lambda found: [found[0], found[2], found[1], *found[3:]]),
    "cut the last line short": lines(lambda found: [*found[:-1], found[-1][:-5]]),
    "cut the last newline": lines(lambda found: [*found[:-1], found[-1][:-1]]),
    "put in a blank line": lines(lambda found: [*found[:2], b"\n", *found[2:]]),
    "put in nonsense": lines(lambda found: [*found[:2], b"\xff\xfe\n", *found[2:]]),
    "turn newlines into those of another system": lines(lambda found: [line.replace(b"\n", b"\r\n") for line in found]),
    "remove the head": remove(head),
    "remove the head and the last line": together(cut_last, remove(head)),
    "remove the head and edit the last line": together(lines(lambda found: [*found[:-1], edited(found[-1])]), remove(head)),
    "empty the head": lambda path: head(path).write_bytes(b""),
    "write nonsense into the head": lambda path: head(path).write_bytes(b"{"),
    "write a head for the file without its last line": together(cut_last, head_that_fits),
    "write a head for an empty file": together(lines(lambda _: []), head_that_fits),
    "remove the key": remove(key),
    "replace the key": lambda path: key(path).write_text("0" * 64),
    "replace the key and remove the head": together(lambda path: key(path).write_text("0" * 64), remove(head)),
    "remove key and head and the last line": together(cut_last, remove(head), remove(key)),
    "remove a full file in the middle": remove(second),
    "remove the first full file": remove(first),
    "swap two full files": swap,
    "empty a full file": lines(lambda _: [], second),
    "put a full file in place of the last": lambda path: second(path).replace(path),
    "plant a full file": lambda path: path.with_name("audit.jsonl.000003").write_bytes(first(path).read_bytes()),
    "plant a full file with a hole before it": lambda path: path.with_name("audit.jsonl.000009").write_bytes(b""),
    "put another chain in place of this one": new_chain,
}


@pytest.mark.parametrize("process", ["the running server", "a new process"])
@pytest.mark.parametrize("how", TAMPERINGS)
def test_each_tampering_is_found_at_once_and_for_ever(
    tmp_path: Path, how: str, process: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path)

    TAMPERINGS[how](path)

    assert isinstance(verify(path), Broken)
    for _ in range(3):
        if process == "a new process":
            audit = audit_file(path)
        audit.append({"event": "later"})
        assert isinstance(verify(path), Broken)
    assert main(["audit", "verify", str(path)]) == 1
    assert ", line " in capsys.readouterr().out


def test_there_are_thirty_ways_and_more() -> None:
    assert len(TAMPERINGS) >= 30


ALL = [lambda path: path, head, key, first, second]


@pytest.mark.parametrize("copied", [[lambda path: path, head], ALL], ids=["file and head", "everything"])
def test_an_old_copy_that_was_put_back_is_found_by_an_anchor(
    tmp_path: Path, copied: list[Callable[[Path], Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path)
    copies = {place(path): place(path).read_bytes() for place in copied}
    audit.append({"event": "what somebody wants to hide"})
    assert main(["audit", "anchor", str(path)]) == 0
    anchor = capsys.readouterr().out.strip()
    for place, content in copies.items():
        place.write_bytes(content)

    for _ in range(3):
        assert isinstance(verify(path), Verified), "nothing in the folder tells the copy from the file as it was then"
        assert isinstance(verify(path, anchor), Broken)
        assert main(["audit", "verify", str(path), "--expect", anchor]) == 1
        assert "no line has a hash that was expected" in capsys.readouterr().out
        audit_file(path).append({"event": "later"})


def test_a_chain_made_by_somebody_with_another_key_is_found_by_the_key_that_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    path = tmp_path / "audit.jsonl"
    written(path, "env:AUDIT_SECRET")
    assert not key(path).exists(), "it is kept elsewhere"
    for each in tmp_path.iterdir():
        each.unlink()
    written(path)
    key(path).unlink()

    assert isinstance(verify(path, key="env:AUDIT_SECRET"), Broken)
    audit_file(path, "env:AUDIT_SECRET").append({"event": "later"})
    assert isinstance(verify(path, key="env:AUDIT_SECRET"), Broken)


@settings(max_examples=60)
@given(st.data())
def test_any_byte_that_is_changed_is_found_for_ever(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    audit = written(path)
    place = data.draw(st.sampled_from([path, first(path), second(path), head(path), key(path)]))
    content = bytearray(place.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    place.write_bytes(content)

    assert isinstance(verify(path), Broken)
    audit.append({"event": "later"})
    assert isinstance(verify(path), Broken)


@settings(max_examples=60)
@given(st.data())
def test_any_other_choice_or_order_of_lines_is_found_for_ever(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    audit = written(path)
    place = data.draw(st.sampled_from([path, first(path), second(path)]))
    found = place.read_bytes().splitlines(keepends=True)
    chosen = data.draw(st.lists(st.integers(0, len(found) - 1), max_size=len(found) + 1))
    place.write_bytes(b"".join(found[number] for number in chosen))
    untouched = chosen == list(range(len(found)))

    assert isinstance(verify(path), Verified) == untouched
    audit.append({"event": "later"})
    assert isinstance(verify(path), Verified) == untouched


def test_a_break_says_why_and_the_chain_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path)
    cut_last(path)
    audit.append({"event": "later"})

    (*_, broken, later) = map(json.loads, path.read_bytes().splitlines())

    assert broken["event"] == "chain-broken"
    assert "before the line that the head names" in broken["why"]
    assert later["event"] == "later"
    assert later["previous"] == hashlib.sha256(path.read_bytes().splitlines()[-2]).hexdigest()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    key(path).chmod(0o644)

    with pytest.raises(PermissionError, match="chmod 600"):
        audit_file(path).append({"event": "later"})


def test_a_key_that_is_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_SECRET", "short")

    with pytest.raises(PermissionError, match="at least 32 characters"):
        audit_file(tmp_path / "audit.jsonl", "env:AUDIT_SECRET").append({"event": "later"})
    with pytest.raises(FileNotFoundError):
        audit_file(tmp_path / "audit.jsonl", str(tmp_path / "none")).append({"event": "later"})


def test_a_file_that_was_replaced_by_a_link_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = written(path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        audit.append({"event": "later"})
    with pytest.raises(OSError, match="symbolic links"):
        verify(path)
    assert os.path.islink(path)  # noqa: PTH114 - nobody replaced it
