"""The host table: five frameworks under four servers answer their own requests byte for byte as they do without us.

Each of the 20 combinations gets the same requests in server processes of its own: without us, with `install()` (where the
framework has Starlette's routes), and inside `BulkDataMiddleware`. One combination is tried with the whole suite, and a part of
the table, in which each framework and each server occurs, with the long tests; `FHIR_BULK_HOSTS=all` runs it whole.
"""

import json
import os
import re
from pathlib import Path

import httpx2
import pytest
from exporting import exported
from host_requests import REQUESTS, answered, status
from host_server import SERVERS, Served, served
from waiting import PATIENCE

from fhir_bulk_middleware import SQLiteResourceStore
from fhir_bulk_middleware.testing import TokenMint

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

AROUND, INSTALL = "around", "install"
WAYS = {
    "starlette": (INSTALL, AROUND),
    "fastapi": (INSTALL, AROUND),
    "fhirstarter": (INSTALL, AROUND),
    "django": (AROUND,),
    "litestar": (AROUND,),
}
PART = {
    ("starlette", "gunicorn"): (INSTALL,),
    ("fastapi", "uvicorn"): (INSTALL, AROUND),
    ("fhirstarter", "uvicorn"): (AROUND,),
    ("django", "granian"): (AROUND,),
    ("litestar", "hypercorn"): (AROUND,),
}
SHORT = ("fastapi", "uvicorn")
WHOLE = {(host, server): ways for host, ways in WAYS.items() for server in SERVERS}
TABLE = WHOLE if os.environ.get("FHIR_BULK_HOSTS") == "all" else PART

_DATE = re.compile(rb"^date: .*\r\n", re.IGNORECASE | re.MULTILINE)
SEEN = {
    "starlette": {101, 200, 201, 204, 206, 301, 304, 307, 403, 404, 405, 500},
    "fastapi": {101, 200, 201, 204, 206, 301, 304, 307, 403, 404, 405, 422, 500},
    "fhirstarter": {101, 200, 201, 204, 206, 301, 304, 307, 400, 403, 404, 405, 500},
    "django": {200, 201, 204, 301, 302, 304, 403, 404, 405, 500},
    "litestar": {101, 200, 201, 204, 301, 403, 404, 405, 500},
}
"""Statuses that a host gives to some of the requests: the table holds more than one kind of answer."""


@pytest.fixture(scope="module")
def issuer() -> TokenMint:
    return TokenMint("https://auth.example", "https://ehr.example/fhir")


def folder_of(path: Path, issuer: TokenMint) -> Path:
    """A server's folder: keys, and a store with three patients."""
    path.mkdir()
    (path / "keys.json").write_text(json.dumps(issuer.jwks))
    store = SQLiteResourceStore(path / "store.db")
    store.load(b'{"resourceType":"Patient","id":"p%d","active":true}' % number for number in range(3))
    store.close()
    return path


def answers(server: Served, base: str) -> dict[str, bytes]:
    """The raw answers to all requests, without their `Date`, which is the time of the answer."""
    raw = {f"{number}: {sent}": answered(server.port, sent, base) for number, sent in enumerate(REQUESTS)}
    return {sent: _DATE.sub(b"", answer) for sent, answer in raw.items()}


@pytest.mark.parametrize(
    ("host", "server"),
    [pytest.param(*pair, id=" on ".join(pair), marks=() if pair == SHORT else pytest.mark.long) for pair in TABLE],
)
async def test_a_host_answers_byte_for_byte_as_without_us_and_exports_and_deletes_work_beside_it(
    host: str, server: str, tmp_path: Path, issuer: TokenMint
) -> None:
    """Laws 31 and 42."""
    base = "" if host == "fhirstarter" else "/fhir"
    with served(host, server, "bare", folder_of(tmp_path / "bare", issuer)) as bare:
        alone = answers(bare, base)
        bare.stop()
    assert SEEN[host] <= {status(answer) for answer in alone.values()}

    for way in TABLE[host, server]:
        with served(host, server, way, folder_of(tmp_path / way, issuer)) as ours:
            with_us = answers(ours, base)
            assert {sent: answer for sent, answer in with_us.items() if answer != alone[sent]} == {}, way
            await export_and_delete(ours, base, issuer)
            assert len(ours.workers()) == 1, "exports ran in the worker process"
            ours.stop()
            assert ours.noted() == bare.noted() == ([] if host == "django" else ["host up", "host down"])
            assert ours.workers() == set(), "workers end with the server"


async def export_and_delete(server: Served, base: str, issuer: TokenMint) -> None:
    """A whole export, a delete, and an export that tells of it."""
    token = issuer.token("me", "system/*.cruds")
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE) as http:
        assert "OperationDefinition/bulk.export" in (await http.get(f"{base}/metadata")).text
        manifest, found = await exported(http, token, server.folder / "all", f"{base}/Patient/$export")
        assert {each["id"] for each in found["output"]} == {"p0", "p1", "p2"}
        deleted = await http.delete("/clinic/Patient/p1", headers={"Authorization": f"Bearer {token}"})
        assert (deleted.status_code, deleted.json()["id"]) == (200, "p1")
        since = manifest.transaction_time
        _, found = await exported(http, token, server.folder / "since", f"{base}/Patient/$export", _since=since)
        gone = {entry["request"]["url"] for bundle in found["deleted"] for entry in bundle["entry"]}
        assert gone == {"Patient/p1"}
