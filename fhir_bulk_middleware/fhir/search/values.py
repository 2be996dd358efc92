"""Parsed search values: one class for each type of search parameter."""

from dataclasses import dataclass

from fhir_bulk_middleware.fhir.prefix import Prefix
from fhir_bulk_middleware.fhir.search.decimals import Number
from fhir_bulk_middleware.fhir.search.spans import Span


@dataclass(frozen=True, slots=True)
class TokenValue:
    """`code`, `system|code`, `|code` (system is empty: there must be none) or `system|` (code is None: any)."""

    system: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class TypedIdentifierValue:
    """The three parts of `identifier:of-type`."""

    system: str
    code: str
    value: str


@dataclass(frozen=True, slots=True)
class TextValue:
    """The text of a string or uri parameter."""

    text: str


@dataclass(frozen=True, slots=True)
class DateValue:
    """A time interval with its prefix."""

    prefix: Prefix
    span: Span


@dataclass(frozen=True, slots=True)
class NumberValue:
    """A number with its prefix."""

    prefix: Prefix
    number: Number


@dataclass(frozen=True, slots=True)
class QuantityValue:
    """A number with a unit: a coded unit if `system` is set, else a code or a display unit; any unit if `code` is None."""

    amount: NumberValue
    system: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """A resource by id, by type and id, or by an absolute URL."""

    type: str | None = None
    id: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class CompositeValue:
    """Values of the components, which must match at the same element."""

    parts: tuple["Value", ...]


Value = TokenValue | TypedIdentifierValue | TextValue | DateValue | NumberValue | QuantityValue | ReferenceValue | CompositeValue
