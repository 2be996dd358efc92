"""`fhir-bulk serve`: the demo host with the middleware, on the user's data."""

import argparse
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from fhir_bulk_middleware.cli import settings_option
from fhir_bulk_middleware.cli.client_option import AUTHORIZATION_PATH, authorization_server
from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint, need
from fhir_bulk_middleware.cli.exposure import warnings
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State, audit_settings
from fhir_bulk_middleware.cli.token import EVERYTHING
from fhir_bulk_middleware.demo.loading import NdjsonFolder
from fhir_bulk_middleware.demo.show import Screen, screen
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.configuration import SMART_PATH
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.trusted_files import UntrustedFileError, check_not_written_by_others

__all__ = ["add_to", "load_folder", "waits"]

_log = logging.getLogger("fhir_bulk_middleware")

_OWN: Final = {"public_base_url": "--public-base-url", "worker_processes": "--workers"}
"""Settings with an option of their own."""

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to

_GRACE: Final = 10
"""Seconds for running responses to finish when the server stops."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="serve NDJSON files as a FHIR server with bulk data export")
    parser.add_argument("--data", type=Path, metavar="DIR", help="NDJSON files, plain or .gz, to load into an empty STATE")
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="folder for all data; made if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--base", default="/fhir", metavar="PATH", help="the path of the FHIR server (default: %(default)s)")
    parser.add_argument("--public-base-url", metavar="URL", help="the public URL of that path")
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="standard", help="HTTP dialect (default: %(default)s)")
    parser.add_argument(
        "--jwks", metavar="FILE|URL", help="public keys of the tokens' issuer (default: a generated development key)"
    )
    parser.add_argument("--issuer", metavar="URL", help="the tokens' issuer (with --jwks)")
    parser.add_argument("--audience", metavar="STR", help="the tokens' audience (with --jwks)")
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="ID=JWKS",
        help="register a client with its public keys (a file or a URL); the server then accepts only tokens that it issues"
        " itself (repeatable)",
    )
    parser.add_argument(
        "--client-scope", default=EVERYTHING, metavar="SCOPES", help="scopes that clients can be granted (default: %(default)s)"
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=1_000,
        metavar="N",
        help="maximum number of connections; further ones get 503 (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="number of worker processes (default: %(default)s)")
    add_log_level(parser)
    parser.add_argument(
        "--audit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep a hash-chained audit file, STATE/audit.jsonl (default: yes)",
    )
    settings_option.add_to(parser, _OWN)
    # For the demo, which starts this command as its server: an open socket, and a stop at the end of standard input.
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    need("serve", "uvicorn")
    with logging_to_stderr(given.log_level):
        return _started(given, State(given.dir))


def _started(given: argparse.Namespace, state: State) -> int:
    settings = _settings(given)
    out = screen()
    with authorization_server(state, _url(given), given.client, given.client_scope) as authorization:
        verifier = _verifier(given, state) if authorization is None else _own_verifier(given, authorization)
        if authorization is not None:
            settings = settings.model_copy(update={"smart": authorization.configuration})
        if given.data is not None:
            load_folder(state, given.data, out)
        cautions = warnings(given, state)
        for caution in cautions:
            _log.warning("%s", caution)
        if given.fd is None:
            _greet(given, state, out, cautions)
        return _serve(given, state, settings, verifier, authorization)


def load_folder(state: State, folder: Path, out: Screen) -> None:
    """Load a folder of NDJSON files, unless it was loaded before.

    Raises:
        Complaint: the store was loaded from another source.
        LoadError: a line is not a resource.
    """
    source = f"the files of {folder.absolute()}"
    if state.loaded(source):
        out.say(f"{state.folder} already holds {source}.")
        return
    lines = NdjsonFolder(folder)
    with out.bar(f"Loading {folder}", lines.size, "bytes") as advance:
        loaded = state.load(source, lines, lambda _: advance(lines.read), lambda: out.say(waits(state)))
        advance(lines.size)
    if loaded is None:
        out.say(f"{state.folder} was filled with {source} by another process.")


def waits(state: State) -> str:
    """The message while another process loads."""
    return f"Another process is loading {state.folder}; waiting for it."


def _settings(given: argparse.Namespace) -> Settings:
    if not given.base.startswith("/") or given.base.endswith("/"):
        raise Complaint("--base: the path must begin with / and not end with /")
    values = {"public_base_url": given.public_base_url, "worker_processes": given.workers}
    own = {name: (_OWN[name], value) for name, value in values.items()}
    return settings_option.settings_of(given, own, audit_settings())


def _verifier(given: argparse.Namespace, state: State) -> JoseTokenVerifier:
    if given.jwks is None:
        if given.issuer or given.audience:
            raise Complaint("--issuer and --audience need --jwks: development tokens have fixed ones")
        return JoseTokenVerifier(jwks=state.mint().jwks, issuer=ISSUER, audience=AUDIENCE)
    if not given.jwks.startswith(("https://", "http://")):
        _check_file(Path(given.jwks))
    if not given.issuer or not given.audience:
        raise Complaint("--jwks needs --issuer and --audience, so that tokens for other servers are rejected")
    try:
        return JoseTokenVerifier(jwks=given.jwks, issuer=given.issuer, audience=given.audience)
    except (ValueError, ImportError) as error:
        raise Complaint(f"--jwks: {error}") from error


def _check_file(jwks: Path) -> None:
    if not jwks.is_file():
        raise Complaint(f"--jwks: the file {jwks} does not exist")
    try:
        check_not_written_by_others(jwks, jwks.stat())
    except UntrustedFileError as error:
        raise Complaint(f"--jwks: {error}") from error


def _own_verifier(given: argparse.Namespace, authorization: AuthorizationServer) -> JoseTokenVerifier:
    if given.jwks is not None or given.issuer or given.audience:
        raise Complaint("--client and --jwks exclude each other: only one authorization server can issue the tokens")
    return authorization.verifier()


def _url(given: argparse.Namespace) -> str:
    """The public URL of the base path, which is the audience of assertions and tokens."""
    if given.public_base_url is not None:
        return str(given.public_base_url).rstrip("/")
    host, port = given.host, given.port
    if given.fd is not None:
        with socket.socket(fileno=os.dup(given.fd)) as listener:
            host, port = listener.getsockname()[:2]
    if given.client and host in _EVERY_ADDRESS:
        raise Complaint(f"--client with --host {host} needs --public-base-url: client assertions name the token endpoint")
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{given.base}"


def _greet(given: argparse.Namespace, state: State, out: Screen, cautions: Sequence[str]) -> None:
    url = _url(given)
    out.say(f"FHIR server with bulk data at {url} (Ctrl-C ends it)")
    for caution in cautions:
        out.say(f"WARNING: {caution}")
    if given.client:
        out.say(f"Token endpoint: {url}{AUTHORIZATION_PATH}/token (published in {url}{SMART_PATH})")
    elif given.jwks is None:
        command = shlex.join([_program(), "token", "--dir", str(state.folder)])
        out.say(f"Requests need a token. To make one that can export everything:\n\n    TOKEN=$({command})\n")
        out.say("Kick off an export:\n")
        out.say(f'    curl -i -H "Authorization: Bearer $TOKEN" -H "Prefer: respond-async" \'{url}/$export\'\n')


def _program() -> str:
    """The program's name for command lines to copy; the full path if its environment is not activated."""
    return sys.argv[0] if Path(sys.argv[0]).name == "fhir-bulk" else "fhir-bulk"


def _serve(
    given: argparse.Namespace,
    state: State,
    settings: Settings,
    verifier: JoseTokenVerifier,
    authorization: AuthorizationServer | None,
) -> int:
    import uvicorn  # noqa: PLC0415 - an extra

    from fhir_bulk_middleware.cli.wiring import Stores, application  # noqa: PLC0415 - so that other commands start faster

    signal.signal(signal.SIGTERM, _asked_to_stop)
    if given.until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()
    stores = Stores.of(state, settings.base_urls)
    stores.resources.open()
    app = application(
        state,
        stores,
        verifier,
        settings,
        dialect=DIALECTS[given.dialect],
        base=given.base,
        audit=given.audit,
        authorization=authorization,
    )
    config = uvicorn.Config(
        app,
        host=given.host,
        port=given.port,
        fd=given.fd,
        log_level=given.log_level,
        access_log=False,  # query strings contain patient identifiers
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=given.connections,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=None if given.fd is None else [socket.socket(fileno=given.fd)])
    except (KeyboardInterrupt, _Stopped):
        pass
    finally:
        stores.close()
    return 0 if server.started else 1


class _Stopped(BaseException):
    """Raised by SIGTERM."""


def _asked_to_stop(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM. Uvicorn replaces this handler while it serves, and raises the signal again at its end."""
    raise _Stopped


def _stop_at_eof() -> None:
    """Stop this process when its standard input is closed, also by the end of the parent process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
