import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.workers.wakeup import WakeUps


@pytest.mark.anyio
async def test_a_ring_wakes_everybody_at_once(tmp_path: Path) -> None:
    wake_ups = WakeUps(tmp_path / "pipes")
    with wake_ups.subscribed("one") as one, wake_ups.subscribed("two") as two, anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for pipe in (one, two):
                group.start_soon(pipe.wait, 3600)
            await anyio.lowlevel.checkpoint()
            wake_ups.notify()


@pytest.mark.anyio
async def test_a_ring_before_the_wait_counts_once(tmp_path: Path) -> None:
    wake_ups = WakeUps(tmp_path / "pipes")
    with wake_ups.subscribed("one") as pipe:
        for _ in range(100_000):
            wake_ups.notify()  # more than a pipe holds: it never blocks
        with anyio.fail_after(PATIENCE):
            await pipe.wait(3600)
        with anyio.move_on_after(0.01) as scope:
            await pipe.wait(3600)
        assert scope.cancelled_caught


def test_ringing_where_nobody_listens_does_nothing(tmp_path: Path) -> None:
    WakeUps(tmp_path / "nowhere").notify()
    wake_ups = WakeUps(tmp_path / "pipes")
    wake_ups.prepare()
    os.mkfifo(tmp_path / "pipes" / "left by one who was killed")
    wake_ups.notify()
    wake_ups.take_dead_down()
    assert list((tmp_path / "pipes").iterdir()) == []


def test_what_is_no_bell_is_left_as_it_is(tmp_path: Path) -> None:
    wake_ups = WakeUps(tmp_path / "pipes")
    wake_ups.prepare()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "pipes" / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "pipes" / "file").write_text("precious")
    wake_ups.notify()
    wake_ups.take_dead_down()
    assert (tmp_path / "precious").read_text() == (tmp_path / "pipes" / "file").read_text() == "precious"


def test_a_folder_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipes").mkdir()
    (tmp_path / "pipes").chmod(0o1777)
    with pytest.raises(PermissionError, match="pipes"):
        WakeUps(tmp_path / "pipes").prepare()


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pipes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="pipes"):
        WakeUps(tmp_path / "pipes").prepare()
