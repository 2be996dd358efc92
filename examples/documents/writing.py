"""How the host writes: each version is a row, and transactions write side by side and commit in any order.

`write` and `delete` run in a transaction of the caller, who may do other work in it, roll it back or prepare it.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from fhir_bulk_middleware import canonical_and_content
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.stores.postgres.cut import CUT_SCHEMA

__all__ = ["SCHEMA", "delete", "write"]

Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = f"""
{CUT_SCHEMA}
CREATE TABLE version (
    type text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    last_updated bigint NOT NULL,
    written_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    ended bigint NOT NULL DEFAULT 9223372036854775807,
    ended_by xid8,
    deleted boolean NOT NULL,
    in_patient boolean NOT NULL,
    json text NOT NULL,
    PRIMARY KEY (type, seq)
);
CREATE UNIQUE INDEX version_number ON version (type, id, number);
CREATE INDEX version_stamp ON version (type, last_updated);
CREATE INDEX version_writer ON version (type, written_by);
CREATE INDEX version_newest ON version (last_updated);
CREATE TABLE compartment (
    owner text NOT NULL,
    type text NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (owner, type, seq),
    FOREIGN KEY (type, seq) REFERENCES version
);
CREATE INDEX compartment_version ON compartment (type, seq);
"""
"""A version has the stamp `last_updated` and the transaction `written_by`; once superseded, also those of the next version."""

_CURRENT = """
    SELECT seq, number, last_updated, deleted, ended = 9223372036854775807 FROM version
    WHERE type = %s AND id = %s ORDER BY number DESC LIMIT 1 FOR UPDATE
"""
_STAMP = "SELECT bulk_instant(%s)"
_END = "UPDATE version SET ended = %s, ended_by = pg_current_xact_id() WHERE type = %s AND seq = %s"
_INSERT = """
    INSERT INTO version (type, id, number, last_updated, deleted, in_patient, json) VALUES (%s, %s, %s, %s, %s, %s, %s)
    RETURNING seq
"""
_OWNED = "INSERT INTO compartment VALUES (%s, %s, %s)"
_OWNERS = "SELECT owner FROM compartment WHERE type = %s AND seq = %s"


def write(connection: Connection, resources: Sequence[str | bytes], compartments: CompartmentMembership) -> None:
    """Write resources, as their first or next version, with one `lastUpdated`.

    Locks the current versions in the order of type and id, so that two writers do not wait for each other.

    Raises:
        psycopg.errors.UniqueViolation: another transaction has created one of the resources meanwhile; begin again.
        ValueError: a resource has no canonical form.
    """
    drafts = [canonical_and_content(resource) for resource in resources]
    current = {key: _current(connection, *key) for key in sorted({(form.type, form.id) for form, _ in drafts})}
    latest = max((found[2] for found in current.values() if found is not None), default=0)
    ((stamp,),) = connection.execute(_STAMP, (latest + 1,)).fetchall()
    for form, content in drafts:
        before = current[form.type, form.id]
        number = 1 if before is None else before[1] + 1
        if before is not None:
            connection.execute(_END, (stamp, form.type, before[0]))
        row = (form.type, form.id, number, stamp, False)
        seq = _insert(connection, row, form.text(number, stamp).decode(), compartments.of(content))
        current[form.type, form.id] = (seq, number, stamp, False)


def delete(connection: Connection, type_: str, id_: str) -> bool:
    """Write a version that says that the resource is deleted, and whose it was, so that their exports tell it (law 27).

    Returns:
        False if there is no such resource.
    """
    before = _current(connection, type_, id_)
    if before is None or before[3]:
        return False
    seq, number, last, _ = before
    owners = frozenset(owner for (owner,) in connection.execute(_OWNERS, (type_, seq)))
    ((stamp,),) = connection.execute(_STAMP, (last + 1,)).fetchall()
    connection.execute(_END, (stamp, type_, seq))
    _insert(connection, (type_, id_, number + 1, stamp, True), "", owners)
    return True


def _current(connection: Connection, type_: str, id_: str) -> tuple[int, int, int, bool] | None:
    """Sequence number, version number, stamp and deletion of the current version, locked until the transaction ends.

    If another transaction superseded it while this one waited for the lock, there is a newer one to read.
    """
    while (found := connection.execute(_CURRENT, (type_, id_)).fetchone()) is not None:
        if found[4]:
            return (found[0], found[1], found[2], found[3])
    return None


def _insert(connection: Connection, row: tuple[object, ...], json: str, owners: frozenset[str]) -> int:
    ((seq,),) = connection.execute(_INSERT, (*row, bool(owners), json)).fetchall()
    with connection.cursor() as cursor:
        cursor.executemany(_OWNED, [(owner, row[0], seq) for owner in sorted(owners)])
    return int(seq)
