"""Who may import whom: the rooms of the package stand on floors, and each imports only from floors below its own.

So export and delete do not know each other; workers, jobs and files know neither; and a host's adapter needs the contract alone.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fhir_bulk_middleware

PACKAGE = Path(fhir_bulk_middleware.__file__).parent
FLOORS = (
    "outcomes instant identifiers compact_json loopback trusted_files streams environment smart.configuration",
    "caps settings tracing",
    "scopes",
    "fhir",
    "contract",
    "dialects jose observers stores tables workers",
    "http identity dispatch",
    "files",
    "jobs",
    "delete export health",
    "demo smart testing",
    "discovery",
    "kinds views host_routes mount default_runner startup",
    "app",
    "middleware checks",
    "cli",
    "__init__",
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor.split()}


def room(module: str) -> str:
    """The room of a module, which is named without the package."""
    return module if module in FLOOR_OF else module.partition(".")[0]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            within = (node.module or "").partition(".")[2]
            for name in node.names:
                full = f"{within}.{name.name}".strip(".")
                yield full if full in known else within or "__init__"
        elif isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.startswith(f"{PACKAGE.name}."))


def test_every_module_stands_in_a_room() -> None:
    assert {room(module) for module in modules()} == set(FLOOR_OF)


def test_a_worker_process_starts_without_what_only_a_server_needs() -> None:
    """So that it starts sooner."""
    parts = ("workers.process", "kinds", "stores.sqlite.jobs", "stores.sqlite.resources", "stores.filesystem")
    program = f"import sys, {', '.join(f'{PACKAGE.name}.{part}' for part in parts)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    servers = {"starlette", *(f"{PACKAGE.name}.{name}" for name in ("http", "dialects", "jose", "discovery", "app"))}
    assert servers.isdisjoint(loaded)


def test_a_room_imports_from_floors_below_its_own() -> None:
    known = modules()
    wrong = [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in imported(path, known)
        if room(module) != room(other) and FLOOR_OF[room(other)] >= FLOOR_OF[room(module)]
    ]
    assert wrong == []
