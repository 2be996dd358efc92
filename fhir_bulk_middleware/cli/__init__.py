"""The command line `fhir-bulk`: demo, serve, token, keys, jobs, sweep, worker, audit, openapi, bench and check.

Exit codes: 0 for success, and for a server, worker or view that was stopped (Ctrl-C, SIGTERM; SIGTERM also while a server loads
its data); 1 if the demo, a verification or a check found a fault; 2 for a wrong command line and other errors that the user can
fix; 130 if the demo or a load was interrupted by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from fhir_bulk_middleware.cli import audit, bench, check, demo, jobs, keys, openapi, serve, sweep, token, worker
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.demo.loading import LoadError

__all__ = ["main", "parser"]

_COMMANDS = (demo, serve, token, keys, jobs, sweep, worker, audit, openapi, bench, check)
_USAGE = 2
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The parser of all commands and their options."""
    made = argparse.ArgumentParser(prog="fhir-bulk", description="FHIR Bulk Data export for existing FHIR servers.")
    made.add_argument("--version", action="version", version=f"fhir-bulk {metadata.version('fhir-bulk-middleware')}")
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parsed = parser().parse_args(arguments)
    run = parsed.run
    try:
        code: int = run(parsed)
    except (Complaint, LoadError) as complaint:
        sys.stderr.write(f"fhir-bulk: {complaint}\n")
        return _USAGE
    except KeyboardInterrupt:
        sys.stderr.write("fhir-bulk: interrupted\n")
        return _INTERRUPTED
    return code
