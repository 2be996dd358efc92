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

from fhir_bulk_middleware.cli import client_option, settings_option, shared_option
from fhir_bulk_middleware.cli.client_option import AUTHORIZATION_PATH, authorization_server
from fhir_bulk_middleware.cli.complaint import Complaint, need
from fhir_bulk_middleware.cli.exposure import warnings
from fhir_bulk_middleware.cli.listener import listening, port_of
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.shared_option import Shared, complaints, shared_of
from fhir_bulk_middleware.cli.state import AUDIENCE, AUDIT_SETTINGS, ISSUER, State
from fhir_bulk_middleware.cli.token import EVERYTHING
from fhir_bulk_middleware.cli.token_source import TokenSource
from fhir_bulk_middleware.demo.loading import ByLastUpdated, NdjsonFolder
from fhir_bulk_middleware.demo.show import Screen, screen
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.configuration import SMART_PATH
from fhir_bulk_middleware.smart.server import ASSERTION_TYPE, AuthorizationServer
from fhir_bulk_middleware.trusted_files import UntrustedFileError, check_not_written_by_others

__all__ = ["add_options", "load_folder", "waits"]

_log = logging.getLogger("fhir_bulk_middleware")

_OWN: Final = {"public_base_url": "--public-base-url", "worker_processes": "--workers", "worker_niceness": "--nice"}
"""Settings with an option of their own."""

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to

_GRACE: Final = 10
"""Seconds for running responses to finish when the server stops."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="NDJSON files, plain or .gz, to load into an empty STATE")
    parser.add_argument(
        "--keep-last-updated",
        action="store_true",
        help="with --data: load in the order of meta.lastUpdated and keep it, so that _since covers the history of the files",
    )
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="folder for all data; made if missing")
    shared_option.add_to(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any free one (default: %(default)s)")
    parser.add_argument("--base", default="/fhir", metavar="PATH", help="the path of the FHIR server (default: %(default)s)")
    parser.add_argument("--public-base-url", metavar="URL", help="the public URL of that path")
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="standard", help="HTTP dialect (default: %(default)s)")
    parser.add_argument(
        "--jwks", metavar="FILE|URL", help="public keys of the tokens' issuer (default: a generated development key)"
    )
    parser.add_argument("--issuer", metavar="URL", help="the tokens' issuer (with --jwks)")
    parser.add_argument("--audience", metavar="STR", help="the tokens' audience (with --jwks)")
    client_option.add_to(parser)
    parser.add_argument(
        "--connections",
        type=int,
        default=1_000,
        metavar="N",
        help="maximum number of connections; further ones get 503 (default: %(default)s)",
    )
    defaults = Settings()
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"number of worker processes (default: {defaults.worker_processes})"
    )
    parser.add_argument(
        "--nice",
        type=int,
        metavar="N",
        help="niceness of the worker processes, 0 to 19; with 0 an export gets a full share of a core on which other programs are"
        f" busy (default: {defaults.worker_niceness})",
    )
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
    before = signal.signal(signal.SIGTERM, _asked_to_stop)
    try:
        with logging_to_stderr(given.log_level):
            return _started(given, State(given.dir))
    except _Stopped:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _started(given: argparse.Namespace, state: State) -> int:
    settings, shared = _settings(given), shared_of(given)
    given.public_base_url = settings.public_base_url  # which may come from the environment
    out = screen()
    with _listener(given) as listener, authorization_server(state, _url(given, listener), given) as authorization:
        verifier = _verifier(given, state) if authorization is None else _own_verifier(given, authorization)
        if authorization is not None:
            settings = settings.model_copy(update={"smart": authorization.configuration})
        if given.data is not None:
            if shared.database is not None:
                raise Complaint(
                    "--data loads a STATE folder; to load a database, once: fhir-bulk migrate --data DIR --database DSN"
                )
            try:
                load_folder(state, given.data, out, keep_last_updated=given.keep_last_updated)
            except _Stopped:
                out.say(f"Stopped. {state.loaded_so_far():,} resources are loaded; the same command continues after them.")
                raise
        elif given.keep_last_updated:
            raise Complaint("--keep-last-updated needs --data: it is about resources that are loaded")
        TokenSource.note(state, _token_source(given, _url(given, listener)))
        cautions = warnings(given, state)
        for caution in cautions:
            _log.warning("%s", caution)
        if given.fd is None:
            _greet(given, state, out, cautions, _url(given, listener))
        return _serve(given, state, settings, verifier, authorization=authorization, listener=listener, shared=shared)


def load_folder(state: State, folder: Path, out: Screen, *, keep_last_updated: bool = False) -> None:
    """Load a folder of NDJSON files, unless it was loaded before. A load that was interrupted is continued.

    Args:
        state: the STATE folder.
        folder: the folder of the files.
        out: shows the progress.
        keep_last_updated: whether resources keep their `meta.lastUpdated`.

    Raises:
        Complaint: the store was loaded from another source.
        LoadError: a line is not a resource.
    """
    source = f"the files of {folder.absolute()}{' with their own lastUpdated' if keep_last_updated else ''}"
    if state.loaded(source):
        out.say(f"{state.folder} already holds {source}.")
        return
    files = NdjsonFolder(folder)
    lines = ByLastUpdated(files) if keep_last_updated else files
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
    values = {"public_base_url": given.public_base_url, "worker_processes": given.workers, "worker_niceness": given.nice}
    own = {name: (_OWN[name], value) for name, value in values.items()}
    return settings_option.settings_of(given, own, AUDIT_SETTINGS)


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


def _listener(given: argparse.Namespace) -> socket.socket:
    """The socket of the server. It listens before the data is loaded; requests wait."""
    return listening(given.host, given.port) if given.fd is None else socket.socket(fileno=given.fd)


def _url(given: argparse.Namespace, listener: socket.socket) -> str:
    """The public URL of the base path, which is the audience of assertions and tokens."""
    if given.public_base_url is not None:
        return str(given.public_base_url).rstrip("/")
    host = given.host if given.fd is None else listener.getsockname()[0]
    if given.client and host in _EVERY_ADDRESS:
        raise Complaint(f"--client with --host {host} needs --public-base-url: client assertions name the token endpoint")
    return f"http://{f'[{host}]' if ':' in host else host}:{port_of(listener)}{given.base}"


def _token_source(given: argparse.Namespace, url: str) -> TokenSource | None:
    if given.client:
        client_id = given.client[0].partition("=")[0]
        remedy = f"Sign an assertion, and exchange it at the token endpoint: {_assertion_command(client_id, url)}"
        return TokenSource("it serves registered clients (--client)", remedy)
    if given.jwks is not None:
        return TokenSource("it was started with --jwks", f"Get a token from its issuer, {given.issuer}.")
    return None


def _greet(given: argparse.Namespace, state: State, out: Screen, cautions: Sequence[str], url: str) -> None:
    out.say(f"FHIR server with bulk data at {url} (Ctrl-C ends it)")
    for caution in cautions:
        out.say(f"WARNING: {caution}")
    if given.jwks is not None:
        return
    if given.client:
        client_id, _, jwks = given.client[0].partition("=")
        token_url = f"{url}{AUTHORIZATION_PATH}/token"
        out.say(f"Token endpoint: {token_url} (published in {url}{SMART_PATH})")
        out.say(f"Requests need a token. To get one as {client_id}, sign an assertion with the private key of {jwks}")
        out.say("(instead of PRIVATE-KEY, name its file), and exchange it:\n")
        out.say(f"    ASSERTION=$({_assertion_command(client_id, url)})")
        out.say(f"    TOKEN=$(curl -s {shlex.quote(token_url)} -d grant_type=client_credentials \\")
        scope = EVERYTHING if given.client_scope is None else given.client_scope
        out.say(f"        --data-urlencode {shlex.quote(f'scope={scope}')} -d client_assertion=$ASSERTION \\")
        out.say(f"        -d client_assertion_type={ASSERTION_TYPE} \\")
        out.say('        | sed \'s/.*"access_token": *"\\([^"]*\\)".*/\\1/\')\n')
    else:
        command = shlex.join([_program(), "token", "--dir", str(state.folder)])
        out.say(f"Requests need a token. To make one that can export everything:\n\n    TOKEN=$({command})\n")
    out.say("Kick off an export:\n")
    out.say(f'    curl -i -H "Authorization: Bearer $TOKEN" -H "Prefer: respond-async" \'{url}/$export\'\n')


def _assertion_command(client_id: str, url: str) -> str:
    options = {"--client-id": client_id, "--token-url": f"{url}{AUTHORIZATION_PATH}/token"}
    command = [_program(), "keys", "assertion", "--key", "PRIVATE-KEY", *(part for pair in options.items() for part in pair)]
    return shlex.join(command)


def _program() -> str:
    """The program's name for command lines to copy; the full path if its environment is not activated."""
    return sys.argv[0] if Path(sys.argv[0]).name == "fhir-bulk" else "fhir-bulk"


def _serve(
    given: argparse.Namespace,
    state: State,
    settings: Settings,
    verifier: JoseTokenVerifier,
    *,
    authorization: AuthorizationServer | None,
    listener: socket.socket,
    shared: Shared,
) -> int:
    import uvicorn  # noqa: PLC0415 - an extra

    from fhir_bulk_middleware.cli.wiring import Stores, application  # noqa: PLC0415 - so that --help comes at once

    if given.until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()
    with complaints(shared):
        stores = Stores.of(state, settings.base_urls, shared)
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
        log_level=given.log_level,
        access_log=False,  # query strings contain patient identifiers
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=given.connections,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, _Stopped):
        pass
    finally:
        stores.close()
    return 0 if server.started else 1


class _Stopped(BaseException):
    """Raised by SIGTERM. Not an `Exception`, so that no handler of errors takes it for one."""


def _asked_to_stop(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM. Uvicorn replaces this handler while it serves, and raises the signal again at its end."""
    raise _Stopped


def _stop_at_eof() -> None:
    """Stop this process when its standard input is closed, also by the end of the parent process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
