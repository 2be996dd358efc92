"""The version of a store's tables: brought up to date by numbered SQL files, or found to be compatible.

Each file of a folder of migrations is one version. It records its number and `code`, the oldest version of the code that may use
the tables from then on, so that servers of two neighbouring releases may run side by side while a deployment is upgraded.
"""

from importlib.resources import files

import psycopg

from fhir_bulk_middleware.stores.postgres.cut import CUT_SCHEMA
from fhir_bulk_middleware.stores.postgres.session import Session, Tables
from fhir_bulk_middleware.stores.postgres.texts import digest

__all__ = ["SchemaUnfit", "check", "job_tables", "migrate", "resource_tables"]

_PACKAGE = files("fhir_bulk_middleware.stores.postgres")

_JOBS = ("job", "job_rows", "part", "registration", "schema_version", "slice", "store", "turn", "turn_number", "work")
_RESOURCES = (
    "resource",
    *(
        f"resource_{name}"
        for name in (
            "base",
            "compartment",
            "counter",
            "extent",
            "horizon",
            "naming",
            "posting",
            "posting_parameter",
            "removal",
            "removal_run",
            "report",
            "schema_version",
            "target",
            "teller",
            "type",
        )
    ),
    "bulk_cut",
    "bulk_clock",
    "bulk_instant",
)


def _scripts(folder: str) -> tuple[str, ...]:
    found = sorted(_PACKAGE.joinpath(folder).iterdir(), key=lambda file: file.name)
    return tuple(script.read_text("utf-8") for script in found if script.name.endswith(".sql"))


_JOB_SCRIPTS = _scripts("migrations")
_FIRST, *_LATER = _scripts("resource_migrations")
_RESOURCE_SCRIPTS = (CUT_SCHEMA + _FIRST, *_LATER)


class SchemaUnfit(RuntimeError):  # noqa: N818 - an outcome, told to the operator in one sentence
    """The schema of the database cannot be used by this release. The message says why, and what to do."""


def job_tables(schema: str) -> Tables:
    """The tables of a `PostgresJobStore` in a schema of the database."""
    return Tables(schema, _JOBS, "schema_version", _JOB_SCRIPTS, "PostgresJobStore")


def resource_tables(schema: str) -> Tables:
    """The tables of a `PostgresResourceStore` in a schema of the database, beside those of a job store or alone."""
    return Tables(schema, _RESOURCES, "resource_schema_version", _RESOURCE_SCRIPTS, "PostgresResourceStore")


def check(session: Session, tables: Tables) -> bool:
    """Whether the schema is up to date or newer; False if `migrate` has to run first.

    Raises:
        SchemaUnfit: it is newer, and not compatible with this release.
    """
    if not session.one("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": f'"{tables.schema}".{tables.version_table}'}):
        return False
    newest = f"SELECT version, code FROM ${tables.version_table} ORDER BY version DESC LIMIT 1"  # noqa: S608 - a name of ours
    version, code = session.row(newest) or (0, 0)
    latest = len(tables.scripts)
    if code > latest:
        raise SchemaUnfit(
            f'the tables in schema "{tables.schema}" are those of a newer release of this package (version {version}, for'
            f" releases that know version {code} or later; this one knows {latest}): install that release, or give this one"
            " another schema"
        )
    return bool(version >= latest)


def migrate(session: Session, tables: Tables) -> None:
    """Bring the schema up to date, in the transaction that the caller began. Of several processes one does it, the others wait.

    Raises:
        SchemaUnfit: the database's role may not do that, or the schema is newer and not compatible.
    """
    schema = tables.schema
    # A lock of the transaction, so that a pooler may give each transaction another connection.
    session.row("SELECT pg_advisory_xact_lock(%(key)s)", {"key": int.from_bytes(digest("migrate", schema)[:8], signed=True)})
    if check(session, tables):
        return
    try:
        if session.one("SELECT to_regnamespace(%(name)s) IS NULL", {"name": f'"{schema}"'}):
            session.script(f'CREATE SCHEMA "{schema}"')
        session.script(f'SET LOCAL search_path TO "{schema}"')
        present = session.one("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": tables.version_table})
        version = session.one(f"SELECT max(version) FROM ${tables.version_table}") if present else 0  # noqa: S608 - a name of ours
        for script in tables.scripts[version:]:
            session.script(script)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaUnfit(
            f'the tables in schema "{schema}" are missing or of an older version, and this role may not write them '
            f"({' '.join(str(error).split())}): call {tables.store}(...).migrate() once with a role that may"
        ) from error
