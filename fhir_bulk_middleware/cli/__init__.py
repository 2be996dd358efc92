"""The command line `fhir-bulk`: demo, serve, token, keys, jobs, sweep, worker, migrate, audit, openapi, bench and check.

Exit codes: 0 for success, and for a server, worker or view that was stopped (Ctrl-C, SIGTERM; SIGTERM also while a server loads
its data); 1 if the demo, a verification or a check found a fault; 2 for a wrong command line and other errors that the user can
fix; 130 if the demo or a load was interrupted by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module, metadata
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.demo.load_error import LoadError

__all__ = ["main", "parser"]

_COMMANDS: Final = {
    "demo": "make a population, serve it, export it and check each file",
    "serve": "serve NDJSON files as a FHIR server with bulk data export",
    "token": "print an access token signed with the development key",
    "keys": "make a client's key pair, or sign a client assertion with it",
    "jobs": "list, show, cancel or watch the jobs of all owners, as the operator",
    "sweep": "end overdue and expired jobs and delete their files, once",
    "worker": "run a further worker until Ctrl-C or SIGTERM",
    "migrate": "make the tables of your own host's stores, or bring them up to date",
    "audit": "verify an audit file, print an anchor or a digest",
    "openapi": "print the OpenAPI 3.1 document of a dialect's routes",
    "bench": "time the stages of an export, or a server's exports from outside",
    "check": "read the data of a storage adapter, and say which promises hold and what to do",
}
"""Each command with its help. The module of its name adds its options; `main` imports only that of the command that is given."""

_USAGE = 2
_INTERRUPTED = 130


def parser(commands: Collection[str] = tuple(_COMMANDS)) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        commands: those whose options it has; their modules are imported.
    """
    made = argparse.ArgumentParser(prog="fhir-bulk", description="FHIR Bulk Data export for existing FHIR servers.")
    made.add_argument("--version", action="version", version=f"fhir-bulk {metadata.version('fhir-bulk-middleware')}")
    parsers = made.add_subparsers(metavar="COMMAND", required=True)
    for name, purpose in _COMMANDS.items():
        options = parsers.add_parser(name, help=purpose)
        if name in commands:
            import_module(f"{__name__}.{name}").add_options(options)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser(given[:1]).parse_args(given)
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
