"""A worker process logs from the level on that its server logs from; other packages' logs are not turned up with it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.workers.process import Assignment

OURS, EVENTS, THEIRS = "fhir_bulk_middleware says", "fhir_bulk_middleware.contract.events says", "httpx2 says"


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (logging.DEBUG, [f"{log} {level}" for log in (OURS, EVENTS) for level in ("debug", "info", "warning")]),
        (logging.INFO, [f"{log} {level}" for log in (OURS, EVENTS) for level in ("info", "warning")]),
        (logging.WARNING, [f"{log} warning" for log in (OURS, EVENTS)]),
        (logging.ERROR, []),
    ],
)
def test_a_worker_logs_ours_from_the_assigned_level_on_and_of_others_warnings(
    tmp_path: Path, level: int, said: list[str]
) -> None:
    assignment = Assignment("w", tmp_path, Recipe("chatty:Chatty", {}), level)
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "fhir_bulk_middleware.workers.process"],
        input=assignment.line(),
        capture_output=True,
        timeout=PATIENCE,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    lines = [line.partition(" w: ")[2] for line in ran.stderr.decode().splitlines()]
    assert [line for line in lines if " says " in line] == [*said, f"{THEIRS} warning"]
