"""The conditions of reads: whose rows a selection means, which changes a window holds, which rows live as of an instant."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, false, not_, or_, true

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, NoPatient, Selection, Window
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.tables.columns import bound, one_of
from fhir_bulk_middleware.tables.mapping import Link, ResourceTable

__all__ = ["changed", "living", "selected", "within"]

_PATIENT = "Patient"


def selected(table: ResourceTable, selection: Selection, dialect: str) -> ColumnElement[bool]:
    """Whether a row lies in a selection. A selection without members selects nothing (KO-03).

    Args:
        table: the type's table.
        selection: whose resources.
        dialect: the name of SQLAlchemy's dialect, for `one_of`.
    """
    match selection:
        case Compartments(references):
            return _of_owners(table, references, dialect)
        case EveryPatient():
            return true() if table.type == _PATIENT else or_(false(), *_of_any(table))
        case NoPatient():
            return false() if table.type == _PATIENT else not_(or_(false(), *_of_any(table)))
    return true()


def _of_owners(table: ResourceTable, references: frozenset[str], dialect: str) -> ColumnElement[bool]:
    """Of these patients; and the owners themselves, of whatever type."""
    ids: dict[str, list[str]] = {}
    for reference in references:
        type_, _, id_ = reference.partition("/")
        ids.setdefault(type_, []).append(id_)
    found = [one_of(table.id, ids[table.type], dialect)] if table.type in ids else []
    patients = ids.get(_PATIENT, [])
    if patients and table.type != _PATIENT:
        found += [
            _linked(path, one_of(path.patient, patients, dialect)) if isinstance(path, Link) else one_of(path, patients, dialect)
            for path in table.patients
        ]
    return or_(false(), *found)


def _of_any(table: ResourceTable) -> Iterator[ColumnElement[bool]]:
    for path in table.patients:
        yield _linked(path, path.patient.is_not(None)) if isinstance(path, Link) else path.is_not(None)


def _linked(link: Link, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(link.on, condition).correlate_except(*_tables(link.patient))


def _tables(column: ColumnElement[Any]) -> list[Any]:
    return list(column._from_objects)  # noqa: SLF001 - how SQLAlchemy itself finds the FROM of a column


def within(column: ColumnElement[Any], window: Window) -> ColumnElement[bool]:
    """Whether an instant lies in a window: `since < instant <= until` (law 2)."""
    found = [column > bound(column, window.since)] if window.since is not None else []
    if window.until is not None:
        found.append(column <= bound(column, window.until))
    return and_(true(), *found)


def changed(table: ResourceTable, as_of: Instant | None) -> ColumnElement[bool]:
    """Whether a row is the current version, deletions included; with `as_of`, the version that was current then.

    Without a history there is only one version, as of whatever instant.
    """
    if table.history is None:
        return true()
    until = table.history.until
    if as_of is None:
        return until.is_(None)
    return and_(table.last_updated <= bound(table.last_updated, as_of), or_(until.is_(None), until > bound(until, as_of)))


def living(table: ResourceTable, as_of: Instant | None = None) -> ColumnElement[bool]:
    """Whether a row is a resource: not deleted, and the version that is current, or was current at `as_of`."""
    found = changed(table, as_of)
    if table.history is not None:
        found = and_(found, not_(table.history.deleted))
    return found if table.deleted_at is None else and_(found, table.deleted_at.is_(None))
