"""How long it takes until there is something to ask: imports, and a worker process."""

import subprocess
import sys
from collections.abc import Callable, Iterator

from .bench import Bench
from .figures import Figure, ratio
from .rounds import interleave, timed

__all__ = ["starting"]

_PROGRAMS = {
    "python": "pass",
    "starlette": "import starlette.applications, starlette.routing",
    "pydantic": "import pydantic",
    "app": "import fhir_bulk_middleware.app",
    "verifier": "import fhir_bulk_middleware.jose",
    "worker": (
        "import fhir_bulk_middleware.workers.process, fhir_bulk_middleware.kinds,"
        " fhir_bulk_middleware.stores.sqlite.resources, fhir_bulk_middleware.stores.sqlite.jobs,"
        " fhir_bulk_middleware.stores.filesystem"
    ),
    "command": "import fhir_bulk_middleware.cli",
}


def starting(bench: Bench) -> Iterator[Figure]:
    """A new process each time, with all that it reads in memory."""
    found = interleave({name: timed(_run(program)) for name, program in _PROGRAMS.items()}, bench.rounds)
    for name, what in {"app": "import of the middleware", "verifier": "import of the token verifier"}.items():
        yield ratio("", f"{what} / import of Starlette alone", found[name], found["starlette"])
    yield ratio("", "start of a worker process / start of Python with pydantic", found["worker"], found["pydantic"])
    yield ratio("", "start of the command line / start of Python", found["command"], found["python"])


def _run(program: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, "-c", program], check=True)

    return run
