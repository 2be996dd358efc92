"""A minute of chaos; `python -m tests.chaos` has more."""

import asyncio
import secrets
from pathlib import Path

import pytest
from chaos_rounds import chaos
from chaos_sites import SITES


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("on", SITES)
def test_a_minute_of_trouble_breaks_no_law(tmp_path: Path, on: str) -> None:
    seed = secrets.token_hex(4)

    report = asyncio.run(chaos(tmp_path / "state", seed, range(10_000), on=on, seconds=60))

    assert report.rounds, "not one round ended"
    assert not report.violations, f"python -m tests.chaos --on {on} --seed {seed} --rounds {report.rounds}: {report.violations}"
