"""Adapters for hosts that keep their data in tables, on SQLAlchemy 2 (extra `sqlalchemy`).

A host declares for each type where it lies (`ResourceTable`) and how a row becomes FHIR. `TableStorage` then reads it for
exports; `MarkedDeletions` tells deletions that are marked in the rows, `VersionedTables` reads a history of versions as of an
instant, and `TableDeletes` removes rows. `selected`, `within`, `living` and `narrowed` are the conditions that they use, for
adapters that make their own statements.
"""

try:
    from fhir_bulk_middleware.tables.clock import WriteClock
    from fhir_bulk_middleware.tables.conditions import living, selected, within
    from fhir_bulk_middleware.tables.criteria import narrowed
    from fhir_bulk_middleware.tables.mapping import (
        DateColumn,
        History,
        Link,
        ReferenceColumn,
        ResourceTable,
        StringColumn,
        TokenColumn,
    )
    from fhir_bulk_middleware.tables.removing import TableDeletes
    from fhir_bulk_middleware.tables.storage import MarkedDeletions, TableStorage
    from fhir_bulk_middleware.tables.transactions import writing
    from fhir_bulk_middleware.tables.versions import VersionedTables
except ModuleNotFoundError as error:
    raise ImportError("adapters for tables need SQLAlchemy: pip install 'fhir-bulk-middleware[sqlalchemy]'") from error

__all__ = [
    "DateColumn",
    "History",
    "Link",
    "MarkedDeletions",
    "ReferenceColumn",
    "ResourceTable",
    "StringColumn",
    "TableDeletes",
    "TableStorage",
    "TokenColumn",
    "VersionedTables",
    "WriteClock",
    "living",
    "narrowed",
    "selected",
    "within",
    "writing",
]
