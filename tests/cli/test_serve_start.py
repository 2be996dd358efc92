"""How `fhir-bulk serve` starts: its port, its greeting, and what `fhir-bulk token` says of its tokens."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.listener import listening, port_of
from fhir_bulk_middleware.testing.token_mint import TokenMint

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "", "COLUMNS": "120"}


@contextmanager
def greeted(state: Path, *arguments: str | Path) -> Iterator[str]:
    """What a server says before it serves; it is stopped at the end."""
    command = [*COMMAND, "serve", "--dir", str(state), "--workers", "0", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT) as server:
        try:
            assert server.stdout is not None
            said = ""
            while "Kick off" not in said:
                line = server.stdout.readline()
                assert line, said
                said += line
            yield said + server.stdout.readline() + server.stdout.readline()
        finally:
            server.terminate()
            assert server.wait(60) == 0


def url_of(greeting: str) -> str:
    found = re.search(r"bulk data at (\S+) ", greeting)
    assert found is not None
    return found[1]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The public keys of a client, whose private key lies beside them."""
    assert main(["keys", "make", "--private", str(tmp_path / "private.json"), "--public", str(tmp_path / "public.json")]) == 0
    return tmp_path / "public.json"


@pytest.mark.parametrize("nice", [0, 4])
def test_workers_have_the_niceness_that_was_asked_for(tmp_path: Path, nice: int) -> None:
    command = [*COMMAND, "serve", "--dir", str(tmp_path / "state"), "--port", "0", "--workers", "1", "--nice", str(nice)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        wanted = os.getpriority(os.PRIO_PROCESS, server.pid) + nice
        while wanted not in (found := [os.getpriority(os.PRIO_PROCESS, worker) for worker in workers_of(server.pid)]):
            assert server.poll() is None
            assert all(each <= wanted for each in found), "a worker only becomes nicer"
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


def workers_of(pid: int) -> list[int]:
    """The worker processes of a server."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            child = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            if child and b"workers.process" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_greeting_has_the_port_that_the_system_chose(tmp_path: Path, host: str) -> None:
    with greeted(tmp_path / "state", "--port", "0", "--host", host) as said:
        assert httpx2.get(f"{url_of(said)}/metadata", timeout=60).status_code == 200


@pytest.mark.anyio
async def test_a_body_does_not_wait_for_the_client_to_acknowledge_the_head_of_its_answer() -> None:
    sent_at_once: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent_at_once.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listening("127.0.0.1", 0) as listener:
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
            writer.close()
            assert await sent_at_once


def test_a_port_in_use_is_an_error_before_the_greeting_and_before_the_load(tmp_path: Path) -> None:
    (tmp_path / "data.ndjson").write_text('{"resourceType":"Patient","id":"a"}\n')
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ran = subprocess.run(
            [*COMMAND, "serve", "--dir", tmp_path / "state", "--data", tmp_path / "data.ndjson", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=ENVIRONMENT,
        )

    assert ran.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use. Name another --port" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""
    assert not (tmp_path / "state").exists()


def test_the_commands_of_the_greeting_start_an_export(tmp_path: Path, keys: Path) -> None:
    with greeted(tmp_path / "state", "--port", "0", "--client", f"nightly={keys}", "--token-seconds", "900") as said:
        commands = re.findall(r"^    (.*)$", said, re.MULTILINE)
        script = "\n".join(commands).replace("PRIVATE-KEY", str(tmp_path / "private.json"))
        program = f'fhir-bulk() {{ {sys.executable} -m fhir_bulk_middleware.cli "$@"; }}\n'
        ran = subprocess.run(["bash", "-c", program + script], capture_output=True, text=True, timeout=60, check=False)

    assert "HTTP/1.1 202" in ran.stdout, ran.stdout + ran.stderr


def test_the_greeting_of_a_server_with_a_development_key_starts_an_export(tmp_path: Path) -> None:
    with greeted(tmp_path / "state", "--port", "0") as said:
        program = f'fhir-bulk() {{ {sys.executable} -m fhir_bulk_middleware.cli "$@"; }}\n'
        script = program + "\n".join(re.findall(r"^    (.*)$", said, re.MULTILINE))
        ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert "HTTP/1.1 202" in ran.stdout, ran.stdout + ran.stderr


def test_a_token_of_the_development_key_is_refused_where_it_would_be_of_no_use(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    token = ["token", "--dir", str(state)]
    with greeted(state, "--port", "0", "--client", f"nightly={keys}") as said:
        assert main(token) == 2
        told = capsys.readouterr()
        command = f"keys assertion --key PRIVATE-KEY --client-id nightly --token-url {url_of(said)}/auth/token"
        assert command in said
    assert command in told.err
    assert "does not accept tokens of the development key" in told.err
    assert (told.out, told.err.count("\n")) == ("", 1)

    with greeted(state, "--port", "0") as said:  # the next server of the folder has no clients
        assert main(token) == 0
        headers = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
        assert httpx2.get(f"{url_of(said)}/Patient", headers=headers, timeout=60).status_code == 200


def test_a_folder_that_is_served_with_keys_of_an_issuer_names_the_issuer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(TokenMint("https://auth.example", "a").jwks))
    keys.chmod(0o644)
    options = ["--jwks", str(keys), "--issuer", "https://auth.example", "--audience", "a"]
    command = [*COMMAND, "serve", "--dir", str(tmp_path / "state"), "--port", "0", "--workers", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        assert "bulk data at" in server.stdout.readline()
        server.terminate()

    assert main(["token", "--dir", str(tmp_path / "state")]) == 2
    assert "Get a token from its issuer, https://auth.example." in capsys.readouterr().err
