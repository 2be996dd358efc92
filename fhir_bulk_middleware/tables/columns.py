"""Converts ids and instants to what a column holds, and back."""

import json
import re
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    SmallInteger,
    any_,
    bindparam,
    cast,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.types import NullType, TypeDecorator

from fhir_bulk_middleware.instant import Instant, from_datetime, to_datetime

__all__ = ["bound", "check_instants", "date_bound", "instant_of", "is_boolean", "key_of", "one_of"]

_NUMBER = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)
_FEW = 500
"""Values that stand in a statement one by one; more are sent as one array."""


def _kind(column: ColumnElement[Any]) -> type:
    try:
        kind: type = column.type.python_type
    except NotImplementedError:
        return str
    return kind


def is_boolean(column: ColumnElement[Any]) -> bool:
    """Whether a column holds booleans."""
    return isinstance(column.type, Boolean)


def key_of(column: ColumnElement[Any], text: str) -> Any:
    """The value of a column whose text this is; None if no value of the column has this text."""
    kind = _kind(column)
    if kind is int:
        return int(text) if _NUMBER.fullmatch(text) and abs(int(text)) <= _largest(column) else None
    if kind is UUID:
        try:
            found = UUID(text)
        except ValueError:
            return None
        return found if str(found) == text else None
    return None if "\0" in text else text  # no database keeps this character


def _largest(column: ColumnElement[Any]) -> int:
    type_ = column.type
    if isinstance(type_, SmallInteger):
        return 2**15 - 1
    return 2**31 - 1 if isinstance(type_, Integer) and not isinstance(type_, BigInteger) else 2**63 - 1


def one_of(column: ColumnElement[Any], texts: Collection[str], dialect: str) -> ColumnElement[bool]:
    """Whether the column's value has one of these texts.

    Many values go to the database as one parameter, since the number of parameters is limited.
    """
    keys = [key for text in sorted(texts) if (key := key_of(column, text)) is not None]
    if not keys:
        return false()
    if len(keys) > _FEW and dialect == "postgresql":
        return column == any_(cast(bindparam(None, keys, ARRAY(column.type)), ARRAY(column.type)))
    if len(keys) > _FEW and dialect == "sqlite" and _kind(column) in {str, int}:
        return column.in_(select(func.json_each(json.dumps(keys)).table_valued("value").c.value))
    return or_(*(column.in_(keys[start : start + _FEW]) for start in range(0, len(keys), _FEW)))


def check_instants(column: ColumnElement[Any]) -> None:
    """Check that a column, or an expression, holds instants.

    Raises:
        TypeError: it does not, or its type is not known.
    """
    type_ = column.type
    if isinstance(type_, NullType):
        raise TypeError(f"the type of {column} is not known: give the function its type, type_=DateTime(timezone=True)")
    if not isinstance(type_, Integer | DateTime | TypeDecorator):
        raise TypeError(f"{column} holds {type_!r}: an instant is a DateTime, or an integer number of microseconds since 1970")


def bound(column: ColumnElement[Any], instant: Instant) -> Any:
    """The instant as the column holds it, one that passes `check_instants`."""
    type_ = column.type
    if isinstance(type_, Integer):
        return instant
    moment = to_datetime(instant)
    return moment.replace(tzinfo=None) if isinstance(type_, DateTime) and not type_.timezone else moment


def instant_of(value: Any) -> Instant:
    """The instant that a column has; one without a time zone is in UTC.

    Raises:
        TypeError: the value is no instant.
    """
    if isinstance(value, datetime):
        return from_datetime(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    if isinstance(value, int):
        return Instant(value)
    if value is None:
        raise TypeError("NULL is no instant: each row needs one")
    raise TypeError(f"a {type(value).__name__} is no instant: select a DateTime, or microseconds since 1970")


def date_bound(column: ColumnElement[Any], nanoseconds: float, days: int) -> Any:
    """A time of a search as the column holds it, moved by some days; None if it lies beyond all that the column can hold.

    Args:
        column: of dates, times or microseconds.
        nanoseconds: since the first day of the year 1, as in `Span`.
        days: how far to move it.
    """
    if not abs(nanoseconds) < float("inf"):
        return None
    try:
        moment = datetime(1, 1, 1) + timedelta(days=days - 1, microseconds=nanoseconds // 1_000)  # noqa: DTZ001 - made aware below
    except OverflowError:
        return None
    if isinstance(column.type, Date):
        return date(moment.year, moment.month, moment.day)
    return bound(column, from_datetime(moment.replace(tzinfo=UTC)))
