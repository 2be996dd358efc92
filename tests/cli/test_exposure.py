"""Who makes a server reachable for others is told what that means, on the greeting and in the log."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.cli.server_process import server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.jose.signing import SigningKey

PLAIN, DEVELOPMENT = "Plain HTTP at", "signed with the development key"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what such a server says is the test
TLS, CLEAR = "https://ehr.example/fhir", "http://ehr.example/fhir"

STARTS: dict[str, tuple[list[str], set[str]]] = {
    "every address": (["--host", EVERYWHERE], {PLAIN, DEVELOPMENT}),
    "a proxy with TLS": (["--host", EVERYWHERE, "--public-base-url", TLS], {DEVELOPMENT}),
    "a proxy without": (["--host", EVERYWHERE, "--public-base-url", CLEAR], {PLAIN, DEVELOPMENT}),
    "keys of an issuer, no TLS": (["--host", EVERYWHERE, "--jwks", "{keys}", "--issuer", "i", "--audience", "a"], {PLAIN}),
    "clients with keys, TLS": (["--host", EVERYWHERE, "--client", "me={keys}", "--public-base-url", TLS], set()),
}


@pytest.mark.parametrize(("arguments", "expected"), STARTS.values(), ids=STARTS)
def test_a_server_beyond_loopback_says_what_is_unsafe(tmp_path: Path, arguments: list[str], expected: set[str]) -> None:
    import json

    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(SigningKey().jwks))
    keys.chmod(0o644)
    command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "serve", "--dir", str(tmp_path / "state"), "--port", "0"]
    filled = [argument.format(keys=keys) for argument in arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--workers", "0", *filled], stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stderr is not None
        log = ""
        while "Application startup complete" not in log:
            line = server.stderr.readline()
            assert line, log
            log += line
        server.terminate()
        greeting, _ = server.communicate(timeout=PATIENCE)

    for said in (PLAIN, DEVELOPMENT):
        assert (said in greeting.replace("\n", " ")) == (said in expected), greeting
        assert (said in log) == (said in expected), log
    assert greeting.count("WARNING: ") == len(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], set()),
        (["--public-base-url", "http://localhost:8000/fhir"], set()),
        (["--public-base-url", CLEAR], {PLAIN, DEVELOPMENT}),
    ],
)
def test_a_server_on_loopback_is_warned_of_where_a_proxy_makes_it_known(
    tmp_path: Path, arguments: list[str], expected: set[str]
) -> None:
    with server_process(State(tmp_path / "state"), 0, ["--workers", "0", *arguments]) as server:
        assert httpx2.get(f"{server.url}/metadata", timeout=PATIENCE).status_code == 200
        log = server.log.read_text()

    assert {said for said in (PLAIN, DEVELOPMENT) if said in log} == expected


@pytest.mark.anyio
@pytest.mark.parametrize(("url", "warned"), [(CLEAR, True), (TLS, False), ("http://127.0.0.1:8000/fhir", False)])
async def test_a_host_that_names_a_plain_url_is_warned(
    mint: Any, caplog: pytest.LogCaptureFixture, url: str, warned: bool
) -> None:
    from house import House

    from fhir_bulk_middleware.dialects import STANDARD
    from fhir_bulk_middleware.settings import Settings

    caplog.set_level(logging.WARNING, "fhir_bulk_middleware")
    House(mint, STANDARD, Settings(public_base_url=url))
    assert ("without TLS, others can read tokens and patient data" in caplog.text) is warned


def test_the_log_of_a_server_says_why_an_assertion_was_refused_from_the_level_that_was_asked_for(tmp_path: Path) -> None:
    import json

    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(SigningKey().jwks))
    keys.chmod(0o644)
    said = {}
    for level in ("debug", "info", "warning"):
        state = State(tmp_path / level)
        arguments = ["--workers", "0", "--client", f"me={keys}", "--log-level", level]
        with server_process(state, 0, arguments) as server:
            assertion = SigningKey().sign({"iss": "me", "sub": "me"}, {"typ": "JWT"})
            form = {
                "grant_type": "client_credentials",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": assertion,
            }
            answer = httpx2.post(f"{server.url}/auth/token", data=form, timeout=PATIENCE)
            assert answer.json()["error"] == "invalid_client"
            httpx2.get(f"{server.url}/$export", headers={"Authorization": "Bearer nonsense"}, timeout=PATIENCE)
        log = state.server_log.read_text()
        refusal = "client assertion rejected: in the name of me: its kid is not in the key set"
        said[level] = (refusal in log, "token rejected: not three segments" in log)
        assert "key set" not in answer.text

    assert said == {"debug": (True, True), "info": (True, True), "warning": (False, False)}
