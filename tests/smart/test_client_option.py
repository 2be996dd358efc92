"""`fhir-bulk serve --client` and `fhir-bulk openapi`, as somebody at a terminal meets them."""

import json
from pathlib import Path

import pytest

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.jose.signing import SigningKey

WRONG: dict[str, tuple[list[str], str]] = {
    "no key": (["--client", "me"], "not of the form ID=JWKS"),
    "no id": (["--client", "={file}"], "not of the form ID=JWKS"),
    "no such file": (["--client", "me={folder}/none.json"], "none.json does not exist"),
    "no key set": (["--client", "me={folder}/nonsense.json"], "nonsense.json is not a JWK Set"),
    "no key that SMART names": (["--client", "me={folder}/weak.json"], "no key with a kid for RS384 or ES384"),
    "a URL without TLS": (["--client", "me=http://lab.example/jwks.json"], "must be https"),
    "twice the same": (["--client", "me={file}", "--client", "me={file}"], "same id"),
    "a scope that is none": (["--client", "me={file}", "--client-scope", "everything"], "system/ scopes"),
    "a scope on no type": (["--client", "me={file}", "--client-scope", "system/*.rs system/Patinet.rs"], "has no such type"),
    "a life of no length": (["--client", "me={file}", "--token-seconds", "0"], "from 1 to 86,400 seconds"),
    "a life of more than a day": (["--client", "me={file}", "--token-seconds", "86401"], "from 1 to 86,400 seconds"),
    "with the keys of another server": (["--client", "me={file}", "--jwks", "{file}"], "exclude each other"),
    "every address": (["--client", "me={file}", "--host", "0.0.0.0"], "--public-base-url"),  # noqa: S104 - it must be refused
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_a_client_that_cannot_be_registered_is_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(SigningKey().jwks))
    (tmp_path / "nonsense.json").write_text("nonsense")
    (tmp_path / "weak.json").write_text(json.dumps(SigningKey("ES256").jwks))
    filled = [argument.format(file=file, folder=tmp_path) for argument in arguments]

    assert main(["serve", "--port", "0", "--dir", str(tmp_path / "state"), *filled]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_document_of_each_dialect_is_printed(dialect: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi", "--dialect", dialect]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["openapi"] == "3.1.0"
    assert DIALECTS[dialect].status_path.partition("?")[0] in document["paths"]


def test_the_key_of_the_server_is_kept_and_nobody_elses_business(tmp_path: Path) -> None:
    from fhir_bulk_middleware.cli.state import State

    state = State(tmp_path / "state")
    first = state.signing_key()

    assert state.signing_key().jwks == first.jwks
    assert [file.stat().st_mode & 0o077 for file in state.folder.iterdir()] == [0]
