"""`fhir-bulk audit`: verify an audit file, print its last hash as an anchor, print digests to search for."""

import argparse
import sys
from pathlib import Path

from fhir_bulk_middleware import environment
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.observers.audit_check import Broken, anchor, audit_key, verify

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser("verify", help="check signatures and hashes; at a fault print the first wrong line, exit code 1")
    _add_file(action)
    action.add_argument(
        "--expect",
        metavar="HASH",
        action="append",
        default=[],
        help="hash from an earlier `anchor`; a line with it must exist (repeatable)",
    )
    action.add_argument("--after", metavar="HASH", help="hash of the last line of rotated files that were moved away")
    action.set_defaults(run=_verify)
    action = actions.add_parser("anchor", help="print the hash of the last line, to store on another system for verify --expect")
    _add_file(action)
    action.set_defaults(run=_anchor)
    action = actions.add_parser("digest", help="print the digest of an identifier, as in the records")
    _add_file(action)
    action.add_argument("text", metavar="TEXT", help="a reference (Patient/123), or the value of a search parameter")
    action.set_defaults(run=_digest)


def _add_file(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "file", type=Path, metavar="FILE", help="audit file, such as STATE/audit.jsonl; rotated files are next to it"
    )
    action.add_argument(
        "--key",
        metavar="FILE|env:NAME",
        default=None,
        help="the audit key (default: the variable FHIR_BULK_AUDIT_KEY or FHIR_BULK_AUDIT_KEY_FILE, else a file next to FILE)",
    )


def _verify(given: argparse.Namespace) -> int:
    try:
        found = verify(given.file, *given.expect, key=_key(given), after=given.after)
    except OSError as error:
        raise _complaint(given.file, error) from error
    if isinstance(found, Broken):
        sys.stdout.write(f"{given.file.with_name(found.file)}, line {found.line}: {found.why}\n")
        return 1
    files = "" if found.files == 1 else f" in {found.files} files"
    sys.stdout.write(f"{given.file}: {found.lines} lines{files}, all valid; the hash of the last line is {found.head}\n")
    if found.unfinished:
        sys.stdout.write(f"A crash left {found.unfinished} bytes of an incomplete line; the next event removes them.\n")
    return 0


def _anchor(given: argparse.Namespace) -> int:
    try:
        sys.stdout.write(f"{anchor(given.file, _key(given))}\n")
    except OSError as error:
        raise _complaint(given.file, error) from error
    except ValueError as error:
        sys.stdout.write(f"{given.file}: {error}\n")
        return 1
    return 0


def _digest(given: argparse.Namespace) -> int:
    try:
        sys.stdout.write(f"{audit_key(given.file, _key(given)).digest(given.text)}\n")
    except OSError as error:
        raise _complaint(given.file, error) from error
    return 0


def _key(given: argparse.Namespace) -> str | None:
    """The place of the key: the option, else what the environment says."""
    try:
        return given.key or environment.audit_key()
    except ValueError as error:
        raise Complaint(str(error)) from error


def _complaint(file: Path, error: OSError) -> Complaint:
    return Complaint(f"{error.filename or file}: {error.strerror}" if error.strerror else str(error))
