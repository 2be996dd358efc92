"""What a host declares of its tables: where a resource type lies, whose its rows are, and which columns can be searched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select

from fhir_bulk_middleware.fhir.canonical import Resource

__all__ = ["DateColumn", "History", "Link", "ReferenceColumn", "ResourceTable", "SearchColumn", "StringColumn", "TokenColumn"]

Column = ColumnElement[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A table that links rows to patients, such as the participants of an encounter. It is read with EXISTS and doubles nothing.

    Attributes:
        patient: the column with the key of the patient.
        on: the condition that joins the link to the row: `participant.c.encounter_id == encounter.c.id`.
    """

    patient: Column
    on: ColumnElement[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How a table of versions says when a version was current. `ResourceTable.last_updated` is when it began.

    A deletion is a version of its own, with `deleted` set; its other columns may be those of the version before it.

    Attributes:
        until: when the next version began; NULL in the current version.
        deleted: whether the version is a deletion.
    """

    until: Column
    deleted: ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class TokenColumn:
    """A column of codes, booleans or identifiers, for a token parameter.

    Attributes:
        column: the codes.
        system: the code system of all codes, or the column that has it. None if that is not known here: then systems are compared
            resource by resource.
    """

    column: Column
    system: str | Column | None = None


@dataclass(frozen=True, slots=True)
class ReferenceColumn:
    """A column with the keys of other resources, for a reference parameter.

    Attributes:
        column: the keys.
        type: their resource type.
    """

    column: Column
    type: str


@dataclass(frozen=True, slots=True)
class DateColumn:
    """A column of dates or times, for a date parameter.

    Attributes:
        column: the date, or the start of a period.
        end: the end of the period; None if the element is no Period.
    """

    column: Column
    end: Column | None = None


@dataclass(frozen=True, slots=True)
class StringColumn:
    """A column of texts, for a string parameter with the modifier `exact`.

    Attributes:
        column: the text, as it stands in the resource.
    """

    column: Column


SearchColumn = TokenColumn | ReferenceColumn | DateColumn | StringColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceTable:
    """Where the resources of one type lie, and how a row becomes a resource.

    Ids are compared and ordered as the column does it, so that its index is used. Times are columns of `DateTime` (without a time
    zone: UTC), or integers: microseconds since 1970.

    Attributes:
        type: the resource type.
        rows: selects what `resource` needs, one row for each resource. It may join tables as long as a row stays one row;
            aggregate lists in a subquery.
        id: the column of the logical id: text, integers or UUIDs.
        last_updated: when the row, or one that `rows` joins, changed last; index it.
        resource: makes FHIR of a row: a dict, a pydantic model, or JSON text. Its `id`, `meta.versionId` and `meta.lastUpdated`
            are replaced by those of the columns.
        version: the version of the row, which each change must change, also one of a row that `rows` joins. None to take
            `last_updated` in microseconds for it, which is exact only if no row changes twice within that column's precision.
        patients: the columns that have the key of a patient in whose compartment the row lies, or links to such; all of them, as
            the Patient compartment names them. A Patient lies in its own compartment.
        deleted_at: when the row was deleted, NULL while it lives; None if rows are not marked. A marked row is no resource.
        history: for a table of versions.
        search: the columns of search parameters, one or several for each. A parameter without a column is applied to each
            resource that is read; the columns of a parameter must hold all that it can find in the resource.
    """

    type: str
    rows: Select[Any]
    id: Column
    last_updated: Column
    resource: Callable[[Any], Resource]
    version: Column | None = None
    patients: Sequence[Column | Link] = ()
    deleted_at: Column | None = None
    history: History | None = None
    search: Mapping[str, SearchColumn | Sequence[SearchColumn]] = field(default_factory=dict)
