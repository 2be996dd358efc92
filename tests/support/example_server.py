"""An example of `examples/` under uvicorn, in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from waiting import until

__all__ = ["EXAMPLES", "example_server", "url"]

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
_RUNNING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


@contextmanager
def example_server(application: str, log: Path, **environment: str) -> Generator[Path]:
    """Start a server whose log is the yielded file; `url` waits until it answers."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", "uvicorn", application, "--port", "0"]
        process = subprocess.Popen(command, cwd=EXAMPLES, stderr=out, stdout=out, env={**os.environ, **environment})
    try:
        yield log
    finally:
        process.terminate()
        process.wait()


async def url(log: Path) -> str:
    """The URL of a server, as soon as it has started."""
    await until(lambda: _RUNNING.search(_read(log)) is not None or "Traceback" in _read(log))
    found = _RUNNING.search(_read(log))
    assert found is not None, _read(log)
    return found[1]


def _read(log: Path) -> str:
    return log.read_text()
