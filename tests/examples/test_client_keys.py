"""The walk with curl on the page about client keys, with a real server."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from fhir_bulk_middleware.demo.population import population

PAGE = Path(__file__).parent.parent.parent / "examples" / "client-keys.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the walk is one with curl")
def test_the_commands_of_the_page_start_an_export_with_a_key(tmp_path: Path) -> None:
    (tmp_path / "my-ndjson-files").mkdir()
    (tmp_path / "my-ndjson-files" / "all.ndjson").write_bytes(b"".join(line + b"\n" for line in population(patients=2)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serving, asking = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "127.0.0.1:8000" in asking
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fhir-bulk"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fhir_bulk_middleware.cli "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    def walk(script: str) -> str:
        found = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, timeout=90, check=True
        )
        return found.stdout.decode()

    keys, _, served = serving.partition("\n")
    walk(keys)
    command = served.strip().removesuffix("&").replace("fhir-bulk serve", f"exec fhir-bulk serve --port {port} --workers 0")
    with subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert any("FHIR server with bulk data at" in line for line in server.stdout)
            answer = walk(asking.replace(":8000", f":{port}"))
            location = re.search(r"^content-location: (\S+)", answer, re.MULTILINE | re.IGNORECASE)
        finally:
            server.terminate()
            assert server.wait(60) == 0

    assert answer.startswith("HTTP/1.1 202"), answer
    assert location is not None
    assert httpx2.URL(location[1]).port == int(port)
