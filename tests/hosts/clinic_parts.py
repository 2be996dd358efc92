"""What the small hosts of the host table have in common: a log of their lifespans, texts and files.

Each `clinic_NAME.py` is one of the five hosts. `FOLDER` in the environment is the folder that one test gives a server.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["CHUNKS", "FOLDER", "digest", "lifespan", "note", "static_folder"]

FOLDER = Path(os.environ["FOLDER"])
CHUNKS = [b"one line\n", b"another line\n" * 1000, b"the last line\n"]


def note(line: str) -> None:
    """Write down what the host did, for the test to read."""
    with (FOLDER / "log").open("a") as log:
        log.write(f"{line}\n")


def digest(body: bytes) -> str:
    """A short text that shows that a body arrived whole."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def static_folder() -> Path:
    """A folder with a file of a known age; the same folder for all servers of a test, since Litestar's ETags show its path."""
    folder = FOLDER.parent / "static"
    folder.mkdir(exist_ok=True)
    (folder / "page.txt").write_text("static\n" * 5000)
    os.utime(folder / "page.txt", (1_700_000_000, 1_700_000_000))
    return folder


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[dict[str, str]]:
    """A lifespan whose effects can be seen: in the log, and in answers that show the state."""
    note("host up")
    yield {"started": "yes"}
    note("host down")
