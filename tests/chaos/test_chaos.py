"""A minute of chaos; `python -m tests.chaos` has more."""

import asyncio
import secrets
from pathlib import Path

import pytest
from chaos_rounds import chaos


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_minute_of_trouble_breaks_no_law(tmp_path: Path) -> None:
    seed = secrets.token_hex(4)

    report = asyncio.run(chaos(tmp_path / "state", seed, range(10_000), seconds=60))

    assert report.rounds, "not one round ended"
    assert not report.violations, f"python -m tests.chaos --seed {seed} --rounds {report.rounds}: {report.violations}"
