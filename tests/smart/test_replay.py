"""Each assertion counts once, whoever of several servers on one file gets it first."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.smart.replay import MemoryReplayLog, ReplayLog, SQLiteReplayLog

pytestmark = pytest.mark.anyio

NOW, LATER = Instant(1_000), Instant(2_000)


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplayLog]:
    if request.param == "memory":
        yield MemoryReplayLog(most=3)
        return
    log = SQLiteReplayLog(tmp_path / "smart.db", most=3)
    yield log
    log.close()


async def test_the_first_use_is_the_only_one_until_the_assertion_has_expired(log: ReplayLog) -> None:
    assert await log.first_use("a", "1", LATER, NOW)
    assert not await log.first_use("a", "1", LATER, NOW)
    assert not await log.first_use("a", "1", LATER, Instant(LATER - 1))
    assert await log.first_use("a", "1", Instant(LATER + 1), LATER), "it would be refused as expired before it comes here"


async def test_names_that_run_into_each_other_are_told_apart(log: ReplayLog) -> None:
    assert await log.first_use("a", "b1", LATER, NOW)
    assert await log.first_use("ab", "1", LATER, NOW)
    assert await log.first_use("a", "1", LATER, NOW)


async def test_a_full_log_refuses_and_forgets_nothing(log: ReplayLog) -> None:
    for jti in "123":
        assert await log.first_use("a", jti, LATER, NOW)
    with pytest.raises(Refused) as refused:
        await log.first_use("a", "4", LATER, NOW)
    assert refused.value.reason is Reason.BUSY
    assert not await log.first_use("a", "1", LATER, NOW)
    assert await log.first_use("b", "1", LATER, NOW), "another client is not affected"
    assert await log.first_use("a", "4", Instant(LATER + 1), LATER), "expired ones make room"


async def test_of_many_servers_on_one_file_one_is_first(tmp_path: Path) -> None:
    logs = [SQLiteReplayLog(tmp_path / "smart.db") for _ in range(8)]
    first: list[bool] = []

    async def use(log: SQLiteReplayLog) -> None:
        first.append(await log.first_use("a", "1", LATER, NOW))

    async with anyio.create_task_group() as tasks:
        for log in logs:
            tasks.start_soon(use, log)
    for log in logs:
        log.close()
    assert sorted(first) == [False] * 7 + [True]


async def test_what_was_used_stays_used_after_a_restart(tmp_path: Path) -> None:
    for first in (True, False):
        log = SQLiteReplayLog(tmp_path / "smart.db")
        assert await log.first_use("a", "1", LATER, NOW) is first
        log.close()


async def test_what_has_expired_is_forgotten_by_the_next_use(log: ReplayLog) -> None:
    assert isinstance(log, MemoryReplayLog | SQLiteReplayLog)
    for number in range(1_000):
        now = Instant(NOW + number)
        assert await log.first_use("a", str(number), Instant(now + 2), now)
        assert log.remembered() <= 2, "the last two are good, and no other is kept"
