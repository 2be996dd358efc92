"""`fhir-bulk serve --client`: an authorization server for clients with a key."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.smart.assertions import ALGORITHMS
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import SQLiteReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.trusted_files import UntrustedFileError, check_not_written_by_others

__all__ = ["AUTHORIZATION_PATH", "authorization_server"]

AUTHORIZATION_PATH = "/auth"
"""The path of the authorization server below the base; it cannot conflict with a resource type."""


@contextmanager
def authorization_server(
    state: State, base_url: str, clients: Sequence[str], scopes: str
) -> Iterator[AuthorizationServer | None]:
    """An authorization server for these clients while the context is open; None without clients.

    Args:
        state: stores its key and the used assertions.
        base_url: the FHIR server's public URL.
        clients: `ID=JWKS`, where JWKS is a file or a URL.
        scopes: the scopes that each client can be granted, separated by blanks.

    Raises:
        Complaint: a client is invalid.
    """
    if not clients:
        yield None
        return
    registered = [_client(text, scopes.split()) for text in clients]
    replay = SQLiteReplayLog(state.assertions)
    url = f"{base_url}{AUTHORIZATION_PATH}"
    try:
        server = AuthorizationServer(url, base_url, registered, key=state.signing_key(), replay=replay)
    except ValueError as error:
        raise Complaint(f"--client: {error}") from error
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
