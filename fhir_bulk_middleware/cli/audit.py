"""`fhir-bulk audit`: whether an audit file is as it was written, its end as an anchor, and digests to look for in it."""

import argparse
import sys
from pathlib import Path

from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State

__all__ = ["add_to"]

# Their modules are imported in the functions: what other commands need not wait for.


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("audit", help="check an audit file: whether each line is as it was written")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser("verify", help="follow the chain of hashes; exit code 1 and the first line that does not fit")
    _add_file(action)
    action.add_argument(
        "--expect",
        metavar="HASH",
        action="append",
        default=[],
        help="an anchor: a hash that was printed earlier and kept elsewhere, whose line must be there (repeatable)",
    )
    action.add_argument("--after", metavar="HASH", help="the last hash of full files that were moved away, if some were")
    action.set_defaults(run=_verify)
    action = actions.add_parser("anchor", help="print the hash of the last line, to be kept elsewhere for verify --expect")
    _add_file(action)
    action.set_defaults(run=_anchor)
    action = actions.add_parser("digest", help="print the digest that records have in place of an identifier")
    _add_file(action)
    action.add_argument("text", metavar="TEXT", help="a reference (Patient/123), or the value of a search parameter")
    action.set_defaults(run=_digest)


def _add_file(action: argparse.ArgumentParser) -> None:
    action.add_argument("file", type=Path, metavar="FILE", help="such as STATE/audit.jsonl; full files are found beside it")
    action.add_argument(
        "--key",
        metavar="FILE|env:NAME",
        default=State.audit_key(),
        help="where its key is kept (default: the variable FHIR_BULK_AUDIT_KEY if it is set, else beside the file)",
    )


def _verify(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.observers.audit_check import Broken, verify  # noqa: PLC0415

    try:
        found = verify(given.file, *given.expect, key=given.key, after=given.after)
    except OSError as error:
        raise _complaint(given.file, error) from error
    if isinstance(found, Broken):
        sys.stdout.write(f"{given.file.with_name(found.file)}, line {found.line}: {found.why}\n")
        return 1
    files = "" if found.files == 1 else f" in {found.files} files"
    sys.stdout.write(f"{given.file}: {found.lines} lines{files}, each as it was written; the last has the hash {found.head}\n")
    if found.unfinished:
        sys.stdout.write(f"A crash left {found.unfinished} bytes of a line that was not recorded; the next event removes them.\n")
    return 0


def _anchor(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.observers.audit_check import anchor  # noqa: PLC0415

    try:
        sys.stdout.write(f"{anchor(given.file, given.key)}\n")
    except OSError as error:
        raise _complaint(given.file, error) from error
    except ValueError as error:
        sys.stdout.write(f"{given.file}: {error}\n")
        return 1
    return 0


def _digest(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.observers.audit_check import audit_key  # noqa: PLC0415

    try:
        sys.stdout.write(f"{audit_key(given.file, given.key).digest(given.text)}\n")
    except OSError as error:
        raise _complaint(given.file, error) from error
    return 0


def _complaint(file: Path, error: OSError) -> Complaint:
    return Complaint(f"{error.filename or file}: {error.strerror}" if error.strerror else str(error))
