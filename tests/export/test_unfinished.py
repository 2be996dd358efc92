"""What a manifest says when the cut of its export did not wait for a writer, and what the next export holds (law 3)."""

from typing import Any

import psycopg
import pytest
from postgres_resources import EmptyStores, writing_on

from fhir_bulk_middleware.instant import parse
from fhir_bulk_middleware.stores.drafts import draft
from fhir_bulk_middleware.stores.postgres import PostgresResourceStore

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]


@pytest.fixture
def store(empty_postgres: EmptyStores) -> PostgresResourceStore:
    return empty_postgres.store(wait_for_writers=0.05)


@pytest.mark.parametrize("prepared", [False, True], ids=["open", "prepared"])
async def test_what_a_slow_transaction_commits_is_announced_and_told_by_the_next_export(
    make_house: Any, store: PostgresResourceStore, empty_postgres: EmptyStores, *, prepared: bool
) -> None:
    await store.create("Patient", {"resourceType": "Patient"}, "gone")
    await store.create("Patient", {"resourceType": "Patient"}, "kept")
    options = f"-csearch_path={empty_postgres.schema}"
    async with make_house(parts={"resources": store}) as house:
        with psycopg.connect(empty_postgres.dsn, options=options, autocommit=True) as connection:
            connection.execute("BEGIN")
            writing = writing_on(connection, store)
            writing.expect([("Patient", "gone"), ("Patient", "late")], texts=True)
            late = {"resourceType": "Patient", "id": "late"}
            stamp = writing.put(draft(late, store._compartments, store._naming_index, store._parameters)).last_updated
            writing.delete("Patient", "gone")
            writing.finish()
            if prepared:
                connection.execute("PREPARE TRANSACTION 'late'")
            first = await house.export("/$export")
            connection.execute("COMMIT PREPARED 'late'" if prepared else "COMMIT")

        assert first["extension"]["unfinishedTransactions"] == 1
        assert first["extension"]["unfinishedTransactionsAt"] > first["transactionTime"]
        assert {kind: len(lines) for kind, lines in (await house.lines(first)).items()} == {"Patient": 2}

        second = await house.export(f"/$export?_since={first['transactionTime']}")
        (line,) = (await house.lines(second))["Patient"]
        assert '"id":"late"' in line
        assert stamp < parse(first["transactionTime"]), "though it was stamped before the first cut"
        assert "Patient/gone" in (await house.lines(second, "deleted"))["Bundle"][0]
        assert "extension" not in second

        third = await house.export(f"/$export?_since={second['transactionTime']}")
        assert third["output"] == third["deleted"] == [], "it is told once"
