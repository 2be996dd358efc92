import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fhir_bulk_middleware.workers.wakeup import Doorbell


@pytest.mark.anyio
async def test_a_ring_wakes_everybody_at_once(tmp_path: Path) -> None:
    doorbell = Doorbell(tmp_path / "bells")
    with doorbell.hung_up("one") as one, doorbell.hung_up("two") as two, anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for bell in (one, two):
                group.start_soon(bell.wait, 3600)
            await anyio.lowlevel.checkpoint()
            doorbell.ring()


@pytest.mark.anyio
async def test_a_ring_before_the_wait_counts_once(tmp_path: Path) -> None:
    doorbell = Doorbell(tmp_path / "bells")
    with doorbell.hung_up("one") as bell:
        for _ in range(100_000):
            doorbell.ring()  # more than a pipe holds: it never blocks
        with anyio.fail_after(10):
            await bell.wait(3600)
        with anyio.move_on_after(0.01) as scope:
            await bell.wait(3600)
        assert scope.cancelled_caught


def test_ringing_where_nobody_listens_does_nothing(tmp_path: Path) -> None:
    Doorbell(tmp_path / "nowhere").ring()
    doorbell = Doorbell(tmp_path / "bells")
    doorbell.prepare()
    os.mkfifo(tmp_path / "bells" / "left by one who was killed")
    doorbell.ring()
    doorbell.take_dead_down()
    assert list((tmp_path / "bells").iterdir()) == []


def test_what_is_no_bell_is_left_as_it_is(tmp_path: Path) -> None:
    doorbell = Doorbell(tmp_path / "bells")
    doorbell.prepare()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "bells" / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "bells" / "file").write_text("precious")
    doorbell.ring()
    doorbell.take_dead_down()
    assert (tmp_path / "precious").read_text() == (tmp_path / "bells" / "file").read_text() == "precious"


def test_a_folder_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bells").mkdir()
    (tmp_path / "bells").chmod(0o1777)
    with pytest.raises(PermissionError, match="bells"):
        Doorbell(tmp_path / "bells").prepare()


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bells").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="bells"):
        Doorbell(tmp_path / "bells").prepare()
