"""`fhir-bulk audit verify`: whether an audit file is as it was written."""

import argparse
import sys
from pathlib import Path

from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("audit", help="check an audit file: whether each line is as it was written")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser("verify", help="follow the chain of hashes; exit code 1 and the first line that does not fit")
    action.add_argument("file", type=Path, metavar="FILE", help="such as STATE/audit.jsonl")
    action.add_argument("--expect", metavar="HASH", help="a hash that this command printed earlier, and that was kept elsewhere")
    action.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.observers.audit_file import Broken, verify  # noqa: PLC0415 - what other commands need not wait for

    try:
        found = verify(given.file, given.expect)
    except OSError as error:
        raise Complaint(f"{given.file}: {error.strerror}") from error
    if isinstance(found, Broken):
        sys.stdout.write(f"{given.file}, line {found.line}: {found.why}\n")
        return 1
    sys.stdout.write(f"{given.file}: {found.lines} lines, each as it was written; the last has the hash {found.head}\n")
    return 0
