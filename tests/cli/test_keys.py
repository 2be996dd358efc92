"""`fhir-bulk keys`: key pairs of clients, and the assertions that they sign."""

import json
import os
from pathlib import Path

import pytest
from jose import jwt

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.jose.signing import SigningKey

TOKEN_URL = "https://ehr.example/fhir/auth/token"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name the two files."""
    return ["--private", str(tmp_path / "private.json"), "--public", str(tmp_path / "public.json")]


@pytest.mark.parametrize(("options", "algorithm"), [([], "ES384"), (["--algorithm", "RS384"], "RS384")])
def test_a_pair_is_a_secret_file_and_a_key_set_without_the_secret(
    tmp_path: Path, files: list[str], options: list[str], algorithm: str
) -> None:
    before = os.umask(0)
    try:
        assert main(["keys", "make", *files, *options]) == 0
    finally:
        os.umask(before)

    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "public.json").stat().st_mode & 0o777 == 0o644
    (key,) = KeySet.from_json((tmp_path / "public.json").read_bytes()).keys  # which has no key with secret members
    assert key.algorithms == {algorithm}
    assert SigningKey.load(tmp_path / "private.json").kid == key.kid


@pytest.mark.parametrize("existing", ["private.json", "public.json"])
def test_a_file_that_exists_is_overwritten_only_by_force(
    tmp_path: Path, files: list[str], existing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / existing).write_text("precious")

    assert main(["keys", "make", *files]) == 2
    assert f"{existing} exists already" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {existing: "precious"}

    assert main(["keys", "make", *files, "--force"]) == 0
    assert SigningKey.load(tmp_path / "private.json").jwks == json.loads((tmp_path / "public.json").read_text())


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def test_an_assertion_is_that_of_smart(
    tmp_path: Path, files: list[str], algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SE-23."""
    said = []
    assert main(["keys", "make", *files, "--algorithm", algorithm]) == 0
    capsys.readouterr()
    options = ["--key", str(tmp_path / "private.json"), "--client-id", "me", "--token-url", TOKEN_URL, "--seconds", "120"]
    for _ in range(2):
        assert main(["keys", "assertion", *options]) == 0
        said.append(capsys.readouterr().out.strip())

    public = json.loads((tmp_path / "public.json").read_text())
    claims = [jwt.decode(assertion, public, [algorithm], audience=TOKEN_URL) for assertion in said]
    assert {(each["iss"], each["sub"], each["exp"] - each["iat"]) for each in claims} == {("me", "me", 120)}
    assert claims[0]["jti"] != claims[1]["jti"]
    header = jwt.get_unverified_header(said[0])
    assert (header["typ"], header["kid"]) == ("JWT", public["keys"][0]["kid"])


WRONG: dict[str, tuple[list[str], str]] = {
    "one file for both": (["make", "--private", "{0}/a", "--public", "{0}/./a"], "name two files"),
    "no such folder": (["make", "--private", "{0}/none/a", "--public", "{0}/none/b"], "No such file or directory"),
    "no such key": (["assertion", "--key", "{0}/none"], "No such file or directory"),
    "no key": (["assertion", "--key", "{0}/nonsense"], "holds no key"),
    "a key for everybody": (["assertion", "--key", "{0}/open"], "chmod 600"),
    "a key of another kind": (["assertion", "--key", "{0}/es256"], "signs with ES256; assertions need RS384 or ES384"),
    "too long": (["assertion", "--key", "{0}/good", "--seconds", "301"], "1 to 300 seconds"),
    "no time": (["assertion", "--key", "{0}/good", "--seconds", "0"], "1 to 300 seconds"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_a_person_can_mend_is_one_sentence(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, algorithm in (("good", "ES384"), ("open", "ES384"), ("es256", "ES256")):
        SigningKey(algorithm).save(tmp_path / name)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "nonsense").write_text("nonsense")
    (tmp_path / "nonsense").chmod(0o600)
    more = ["--client-id", "me", "--token-url", TOKEN_URL] if arguments[0] == "assertion" else []

    assert main(["keys", *[argument.format(tmp_path) for argument in arguments], *more]) == 2

    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
