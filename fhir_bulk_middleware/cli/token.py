"""`fhir-bulk token`: prints an access token for a server with a development key."""

import argparse
import sys
from pathlib import Path

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.cli.token_source import TokenSource

__all__ = ["EVERYTHING", "add_options"]

EVERYTHING = "system/*.rs"
"""The scope for an export of all types."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="the server's STATE folder")
    parser.add_argument("--subject", default="somebody", metavar="S", help="the token's subject (default: %(default)s)")
    parser.add_argument("--scope", default=EVERYTHING, metavar="SCOPES", help="SMART scopes (default: %(default)s)")
    parser.add_argument("--client-id", metavar="C", help="the token's client id")
    parser.add_argument("--expires-in", type=float, default=3600, metavar="SECONDS", help="lifetime (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    state = State(given.dir)
    source = TokenSource.of(state)
    if source is not None:
        raise Complaint(
            f"the server of {state.folder} does not accept tokens of the development key: {source.reason}. {source.remedy}"
        )
    mint = state.mint()
    token = mint.token(given.subject, given.scope, client_id=given.client_id, expires_in=given.expires_in)
    sys.stdout.write(f"{token}\n")
    return 0
