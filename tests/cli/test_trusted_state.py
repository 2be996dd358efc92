"""`fhir-bulk` trusts no key and no STATE folder that another user of the machine has a hand in, and says what to do."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.jose.signing import SigningKey

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]
SOMEBODY = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


@dataclass
class Ran:
    code: int
    stderr: str


FhirBulk = Callable[..., Ran]


@pytest.fixture
def fhir_bulk(capsys: pytest.CaptureFixture[str]) -> FhirBulk:
    """The command line; in this process, since it ends before it serves."""

    def run(*arguments: str | Path) -> Ran:
        return Ran(main([*map(str, arguments)]), capsys.readouterr().err)

    return run


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(bits)


def given_away(path: Path) -> None:
    os.chown(path, SOMEBODY, SOMEBODY)


KEY: list[object] = [
    pytest.param(mode(0o644), "chmod 600", id="anybody may read it"),
    pytest.param(mode(0o640), "chmod 600", id="its group may read it"),
    pytest.param(mode(0o620), "chmod 600", id="its group may write it"),
    pytest.param(mode(0o602), "chmod 600", id="anybody may write it"),
    pytest.param(given_away, "belongs to another user (uid 12345", id="planted by somebody", marks=as_root),
]
FOLDER: list[object] = [
    pytest.param(mode(0o777), "chmod go-w", id="anybody may write it"),
    pytest.param(mode(0o1777), "chmod go-w", id="sticky"),
    pytest.param(mode(0o770), "chmod go-w", id="its group may write it"),
    pytest.param(given_away, "belongs to another user (uid 12345", id="of somebody", marks=as_root),
]


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.mint()
    state.signing_key()
    return state


@pytest.fixture
def client(tmp_path: Path) -> Path:
    file = tmp_path / "client.json"
    file.write_text(json.dumps(SigningKey().jwks))
    file.chmod(0o644)
    return file


def refused(ran: Ran, *said: str | Path) -> bool:
    assert ran.code == 2, ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    return all(str(each) in ran.stderr for each in said)


@pytest.mark.parametrize(("spoil", "said"), KEY)
def test_a_development_key_in_other_hands_is_refused(
    fhir_bulk: FhirBulk, state: State, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(state.key)

    for command in (["token"], ["serve", "--port", "0", "--workers", "0"]):
        assert refused(fhir_bulk(*command, "--dir", state.folder), said, state.key)


@pytest.mark.parametrize(("spoil", "said"), KEY)
def test_a_key_of_the_authorization_server_in_other_hands_is_refused(
    fhir_bulk: FhirBulk, state: State, client: Path, spoil: Callable[[Path], None], said: str
) -> None:
    (key,) = state.folder.glob("authorization*")
    spoil(key)

    ran = fhir_bulk("serve", "--port", "0", "--workers", "0", "--client", f"me={client}", "--dir", state.folder)

    assert refused(ran, said, key)


@pytest.mark.parametrize(("spoil", "said"), FOLDER)
@pytest.mark.parametrize(
    "command",
    [
        ["token"],
        ["serve", "--port", "0", "--jwks", "https://issuer.example/jwks", "--issuer", "i", "--audience", "a"],
        ["demo", "--patients", "1"],
        ["worker"],
        ["sweep"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_in_other_hands_is_refused(
    fhir_bulk: FhirBulk, state: State, spoil: Callable[[Path], None], said: str, command: list[str]
) -> None:
    state.jobs.touch()
    spoil(state.folder)

    assert refused(fhir_bulk(*command, "--dir", state.folder), said, state.folder)


@pytest.mark.parametrize("bits", [0o666, 0o664, 0o646])
@pytest.mark.parametrize("option", [["--client", "me={}"], ["--jwks", "{}", "--issuer", "i", "--audience", "a"]], ids=str)
def test_public_keys_that_others_may_write_are_refused(
    fhir_bulk: FhirBulk, tmp_path: Path, client: Path, bits: int, option: list[str]
) -> None:
    client.chmod(bits)
    filled = [part.format(client) for part in option]

    ran = fhir_bulk("serve", "--port", "0", "--workers", "0", "--dir", tmp_path / "state", *filled)

    assert refused(ran, option[0], "chmod go-w", client)


@pytest.mark.parametrize(
    "make", [lambda state: state.mint().jwks, lambda state: state.signing_key().jwks], ids=["mint", "server"]
)
def test_of_many_who_make_a_key_at_once_one_does_and_all_have_it(tmp_path: Path, make: Callable[[State], object]) -> None:
    for round_ in range(20):
        state, together, made = State(tmp_path / str(round_)), threading.Barrier(6), list[object]()

        def meet(state: State = state, together: threading.Barrier = together, made: list[object] = made) -> None:
            together.wait(PATIENCE)
            made.append(make(state))

        threads = [threading.Thread(target=meet) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert made == [make(state)] * 6
        assert len(list(state.folder.iterdir())) == 1, "nothing of the others is left"


def test_processes_that_start_at_once_on_a_new_folder_have_one_key(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    command = [*COMMAND, "token", "--dir", str(state.folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    tokens = [process.communicate(timeout=PATIENCE)[0].strip() for process in started]

    import anyio

    from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER
    from fhir_bulk_middleware.jose import JoseTokenVerifier

    verifier = JoseTokenVerifier(jwks=state.mint().jwks, issuer=ISSUER, audience=AUDIENCE)
    for token in tokens:
        assert anyio.run(verifier.verify, token).owner.subject == "somebody"


def test_a_key_file_that_is_none_is_told_in_one_sentence(fhir_bulk: FhirBulk, state: State) -> None:
    state.key.write_text("{}")

    assert refused(fhir_bulk("token", "--dir", state.folder), "holds no private key")
