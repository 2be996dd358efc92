"""The version of the schema: brought up to date by numbered SQL files, or found to be compatible.

Each file of `migrations/` is one version. It records its number and `code`, the oldest version of the code that may use the
schema from then on, so that servers of two neighbouring releases may run side by side while a deployment is upgraded.
"""

from importlib.resources import files

import psycopg

from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.stores.postgres.texts import digest

__all__ = ["SchemaUnfit", "check", "migrate"]

_FOLDER = files("fhir_bulk_middleware.stores.postgres").joinpath("migrations")
_SCRIPTS = tuple(
    script.read_text("utf-8") for script in sorted(_FOLDER.iterdir(), key=lambda file: file.name) if script.name.endswith(".sql")
)
_LATEST = len(_SCRIPTS)


class SchemaUnfit(RuntimeError):  # noqa: N818 - an outcome, told to the operator in one sentence
    """The schema of the database cannot be used by this release. The message says why, and what to do."""


def check(session: Session, schema: str) -> bool:
    """Whether the schema is up to date or newer; False if `migrate` has to run first.

    Raises:
        SchemaUnfit: it is newer, and not compatible with this release.
    """
    if not session.one("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": f'"{schema}".schema_version'}):
        return False
    version, code = session.row("SELECT version, code FROM $schema_version ORDER BY version DESC LIMIT 1") or (0, 0)
    if code > _LATEST:
        raise SchemaUnfit(
            f'the tables in schema "{schema}" are those of a newer release of this package (version {version}, for releases that '
            f"know version {code} or later; this one knows {_LATEST}): install that release, or give this one another schema"
        )
    return bool(version >= _LATEST)


def migrate(session: Session, schema: str) -> None:
    """Bring the schema up to date, in the transaction that the caller began. Of several processes one does it, the others wait.

    Raises:
        SchemaUnfit: the database's role may not do that, or the schema is newer and not compatible.
    """
    # A lock of the transaction, so that a pooler may give each transaction another connection.
    session.row("SELECT pg_advisory_xact_lock(%(key)s)", {"key": int.from_bytes(digest("migrate", schema)[:8], signed=True)})
    if check(session, schema):
        return
    try:
        if session.one("SELECT to_regnamespace(%(name)s) IS NULL", {"name": f'"{schema}"'}):
            session.script(f'CREATE SCHEMA "{schema}"')
        session.script(f'SET LOCAL search_path TO "{schema}"')
        present = session.one("SELECT to_regclass('schema_version') IS NOT NULL")
        version = session.one("SELECT max(version) FROM $schema_version") if present else 0
        for script in _SCRIPTS[version:]:
            session.script(script)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaUnfit(
            f'the tables in schema "{schema}" are missing or of an older version, and this role may not write them '
            f"({' '.join(str(error).split())}): call PostgresJobStore(...).migrate() once with a role that may"
        ) from error
