"""The practice on tables keeps the promises of the kit on PostgreSQL and SQLite, and exports and deletes under a real server."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psycopg
import pytest
from benchmarks.postgres_server import postgres_server
from exporting import exported
from house import AUDIENCE, ISSUER
from loopback import served
from relational import practice, practice_with_history
from relational.test_practice import Desk
from relational.test_practice import TestPractice as Practice
from relational.test_practice import TestPracticeWithHistory as PracticeWithHistory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from waiting import PATIENCE, until

from fhir_bulk_middleware import Instant, JoseTokenVerifier, Removed, VersionMismatch
from fhir_bulk_middleware.testing.resource_values import Reader, patient
from fhir_bulk_middleware.testing.token_mint import TokenMint


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL: that of TEST_POSTGRES_DSN, else one of our own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as own:
        yield own


WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
BLOCKED = text("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted")


def schema(dsn: str, name: str) -> str:
    """The URL of a schema for SQLAlchemy and psycopg; it is made if it is not there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}".encode())
    own = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    return f"{own}{'&' if '?' in own else '?'}options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"


class TestPracticeOnSQLite(Practice):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path}/practice.db"


@pytest.mark.long
class TestPracticeWithHistoryOnPostgreSQL(PracticeWithHistory):
    @pytest.fixture
    def url(self, postgres: str) -> str:
        return schema(postgres, "history")

    async def test_a_cut_waits_for_a_writer_that_has_stamped(
        self, store: practice_with_history.PracticeWithHistory, reader: Reader, writer: Desk
    ) -> None:
        """Law 4: its change is in this export, or it has a later instant."""
        await writer.put(patient("early"))
        cuts: list[Instant | None] = []

        async def cut() -> None:
            cuts.append(await reader.cut())

        async with anyio.create_task_group() as tasks, store.engine.begin() as connection:
            await practice_with_history.save(connection, json.loads(patient("late")))
            tasks.start_soon(cut)
            async with store.engine.connect() as watching:

                async def waits() -> bool:
                    return bool(cuts) or bool((await watching.execute(WAITING)).scalar_one())

                await until(waits)
            assert cuts == [], "a cut waits for writers"
        found = await reader.instants(await reader.query("Patient"))
        assert sorted(await reader.ids(await reader.query("Patient", as_of=cuts[0]))) == sorted(
            id_ for id_, at in found.items() if cuts[0] is not None and at <= cuts[0]
        )

    async def test_a_removal_that_waited_for_an_update_is_told_of_its_version(
        self, store: practice_with_history.PracticeWithHistory, writer: Desk
    ) -> None:
        """Law 25: the row that the removal waited for is no current version any more, yet the resource is there."""
        await writer.put(patient("1", "old"))
        outcome: list[object] = []

        async def remove() -> None:
            outcome.append(await store.remove("Patient", "1", frozenset({"1"}), ""))

        async with anyio.create_task_group() as tasks, store.engine.connect() as watching, store.engine.begin() as connection:
            await practice_with_history.save(connection, json.loads(patient("1", "new")))
            tasks.start_soon(remove)
            await until(lambda: _blocked(watching))
        assert outcome == [VersionMismatch()]
        assert isinstance(await store.remove("Patient", "1", frozenset({"2"}), ""), Removed)


async def _blocked(watching: AsyncConnection) -> bool:
    """Whether some session waits for a row of another."""
    await watching.rollback()
    return bool((await watching.execute(BLOCKED)).scalar_one())


# --- Under a real server ---

OF_MANY = 40


async def written(http: httpx2.AsyncClient) -> None:
    """Two patients, a practitioner, and many observations."""
    await http.put("/fhir/Practitioner/dr", json={"name": [{"text": "Dr."}]})
    for id_ in ("ann", "bob"):
        await http.put(f"/fhir/Patient/{id_}", json={"name": [{"text": id_}], "birthDate": "1970-03-04"})
    for number in range(OF_MANY):
        whose = ("ann", "bob")[number % 2]
        content = {
            "code": {"coding": [{"system": "http://loinc.org", "code": f"c{number % 4}"}], "text": "of it"},
            "subject": {"reference": f"Patient/{whose}"},
            "performer": [{"reference": "Practitioner/dr"}],
            "valueQuantity": {"value": 1.5, "unit": "mg"},
            "effectiveDateTime": "2024-05-06T12:00:00+02:00",
        }
        answer = await http.put(f"/fhir/Observation/o{number}", json=content)
        assert answer.status_code == 200


def by_type(lines: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(line["resourceType"] for line in lines))


@pytest.mark.anyio
@pytest.mark.parametrize(("database", "history"), [pytest.param("postgresql", False, marks=pytest.mark.long), ("sqlite", True)])
async def test_a_practice_exports_and_deletes_under_a_real_server(
    request: pytest.FixtureRequest, tmp_path: Path, mint: TokenMint, *, database: str, history: bool
) -> None:
    name = "practice" if database == "sqlite" else schema(request.getfixturevalue("postgres"), f"served_{history}".lower())
    url = f"sqlite+aiosqlite:///{tmp_path}/{name}.db" if database == "sqlite" else name
    module: Any = practice_with_history if history else practice
    adapter = (practice_with_history.practice_with_history if history else practice.practice)(url)
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE)
    app = practice.host(adapter, module.metadata, module.save, tmp_path / "state", verifier)
    token = mint.token("me", "system/*.cruds")
    with served(app, longest=None) as address:
        async with httpx2.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as http:
            await written(http)
            first, found = await exported(http, token, tmp_path / "1", "/fhir/Patient/$export")
            assert by_type(found["output"]) == {"Patient": 2, "Observation": OF_MANY, "Practitioner": 1}
            [line] = [line for line in found["output"] if line["id"] == "o1"]
            assert line["valueQuantity"] == {"value": 1.5, "unit": "mg"}
            assert line["effectiveDateTime"] == "2024-05-06T10:00:00+00:00"

            query = {"_type": "Observation", "_typeFilter": "Observation?code=c1&patient=bob"}
            _, found = await exported(http, token, tmp_path / "2", "/fhir/$export", **query)
            assert by_type(found["output"]) == {"Observation": OF_MANY // 4}

            etag = {"If-Match": f'W/"{line["meta"]["versionId"]}"'}
            assert (await http.delete("/fhir/Observation/o1", headers={"If-Match": 'W/"9"'})).status_code == 412
            assert (await http.delete("/fhir/Observation/o1", headers=etag)).status_code in {200, 204}
            assert (await http.get("/fhir/Observation/o1")).status_code == 404
            await http.put("/fhir/Observation/o9", json={"code": {"text": "alone", "coding": [{"code": "only"}]}})
            assert (await http.delete("/fhir/Observation?code=http://loinc.org|only")).status_code in {200, 204}
            assert (await http.delete("/fhir/Observation?code=c0")).status_code == 412, "several"
            assert (await http.delete("/fhir/Practitioner/dr")).status_code == 405

            _, found = await exported(http, token, tmp_path / "3", "/fhir/$export", _since=first.transaction_time)
            gone = {entry["request"]["url"] for bundle in found["deleted"] for entry in bundle["entry"]}
            assert gone == {"Observation/o1", "Observation/o9"}
            assert not history or "output" not in found, "without a history it may tell changes of the last seconds again"
