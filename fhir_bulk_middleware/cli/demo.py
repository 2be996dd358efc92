"""`fhir-bulk demo`: makes a population, serves it, exports it and checks each file, in some seconds."""

import argparse
import contextlib
import shutil
from pathlib import Path
from typing import Final

import anyio

from fhir_bulk_middleware.cli.complaint import Complaint, need
from fhir_bulk_middleware.cli.serve import load_folder, waits
from fhir_bulk_middleware.cli.server_process import Server, server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.cli.token import EVERYTHING
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.demo.show import Screen, screen
from fhir_bulk_middleware.smart.server import LONGEST_TOKEN_LIFETIME, TOKEN_LIFETIME

__all__ = ["add_options"]

_PER_PATIENT: Final = 70.6
"""Resources per patient of the population, for the bar."""

_SUBJECT: Final = "demo"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--patients", type=int, default=200, metavar="N", help="size of the population (default: %(default)s)")
    data.add_argument("--data", type=Path, metavar="DIR", help="export these NDJSON files instead of a population")
    parser.add_argument(
        "--dir", type=Path, default=Path("fhir-bulk-demo"), metavar="STATE", help="the server's folder (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="an empty folder for the files (default: STATE/downloads)")
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: any free port)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="export processes (default: %(default)s)")
    parser.add_argument(
        "--token-seconds",
        type=int,
        metavar="N",
        help=f"lifetime of the access tokens, 1 to {LONGEST_TOKEN_LIFETIME} (default: {TOKEN_LIFETIME}, and"
        f" {LONGEST_TOKEN_LIFETIME} for the one that --keep-serving prints)",
    )
    parser.add_argument("--keep-serving", action="store_true", help="keep the server running and print how to use it")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    need("demo", "uvicorn", "httpx2")
    if given.token_seconds is not None and not 1 <= given.token_seconds <= LONGEST_TOKEN_LIFETIME:
        raise Complaint(f"--token-seconds: a number from 1 to {LONGEST_TOKEN_LIFETIME} is required")
    out = screen()
    state = State(given.dir)
    folder = _empty_folder(given.out, state)
    loaded = None
    if given.data is not None:
        load_folder(state, given.data, out)
    else:
        loaded = _load_population(state, given.patients, out)
    with server_process(state, given.port, ["--workers", str(given.workers)]) as server:
        good = _export(state, server, folder, loaded, out, token_seconds=given.token_seconds or TOKEN_LIFETIME)
        if given.keep_serving:
            out.say(_how_to(state, server.url, given.token_seconds or LONGEST_TOKEN_LIFETIME))
            with contextlib.suppress(KeyboardInterrupt):  # the demo itself has ended
                server.wait()
    return 0 if good else 1


def _empty_folder(given: Path | None, state: State) -> Path:
    """The empty folder for the files. Files of an earlier demo in the default folder are removed, and nothing else."""
    if given is None:
        shutil.rmtree(state.downloads, ignore_errors=True)
        return state.downloads
    if given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise Complaint(f"--out: {given} must be an empty folder or not exist")
    return given


def _load_population(state: State, patients: int, out: Screen) -> int | None:
    """Load the population and return its size; None if it was loaded before, since it may have changed."""
    if patients < 0:
        raise Complaint("--patients: a number of 0 or more is required")
    source = f"a population of {patients} patients"
    if state.loaded(source):
        out.say(f"{state.folder} already holds {source}.")
        return None
    with out.bar("Loading    ", patients * _PER_PATIENT, "resources") as advance:
        return state.load(source, population(patients), advance, lambda: out.say(waits(state)))


def _export(state: State, server: Server, folder: Path, loaded: int | None, out: Screen, *, token_seconds: int) -> bool:
    """Export and download everything; whether all files match the manifest."""
    import httpx2  # noqa: PLC0415 - an extra

    from fhir_bulk_middleware.demo.client import Unexpected  # noqa: PLC0415 - needs the extra
    from fhir_bulk_middleware.demo.journey import show, take_home  # noqa: PLC0415

    mint = state.mint()
    try:
        journey = anyio.run(
            take_home, server.url, lambda: mint.token(_SUBJECT, EVERYTHING, expires_in=token_seconds), folder, out
        )
    except (Unexpected, httpx2.HTTPError) as error:
        out.say(f"The export failed: {error or type(error).__name__}\n\nThe last lines of {server.log}:")
        out.say(server.last_words())
        return False
    show(journey, out)
    problems = journey.problems
    if loaded is not None and journey.count != loaded:
        problems.append(f"{loaded:,} resources were loaded, and {journey.count:,} came")
    for problem in problems:
        out.say(f"DOES NOT MATCH  {problem}")
    if not problems:
        out.say("Each file has the lines, the bytes and the SHA-256 of the manifest.")
    out.say(f"The files are in {folder}/")
    return not problems


def _how_to(state: State, url: str, token_seconds: int) -> str:
    """The steps of the demo as command lines to copy."""
    token = state.mint().token(_SUBJECT, "system/*.cruds", expires_in=token_seconds)
    return f"""
The server runs on at {url} (Ctrl-C ends it). The steps by hand:

# A token that is valid for {token_seconds} seconds
TOKEN={token}

# The CapabilityStatement, without a token
curl -s {url}/metadata

# Kick off: 202, and Content-Location has the URL to poll
STATUS=$(curl -si -H "Authorization: Bearer $TOKEN" -H "Prefer: respond-async" "{url}/\\$export" \\
         | tr -d '\\r' | tee /dev/stderr | sed -n 's/^content-location: //Ip')

# Poll: 202 with X-Progress while it runs, 200 with the manifest at the end
curl -si -H "Authorization: Bearer $TOKEN" "$STATUS"

# Fetch the first file
FILE=$(curl -s -H "Authorization: Bearer $TOKEN" "$STATUS" | grep -o '"url":"[^"]*' | head -1 | cut -d'"' -f4)
curl -s --compressed -H "Authorization: Bearer $TOKEN" "$FILE" | head -c 600

# The patients of a group only
curl -si -H "Authorization: Bearer $TOKEN" -H "Prefer: respond-async" "{url}/Group/every-tenth/\\$export"

# Done: the server may remove the files
curl -si -X DELETE -H "Authorization: Bearer $TOKEN" "$STATUS"
"""
