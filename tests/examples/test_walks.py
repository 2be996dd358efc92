"""The commands of the pages, typed one after the other into a shell, do what the pages say."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from code_blocks import Block, blocks
from waiting import PATIENCE

from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_END = "-- end of the block --"

pytestmark = [pytest.mark.skipif(shutil.which("curl") is None, reason="the walks are made with curl"), pytest.mark.long]


class Shell:
    """A shell that keeps its variables from block to block."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, script: str) -> str:
        """What a block prints. It fails if a command of the block fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{script}\necho; echo '{_END}'\n")
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line.strip() == _END:
                return "".join(said)
            said.append(line)
        raise AssertionError(f"{script}\nfailed after it printed\n{''.join(said)}")


@contextmanager
def shell(folder: Path) -> Generator[Shell]:
    """A shell in a folder, in whose path are Python, `fhir-bulk` and `uvicorn`. It ends with all that it started."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, module in {"fhir-bulk": "fhir_bulk_middleware.cli", "uvicorn": "uvicorn", "python": "", "python3": ""}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable} {f"-m {module} " if module else ""}"$@"\n')
        (bin_ / name).chmod(0o755)
    (folder / ".curlrc").write_text("silent\n")  # as on a terminal: no meter among the answers
    environment = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}", "CURL_HOME": str(folder)}
    with subprocess.Popen(
        ["bash", "-e"],
        cwd=folder,
        env=environment,
        text=True,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield Shell(process)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


def shell_blocks(page: str, port: int) -> Iterator[Block]:
    """The shell blocks of a page, with a free port in place of 8000."""
    for block in blocks():
        if block.page == page and block.language == "sh":
            yield Block(page, block.number, block.language, block.text.replace(":8000", f":{port}"))


def test_the_commands_of_the_front_page_mount_it_and_kick_off_an_export(tmp_path: Path) -> None:
    shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("*_host", "documents", "relational", "__pycache__")
    )
    store = SQLiteResourceStore(tmp_path / "fhir-bulk-demo" / "store.db")
    store.load(list(population(patients=2)))
    store.close()
    port = free_port()
    (block,) = [block for block in shell_blocks("README.md", port) if "uvicorn" in block.text]
    before, begun, after = re.split(r"^(uvicorn .* &)$", block.text, flags=re.MULTILINE)
    with shell(tmp_path) as typed:
        typed.run(before + begun.replace("uvicorn ", f"uvicorn --port {port} "))
        listens(port)
        answer = typed.run(after)
    assert re.search(r"^HTTP/1\.1 202", answer, re.MULTILINE), answer
    assert re.search(rf"^content-location: http://127\.0\.0\.1:{port}/fhir/", answer, re.MULTILINE | re.IGNORECASE), answer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Shell, int]]:
    """A shell beside a server that serves files from the folder `state`, as the page about the command line starts it."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "my-ndjson-files").mkdir()
    (folder / "my-ndjson-files" / "all.ndjson").write_bytes(b"".join(line + b"\n" for line in population(patients=1)))
    port = free_port()
    with shell(folder) as typed:
        typed.run(f"fhir-bulk serve --data my-ndjson-files --dir state --workers 1 --port {port} > log 2>&1 &")
        listens(port)
        typed.run("until grep -q 'bulk data at' log; do sleep 0.2; done")
        yield typed, port


def test_the_lifecycle_by_hand_is_as_the_page_about_the_command_line_says(served: tuple[Shell, int]) -> None:
    typed, port = served
    machines, serving, kick_off, filtered, poll, fetch, listed, operator, *_ = [
        block.text for block in shell_blocks("examples/command-line.md", port)
    ]
    assert "FHIR_BULK_DATABASE" in machines, "it needs a PostgreSQL, and is tested with one elsewhere"
    command, token = serving.splitlines()
    assert command == "fhir-bulk serve --data my-ndjson-files --dir state", "the fixture types it"
    typed.run(token)

    accepted = typed.run(kick_off)
    assert accepted.startswith("HTTP/1.1 202"), accepted
    (job,) = re.findall(r"^content-location: \S+/([0-9a-f-]+)\s*$", accepted, re.MULTILINE | re.IGNORECASE)
    assert typed.run(filtered).startswith("HTTP/1.1 202")
    deadline = time.monotonic() + PATIENCE
    while not (polled := typed.run(poll.replace("{job}", job))).startswith("HTTP/1.1 200"):
        assert polled.startswith(("HTTP/1.1 202", "HTTP/1.1 429")), polled
        assert time.monotonic() < deadline
    urls = re.findall(r'"url": ?"([^"]+)"', polled)
    assert len(urls) == 2, polled
    assert job in typed.run(listed)
    jobs, watch, cancel = operator.splitlines()
    assert job in typed.run(jobs)
    typed.run(f"{watch} --until-idle")
    removed = typed.run(fetch.replace("{url}", urls[0]).replace("{job}", job))
    assert "HTTP/1.1 202" in removed, removed
    assert typed.run(f"{cancel.replace('{job}', job)} || true").strip(), "the operator is told that it has ended"


def test_the_commands_beside_the_promises_find_them_kept(served: tuple[Shell, int]) -> None:
    typed, port = served
    said = ""
    for block in shell_blocks("examples/promises.md", port):
        if "tests.chaos" not in block.text:
            said += typed.run(block.text)
    assert said.count("as promised: ") == 7, said
    assert said.count("-: OK") == 2, "the file is the one of the manifest, plain and gzipped"
    assert "[] []" in said, "nothing changed since the first export"
    assert "0 fail" in said, said
