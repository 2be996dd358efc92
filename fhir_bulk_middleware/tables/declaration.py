"""Checks what a host declares of its tables, so that a mistake is told when the adapter is made and not by an export."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement

from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.tables.columns import check_instants
from fhir_bulk_middleware.tables.mapping import (
    DateColumn,
    ReferenceColumn,
    ResourceTable,
    SearchColumn,
    StringColumn,
    TokenColumn,
)

__all__ = ["check_declaration"]

_KINDS: dict[type, str] = {DateColumn: "date", ReferenceColumn: "reference", StringColumn: "string", TokenColumn: "token"}


def check_declaration(table: ResourceTable) -> None:
    """Check the type, the times and the search columns of a table.

    A search column without a parameter would narrow nothing, and one of another kind would leave out what meets the criteria.

    Raises:
        TypeError: a time is no instant, or a search column does not suit its parameter.
        ValueError: no FHIR release has the type, or such a search parameter of it.
    """
    known = [each for version in FhirVersion if table.type in (each := definitions(version)).resource_types]
    if not known:
        raise ValueError(f"{table.type!r} is no resource type of FHIR")
    for name, column in _times(table):
        try:
            check_instants(column)
        except TypeError as error:
            raise TypeError(f"{table.type}: {name}: {error}") from None
    for name, columns in table.search.items():  # a table does not know the release of its resources, so any will do
        parameters = [found for each in known if (found := each.parameters(table.type).get(name)) is not None]
        if not parameters:
            raise ValueError(f"{table.type}: search: there is no search parameter {name} of this type")
        kinds = {parameter.type for parameter in parameters}
        for given in columns if isinstance(columns, Sequence) else [columns]:
            if _KINDS[type(given)] not in kinds:
                raise TypeError(_unsuitable(table.type, name, parameters[0].type, given))


def _times(table: ResourceTable) -> Iterator[tuple[str, ColumnElement[Any]]]:
    yield "last_updated", table.last_updated
    if table.deleted_at is not None:
        yield "deleted_at", table.deleted_at
    if table.history is not None:
        yield "history.until", table.history.until


def _unsuitable(type_: str, name: str, kind: str, column: SearchColumn) -> str:
    suitable = next((each.__name__ for each, of in _KINDS.items() if of == kind), None)
    remedy = f"give a {suitable}" if suitable else "leave it out: it is applied to each resource that is read"
    return f"{type_}: search: {name} is a {kind} parameter, and a {type(column).__name__} was given; {remedy}"
