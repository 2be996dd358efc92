"""`fhir-bulk serve --client`: an authorization server for clients with a key."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.cli.token import EVERYTHING
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.smart.assertions import ALGORITHMS
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import SQLiteReplayLog
from fhir_bulk_middleware.smart.server import LONGEST_TOKEN_LIFETIME, TOKEN_LIFETIME, AuthorizationServer
from fhir_bulk_middleware.trusted_files import UntrustedFileError, check_not_written_by_others

__all__ = ["AUTHORIZATION_PATH", "add_to", "authorization_server"]

AUTHORIZATION_PATH = "/auth"
"""The path of the authorization server below the base; it cannot conflict with a resource type."""


_NEED_CLIENT: Final = {"client_scope": "--client-scope", "token_seconds": "--token-seconds"}


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add `--client` and the options that belong to it."""
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="ID=JWKS",
        help="register a client with its public keys (a file or a URL); the server then accepts only tokens that it issues"
        " itself (repeatable)",
    )
    parser.add_argument(
        "--client-scope", metavar="SCOPES", help=f"scopes that clients can be granted (with --client; default: {EVERYTHING})"
    )
    parser.add_argument(
        "--token-seconds",
        type=int,
        metavar="N",
        help=f"lifetime of the access tokens that the server issues (with --client; 1 to {LONGEST_TOKEN_LIFETIME},"
        f" default: {TOKEN_LIFETIME})",
    )


@contextmanager
def authorization_server(state: State, base_url: str, given: argparse.Namespace) -> Iterator[AuthorizationServer | None]:
    """An authorization server for the clients of a command line while the context is open; None without clients.

    Args:
        state: stores its key and the used assertions.
        base_url: the FHIR server's public URL.
        given: the parsed command line.

    Raises:
        Complaint: a client, the scopes or the lifetime are invalid.
    """
    if not given.client:
        alone = [option for name, option in _NEED_CLIENT.items() if getattr(given, name) is not None]
        if alone:
            raise Complaint(f"{' and '.join(alone)}: only with --client, whose tokens this is about")
        yield None
        return
    scopes = EVERYTHING if given.client_scope is None else given.client_scope
    registered = [_client(text, scopes.split()) for text in given.client]
    lifetime = TOKEN_LIFETIME if given.token_seconds is None else given.token_seconds
    replay = SQLiteReplayLog(state.assertions)
    url = f"{base_url}{AUTHORIZATION_PATH}"
    try:
        server = AuthorizationServer(url, base_url, registered, key=state.signing_key(), replay=replay, lifetime=lifetime)
    except ValueError as error:
        raise Complaint(f"--client, --client-scope, --token-seconds: {error}") from error
    try:
        yield server
    finally:
        replay.close()


def _client(text: str, scopes: Sequence[str]) -> Client:
    client_id, _, jwks = text.partition("=")
    if not client_id or not jwks:
        raise Complaint(f"--client: {text!r} is not of the form ID=JWKS, where JWKS is a file or a URL")
    if "://" not in jwks:
        _check(client_id, Path(jwks))
    try:
        return Client.registered(client_id, jwks, scopes)
    except (ValueError, ImportError) as error:
        raise Complaint(f"--client {client_id}: {error}") from error


def _check(client_id: str, file: Path) -> None:
    """Check at start that the file has a key for the client. It is read again whenever it changes."""
    if not file.is_file():
        raise Complaint(f"--client: the file {file} does not exist")
    try:
        keys = KeySet.from_json(file.read_bytes())
        check_not_written_by_others(file, file.stat())
    except UntrustedFileError as error:
        raise Complaint(f"--client {client_id}: {error}") from error
    except (OSError, ValueError) as error:
        raise Complaint(f"--client {client_id}: {file} is not a JWK Set: {error}") from error
    if not any(key.kid is not None and key.algorithms & {*ALGORITHMS} for key in keys.keys):
        why = "; ".join(("no key with a kid for " + " or ".join(ALGORITHMS), *keys.passed_over))
        raise Complaint(f"--client {client_id}: {file}: {why}")
