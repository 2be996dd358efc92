"""Search criteria as conditions on columns, so that an index finds what can meet them.

The conditions are necessary and not always sufficient: they keep every row that can meet the criteria, and perhaps some more.
`Filters` decides on the resource itself, so that a criterion is never applied in part (law 8), whatever a column can express.
"""

import re
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, false, or_, true

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.prefix import Prefix
from fhir_bulk_middleware.fhir.search.criteria import Criteria, Criterion
from fhir_bulk_middleware.fhir.search.values import DateValue, ReferenceValue, TextValue, TokenValue, Value
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN
from fhir_bulk_middleware.tables.columns import date_bound, is_boolean, key_of, one_of
from fhir_bulk_middleware.tables.mapping import (
    DateColumn,
    ReferenceColumn,
    ResourceTable,
    SearchColumn,
    StringColumn,
    TokenColumn,
)

__all__ = ["narrowed"]

_Condition = ColumnElement[bool]

_ABSOLUTE = re.compile(rf".*/([A-Z][A-Za-z]*)/({RESOURCE_ID_PATTERN})(?:/_history/.*)?", re.ASCII)
_SLACK = 1
"""Days by which a date may differ between a column and the resource that is made of it, since a date has no time zone."""
_AFTER = frozenset({Prefix.GT, Prefix.GE, Prefix.SA})
_BEFORE = frozenset({Prefix.LT, Prefix.LE, Prefix.EB})


def narrowed(table: ResourceTable, filters: Iterable[Filter], dialect: str) -> _Condition:
    """What a row must be so that its resource can meet all filters of its type; true if columns cannot tell.

    Args:
        table: the type's table, with its search columns.
        filters: as in `Query.filters` and `Target.filters`.
        dialect: the name of SQLAlchemy's dialect, for `one_of`.
    """
    return and_(
        true(),
        *(
            or_(false(), *(_criteria(table, criteria, dialect) for criteria in filter_.alternatives))
            for filter_ in filters
            if filter_.type == table.type
        ),
    )


def _criteria(table: ResourceTable, criteria: Criteria, dialect: str) -> _Condition:
    return and_(true(), *(_criterion(table, criterion, dialect) for criterion in criteria.criteria))


def _criterion(table: ResourceTable, criterion: Criterion, dialect: str) -> _Condition:
    columns = _columns(table, criterion.name)
    if not columns or criterion.missing is not None:
        return true()
    return or_(false(), *(_column(column, criterion, dialect) for column in columns))


def _columns(table: ResourceTable, name: str) -> Sequence[SearchColumn]:
    if name == "_id":
        return [TokenColumn(table.id)]
    if name == "_lastUpdated":
        return [DateColumn(table.last_updated)]
    found = table.search.get(name, ())
    return found if isinstance(found, Sequence) else [found]


def _column(column: SearchColumn, criterion: Criterion, dialect: str) -> _Condition:
    match column:
        case TokenColumn() if criterion.modifier is None:
            return _tokens(column, criterion.values, dialect)
        case ReferenceColumn() if criterion.modifier != "identifier":
            return _references(column, criterion.values, dialect)
        case DateColumn():
            return or_(false(), *(_date(column, value) for value in criterion.values if isinstance(value, DateValue)))
        case StringColumn() if criterion.modifier == "exact":
            texts = {value.text for value in criterion.values if isinstance(value, TextValue)}
            return one_of(column.column, texts, dialect)
    return true()


def _tokens(column: TokenColumn, values: Sequence[Value], dialect: str) -> _Condition:
    tokens = [value for value in values if isinstance(value, TokenValue)]
    if is_boolean(column.column):
        return or_(false(), *(column.column.is_(value.code == "true") for value in tokens))
    codes: dict[str | None, set[str]] = {}
    found: list[_Condition] = []
    for value in tokens:
        if value.code is None:
            found.append(_system(column, value.system))
        else:
            codes.setdefault(value.system, set()).add(value.code)
    found += [and_(one_of(column.column, several, dialect), _system(column, system)) for system, several in codes.items()]
    return or_(false(), *found)


def _system(column: TokenColumn, system: str | None) -> _Condition:
    """Whether the codes of a row can be of a system; None is any, an empty one is none."""
    if system is None or column.system is None:
        return true()
    if isinstance(column.system, str):
        return true() if column.system == system else false()
    if not system:
        return or_(column.system.is_(None), column.system == "")
    key = key_of(column.system, system)
    return false() if key is None else column.system == key


def _references(column: ReferenceColumn, values: Sequence[Value], dialect: str) -> _Condition:
    ids = set()
    for value in values:
        if isinstance(value, ReferenceValue):
            type_, id_ = value.type, value.id
            if value.url is not None:
                absolute = _ABSOLUTE.fullmatch(value.url)
                type_, id_ = (absolute[1], absolute[2]) if absolute else (None, None)
            if id_ is not None and type_ in {None, column.type}:
                ids.add(id_)
    return one_of(column.column, ids, dialect)


def _date(column: DateColumn, value: DateValue) -> _Condition:
    """Whether a time can lie as the prefix says: a period that has no end may end at any time."""
    if value.prefix is Prefix.NE:
        return true()
    found = []
    start, end = column.column, column.column if column.end is None else column.end
    if value.prefix not in _BEFORE:
        low = date_bound(end, value.span.low, -_SLACK)
        if low is not None:
            found.append(end >= low if column.end is None else or_(end >= low, end.is_(None)))
    if value.prefix not in _AFTER:
        high = date_bound(start, value.span.high, _SLACK)
        if high is not None:
            found.append(start <= high if column.end is None else or_(start <= high, start.is_(None)))
    return and_(true(), *found)
