"""The options and the run of `fhir-bulk bench --server`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.server_rounds import Bench, Round, as_json, measure_server, of_json, show_beside, show_rounds
from fhir_bulk_middleware.demo.show import PlainScreen, screen

__all__ = ["add_server_options", "run_server"]


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `--server` reads."""
    group = parser.add_argument_group(
        "with --server",
        "The access token is read from --token-file at each request, else from the environment variable BULK_DATA_TOKEN.",
    )
    group.add_argument("--request", default="$export", metavar="PATH", help="the kick-off below URL (default: %(default)s)")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the access token")
    group.add_argument("--rounds", type=int, default=3, metavar="N", help="exports, one after the other (default: %(default)s)")
    group.add_argument("--connections", type=int, default=4, metavar="N", help="downloads at a time (default: %(default)s)")
    group.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="a process of the server here: show its CPU and memory",
    )
    shown = group.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print each round as JSON")
    shown.add_argument(
        "--beside", type=Path, metavar="FILE", help="the output of --json for another server: show the figures of both"
    )


def run_server(given: argparse.Namespace) -> int:
    """Measure a server and print the rounds; 1 if a file differs from its manifest.

    Raises:
        Complaint: an option cannot be used, or the server does not answer as a bulk data server.
    """
    if given.rounds < 1 or given.connections < 1:
        raise Complaint("--rounds and --connections: 1 or more is required")
    if not given.server.startswith(("http://", "https://")):
        raise Complaint(f"--server: {given.server} is no URL; write http://... or https://...")
    where: Path = given.out or Path.cwd()
    if not where.is_dir():
        raise Complaint(f"--out: the folder {where} does not exist")
    others = None if given.beside is None else _rounds_of(given.beside)
    token = _token(given.token_file)
    token()
    bench = Bench(given.server, given.request, token, given.rounds, given.connections, tuple(given.pid), where)
    rounds = measure_server(bench)
    if given.json:
        sys.stdout.write(as_json(bench, rounds) + "\n")
    elif others is not None:
        show_beside(rounds, others, PlainScreen(sys.stdout))  # wider than 80 columns, at which rich cuts
    else:
        show_rounds(rounds, screen())
    return int(any(one.problems for one in rounds))


def _rounds_of(file: Path) -> Sequence[Round]:
    try:
        return of_json(file.read_text())
    except OSError as error:
        raise Complaint(f"--beside: {file} cannot be read ({error})") from error
    except ValueError as error:
        raise Complaint(f"--beside: {file} is not the output of bench --server --json ({error})") from error


def _token(file: Path | None) -> Callable[[], str]:
    """The access token, read again for each request, so that another program may renew it while exports run."""

    def read() -> str:
        if file is None:
            return os.environ.get("BULK_DATA_TOKEN", "")
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Complaint(f"--token-file: {file} cannot be read ({error})") from error

    return read
