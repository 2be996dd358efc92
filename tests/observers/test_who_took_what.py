"""Audit records say who took what: client, address, request, group, patients, criteria (law 37)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import BASE, ISSUER, KICK_OFF, House, populate

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

ALL = "system/*.cruds"
REMOVE_ALL = {"X-Conditional-Delete": "remove-all"}
ADDRESS = "198.51.100.23"
SECRET = "a secret that an auditor has and a reader has not"


@asynccontextmanager
async def audited(folder: Path, mint: TokenMint, **settings: Any) -> AsyncIterator[tuple[House, Path]]:
    path = folder / "audit.jsonl"
    house = House(mint, STANDARD, Settings(public_base_url=BASE, **settings), observers=[AuditFile(path)])
    house.http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(house.bulk.app, client=(ADDRESS, 4711)), base_url="https://ehr.example/"
    )
    async with house.bulk.running(), house.http:
        await populate(house)
        yield house, path


def last(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes().splitlines()[-1])
    return found


async def test_each_request_that_is_recorded_says_who_and_from_where(tmp_path: Path, mint: TokenMint) -> None:
    async with audited(tmp_path, mint) as (house, path):
        token = house.token("alice", ALL, client_id="nightly")

        async def ask(method: str, url: str) -> httpx2.Response:
            answer = await house.ask(method, url, token=token, headers=KICK_OFF)
            record = last(path)
            assert record["owner"] == {"issuer": ISSUER, "subject": "alice"}
            assert record["caller"] == {
                "client_id": "nightly",
                "address": ADDRESS,
                "request_id": answer.headers["X-Request-Id"],
            }, record
            told.append(record["event"])
            return answer

        told: list[str] = []
        location = (await ask("GET", "/$export?_type=Patient")).headers["Content-Location"]
        await house.runner.finish()
        url = (await house.ask("GET", location)).json()["output"][0]["url"]
        await ask("GET", url)
        await ask("DELETE", "/Patient/p3")
        await ask("DELETE", "/Patient/p3")
        await ask("DELETE", "/Patient/p2?_dry-run=true")
        await ask("DELETE", "/Observation?_id=b1")
        await ask("DELETE", location)
        await ask("GET", "/$export?_since=yesterday")

    assert told == [
        "kicked-off",
        "file-served",
        "deleted",
        "nothing-deleted",
        "nothing-deleted",
        "deleted",
        "cancelled",
        "request-refused",
    ]


async def test_what_a_dry_run_shows_is_recorded(tmp_path: Path, mint: TokenMint) -> None:
    async with audited(tmp_path, mint) as (house, path):
        await house.ask(
            "DELETE", "/Observation?_id=b1,b2&_dry-run=true", scope=ALL, headers={"X-Conditional-Delete": "remove-all"}
        )
        record = last(path)

    assert record["outcome"] == "would-delete"
    assert sorted(record["references"]) == ["Observation/b1", "Observation/b2"]


async def test_a_kick_off_names_level_group_patients_and_criteria_as_digests_of_the_files_key(
    tmp_path: Path, mint: TokenMint, capsys: pytest.CaptureFixture[str]
) -> None:
    async with audited(tmp_path, mint) as (house, path):
        patients = [{"name": "patient", "valueReference": {"reference": f"Patient/{id_}"}} for id_ in ("p1", "p2")]
        asked = [
            {"name": "_type", "valueString": "Patient,Observation"},
            {"name": "_typeFilter", "valueString": "Observation?status=final&code:text=secret"},
        ]
        body = {"resourceType": "Parameters", "parameter": [*asked, *patients]}
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        answer = await house.ask("POST", "/Group/both/$export", headers=headers, json=body)
        assert answer.status_code == 202, answer.text
        record = last(path)

    def digest(text: str) -> str:
        assert main(["audit", "digest", str(path), text]) == 0
        return capsys.readouterr().out.strip()

    assert (record["level"], record["group"], record["types"]) == ("group", "both", ["Observation", "Patient"])
    assert record["patients"] == sorted([digest("Patient/p1"), digest("Patient/p2")])
    assert record["criteria"] == [f"Observation?status={digest('final')}&code:text={digest('secret')}"]
    assert all(word not in path.read_text() for word in ("Patient/p1", "secret", "final"))


async def test_in_clear_by_setting(tmp_path: Path, mint: TokenMint) -> None:
    async with audited(tmp_path, mint, audit_detail="clear") as (house, path):
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        body = {"resourceType": "Parameters", "parameter": [{"name": "patient", "valueReference": {"reference": "Patient/p1"}}]}
        await house.ask("POST", "/Patient/$export", headers=headers, json=body)
        assert last(path)["patients"] == ["Patient/p1"]
        await house.ask("DELETE", "/Observation?status=amended", scope=ALL)
        assert last(path)["criteria"] == ["Observation?status=amended"]


async def test_digests_under_one_key_are_the_same_in_each_process_and_others_under_another(
    tmp_path: Path, mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, secret in enumerate((SECRET, SECRET, SECRET[::-1])):
        monkeypatch.setenv("DIGESTS", secret)
        folder = tmp_path / f"{number}"
        folder.mkdir()
        async with audited(folder, mint, audit_key="env:DIGESTS") as (house, path):
            await house.ask("DELETE", "/Observation?status=amended", scope=ALL)
            found.append(last(path)["criteria"])

    assert found[0] == found[1] != found[2]


async def test_a_key_that_is_not_there_is_told_at_start(mint: TokenMint) -> None:
    with pytest.raises(OSError, match="the environment variable NOWHERE holds no audit key"):
        House(mint, STANDARD, Settings(audit_key="env:NOWHERE"))


@pytest.mark.parametrize(
    ("path", "headers", "references"),
    [
        ("/Patient/p3", {}, ["Patient/p3"]),
        ("/Observation?_id=b1", {}, ["Observation/b1"]),
        ("/Observation?_id=b1,b2", REMOVE_ALL, ["Observation/b1", "Observation/b2"]),
    ],
)
async def test_a_delete_is_recorded_before_and_after_with_what_it_was_asked_for(
    tmp_path: Path, mint: TokenMint, path: str, headers: dict[str, str], references: list[str]
) -> None:
    async with audited(tmp_path, mint, audit_detail="clear") as (house, file):
        assert (await house.ask("DELETE", path, scope=ALL, headers=headers)).status_code == 200
        intended, deleted = (json.loads(line) for line in file.read_bytes().splitlines())

    assert [intended["event"], deleted["event"]] == ["delete-intended", "deleted"]
    for record in (intended, deleted):
        assert sorted(record["references"]) == references
        assert record["criteria"] == ([path[1:]] if "?" in path else [])
    assert intended["caller"] == deleted["caller"]


async def test_a_long_remove_all_names_its_criteria_when_it_is_kicked_off_and_its_job_with_each_batch(
    tmp_path: Path, mint: TokenMint
) -> None:
    async with audited(tmp_path, mint, audit_detail="clear", removal_batch=1) as (house, file):
        headers = {"X-Conditional-Delete": "remove-all", "Prefer": "respond-async"}
        await house.ask("DELETE", "/Observation?_id=b1,b2", scope=ALL, headers=headers)
        await house.runner.finish()
        records = [json.loads(line) for line in file.read_bytes().splitlines()]

    (kicked_off,) = [record for record in records if record["event"] == "kicked-off"]
    assert kicked_off["criteria"] == ["Observation?_id=b1,b2"]
    intended = [record for record in records if record["event"] == "delete-intended"]
    assert [record["job_id"] for record in intended] == [kicked_off["job_id"]] * 2
    assert sorted(reference for record in intended for reference in record["references"]) == ["Observation/b1", "Observation/b2"]
