"""Real servers of object storage on loopback: versitygw (S3, which checks signatures) and azurite (Azure).

`.ci/objects` installs them below `.objects/`. Where one is missing, the tests that need it are skipped and say so.
There is none for Google Cloud Storage: fake-gcs-server refuses the uploads that obstore sends.
"""

import hmac
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

INSTALLED = Path(os.environ.get("FHIR_BULK_OBJECTS", Path(__file__).resolve().parents[2] / ".objects"))
ACCESS_KEY, SECRET_KEY = "the-access-key", "the-secret-key-of-the-tests"
AZURE_ACCOUNT = "devstoreaccount1"
# Azurite's published key of its only account.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BUCKET = "exports"
_STARTS_WITHIN = 180


@dataclass(frozen=True)
class ObjectServer:
    """A server that runs.

    Attributes:
        address: its host and port.
        folder: where it keeps its data.
        url: the URL of an `ObjectOutputStore` on it, without a prefix.
        config: the options of that store.
    """

    address: str
    folder: Path
    url: str
    config: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def s3(folder: Path) -> Iterator[ObjectServer]:
    """Versitygw with a bucket."""
    program = _program("bin/versitygw", "versitygw")
    data, beside = folder / "data", folder / "attributes"
    (data / BUCKET).mkdir(parents=True)
    beside.mkdir()
    port = _free_port()
    address = f"127.0.0.1:{port}"
    secrets = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    command = [program, "--port", address, "--region", "us-east-1", "--quiet", "posix", "--sidecar", beside, data]
    with _running(command, folder / "log", port, secrets):
        yield ObjectServer(address, data, f"s3://{BUCKET}", {"endpoint": f"http://{address}", "region": "us-east-1"})


@contextmanager
def azure(folder: Path) -> Iterator[ObjectServer]:
    """Azurite with a container."""
    program = _program("node_modules/azurite/dist/src/blob/main.js", "azurite")
    port = _free_port()
    command = ["node", program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder / "data", "--silent"]
    with _running([*command, "--skipApiVersionCheck", "--disableTelemetry"], folder / "log", port, {}):
        endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        _make_container(f"{endpoint}/{BUCKET}?restype=container")
        config = {"account_name": AZURE_ACCOUNT, "endpoint": endpoint}
        yield ObjectServer(f"127.0.0.1:{port}", folder / "data", f"az://{BUCKET}", config)


def credentials() -> Any:
    """A credential provider of obstore, for versitygw."""
    return lambda: {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "token": None, "expires_at": None}


def fetch(url: str, **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of a GET without any token."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:  # noqa: S310 - ours
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def _make_container(url: str) -> None:
    date, version = formatdate(usegmt=True), "2021-08-06"
    signed = (
        "PUT"
        + "\n" * 12
        + f"x-ms-date:{date}\nx-ms-version:{version}\n/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    )
    signature = b64encode(hmac.digest(b64decode(AZURE_KEY), signed.encode(), "sha256")).decode()
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}"}
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=60):  # noqa: S310 - ours
        pass


def _program(name: str, package: str) -> Path:
    found = INSTALLED / name
    if not found.exists():
        pytest.skip(f"{package} is not installed: .ci/objects installs it")
    return found


@contextmanager
def _running(command: list[Any], log: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    with (
        log.open("w") as said,
        subprocess.Popen([str(part) for part in command], stdout=said, stderr=said, env={**os.environ, **environment}) as process,
    ):
        try:
            ends = time.monotonic() + _STARTS_WITHIN
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ends, f"{command[0]} does not answer: {log.read_text()}"
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        time.sleep(0.05)
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
