"""`--database` and `--outputs`: a PostgreSQL and an object storage in place of the files of a STATE folder, for many machines."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.environment import DATABASE, OUTPUTS
from fhir_bulk_middleware.outcomes import Refused

__all__ = ["LOCAL", "Shared", "add_to", "complaints", "database_of", "none_with_app", "shared_of"]

_PASSWORDS: Final = ("password", "sslpassword")


@dataclass(frozen=True, slots=True)
class Shared:
    """What several machines share.

    Attributes:
        database: the DSN of the PostgreSQL with resources and jobs; None to keep them in the STATE folder.
        outputs: the URL of the storage for the files of exports; None to keep them in the STATE folder.
    """

    database: str | None = None
    outputs: str | None = None


LOCAL: Final = Shared()
"""Everything is in the STATE folder."""


def add_to(parser: argparse.ArgumentParser, *, outputs: bool = True) -> None:
    """Add the options to a command."""
    parser.add_argument(
        "--database",
        metavar="DSN",
        help=f"keep resources and jobs in this PostgreSQL, which several machines can share (also {DATABASE}, where a password"
        " belongs)",
    )
    if outputs:
        parser.add_argument(
            "--outputs",
            metavar="URL",
            help="keep the files of exports in s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or the"
            f" mounted folder file:///folder (also {OUTPUTS})",
        )


def database_of(given: argparse.Namespace) -> str | None:
    """The DSN of a command line, or that of the environment; None if there is none.

    Raises:
        Complaint: a password stands on the command line.
    """
    if given.database is not None:
        _check_no_password(given.database)
    return given.database or os.environ.get(DATABASE) or None


def shared_of(given: argparse.Namespace) -> Shared:
    """The options of a command line, or of the environment for those that it leaves out.

    Raises:
        Complaint: a password stands on the command line, or the files would be on one machine only.
    """
    found = Shared(database_of(given), given.outputs or os.environ.get(OUTPUTS) or None)
    if found.database is not None and found.outputs is None:
        raise Complaint(
            "--database needs --outputs, a place for the files that all machines reach: s3://bucket/prefix, or file:///folder"
            f" of a mounted folder (also {OUTPUTS})"
        )
    return found


def none_with_app(given: argparse.Namespace) -> None:
    """Refuse the options beside `--app`, since a host's own BulkData has its stores.

    Raises:
        Complaint: there is one.
    """
    for option, value in (("--database", given.database), ("--outputs", given.outputs)):
        if value is not None:
            raise Complaint(f"{option}: only with --dir; with --app your host says where its data are")


@contextmanager
def complaints(shared: Shared) -> Iterator[None]:
    """Turn what keeps the shared stores from being opened into a Complaint; what a STATE folder raises passes."""
    try:
        yield
    except Refused as refused:
        if shared.database is None:
            raise
        raise Complaint("--database: PostgreSQL cannot be reached now; the log above says why") from refused
    except (ImportError, ValueError, RuntimeError) as error:
        if shared == LOCAL:
            raise
        raise Complaint(f"--database, --outputs: {error}") from error


def _check_no_password(dsn: str) -> None:
    try:
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Complaint("--database needs psycopg: pip install 'fhir-bulk-middleware[postgres]'") from error
    from psycopg import ProgrammingError  # noqa: PLC0415 - an extra

    try:
        said = conninfo_to_dict(dsn)
    except ProgrammingError as error:
        raise Complaint(f"--database: {error}") from error
    if any(said.get(name) for name in _PASSWORDS):
        raise Complaint(
            "--database: other users of the machine can read a password on the command line; put the DSN into the environment"
            f" variable {DATABASE}, or the password into a file that PGPASSFILE names"
        )
