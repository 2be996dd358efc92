"""Parses the values of a search parameter from the text of a query."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from fhir_bulk_middleware.fhir.definitions import SearchParameter
from fhir_bulk_middleware.fhir.prefix import Prefix, split_prefix
from fhir_bulk_middleware.fhir.search.decimals import read_number
from fhir_bulk_middleware.fhir.search.escaping import split, unescape
from fhir_bulk_middleware.fhir.search.spans import read_span
from fhir_bulk_middleware.fhir.search.texts import fold
from fhir_bulk_middleware.fhir.search.values import (
    CompositeValue,
    DateValue,
    NumberValue,
    QuantityValue,
    ReferenceValue,
    TextValue,
    TokenValue,
    TypedIdentifierValue,
    Value,
)

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)
_TYPED_ID = re.compile(r"([A-Z][A-Za-z]*)/([A-Za-z0-9.-]{1,64})", re.ASCII)
_ABSOLUTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|urn:)\S+", re.ASCII)
_WITHOUT_SYSTEM = frozenset({"boolean", "id", "string", "uri", "url", "canonical", "oid", "uuid", "ContactPoint"})
_TYPED_PARTS = 3
_URLS = frozenset({"canonical", "uri", "url", "oid", "uuid"})


class BadValueError(ValueError):
    """A value that cannot be applied. The message gives the reason and does not repeat the value."""


def read_value(parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    """Parse one value of a query by the type of its parameter.

    Args:
        parameter: The search parameter; it must be supported.
        modifier: A modifier of the parameter's type, or a resource type.
        text: The value with its escapes, without the separating commas.

    Raises:
        BadValueError: If it is malformed, or cannot be applied exactly to the elements of the parameter.
    """
    if not text:
        raise BadValueError("is empty")
    try:
        return _READERS[parameter.type](parameter, modifier, text)
    except BadValueError:
        raise
    except ValueError as error:
        raise BadValueError(f"has {error}") from error


def _token(parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    if modifier == "text":
        return _text(parameter, "", text)
    parts = [unescape(part) for part in split(text, "|")]
    if modifier == "of-type":
        if len(parts) != _TYPED_PARTS or not all(parts):
            raise BadValueError("is not system|code|value")
        return TypedIdentifierValue(*parts)
    value = _coded(parts)
    for path in parameter.paths:
        if value.system is not None and path.type == "code" and (path.system is None or not value.system):
            raise BadValueError(f"names a system, but {path.path} is a code that does not tell its system")
        if value.system is not None and path.type in _WITHOUT_SYSTEM:
            raise BadValueError(f"names a system, but {path.path} has none")
    booleans = parameter.holds or all(path.type == "boolean" for path in parameter.paths)
    if booleans and value.code not in {"true", "false"}:
        raise BadValueError("is neither true nor false")
    return value


def _coded(parts: list[str]) -> TokenValue:
    match parts:
        case [code] if code:
            return TokenValue(None, code)
        case [system, ""] if system:
            return TokenValue(system, None)
        case [system, code] if code:
            return TokenValue(system, code)
        case _:
            raise BadValueError("is not a token: code, system|code, |code or system|")


def _text(_parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    found = unescape(text)
    if modifier != "exact" and not fold(found):
        raise BadValueError("has nothing but spaces and punctuation, which are not compared")
    return TextValue(found)


def _uri(_parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    found = unescape(text)
    if modifier in {"above", "below"} and found.startswith("urn:"):
        raise BadValueError("is a urn, which has nothing above or below it")
    return TextValue(found)


def _date(_parameter: SearchParameter, _modifier: str | None, text: str) -> Value:
    prefix, stated = split_prefix(unescape(text))
    span = read_span(stated)
    if span is None:
        raise BadValueError("is not a date, or not one of FHIR's precisions")
    return DateValue(prefix, span)


def _number(_parameter: SearchParameter, _modifier: str | None, text: str) -> NumberValue:
    prefix, stated = split_prefix(unescape(text))
    number = read_number(stated)
    if number is None:
        raise BadValueError("is not a number")
    if number.coarse and prefix in {Prefix.EQ, Prefix.NE, Prefix.AP}:
        raise BadValueError("is coarser than 1, and FHIR's releases disagree on the range that this means")
    return NumberValue(prefix, number)


def _quantity(parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    parts = split(text, "|")
    amount = _number(parameter, modifier, parts[0])
    match [unescape(part) for part in parts[1:]]:
        case []:
            return QuantityValue(amount)
        case [system, code] if code:
            return QuantityValue(amount, system or None, code)
        case _:
            raise BadValueError("is not a quantity: number, number|system|code or number||code")


def _reference(parameter: SearchParameter, modifier: str | None, text: str) -> Value:
    if modifier == "identifier":
        return _coded([unescape(part) for part in split(text, "|")])
    stated = unescape(text)
    only_urls = bool(parameter.paths) and all(path.type in _URLS for path in parameter.paths)
    typed = _TYPED_ID.fullmatch(stated)
    if _ABSOLUTE.fullmatch(stated) and modifier is None:
        return ReferenceValue(url=stated)
    if only_urls:
        raise BadValueError("is not an absolute URL, and nothing else stands there")
    if _ID.fullmatch(stated):
        return ReferenceValue(type=modifier, id=stated)
    if typed is None or modifier is not None:
        raise BadValueError("is not a reference: id, Type/id or an absolute URL")
    if not leads_to(parameter, typed[1]):
        raise BadValueError("names a type that this parameter never leads to")
    return ReferenceValue(type=typed[1], id=typed[2])


def leads_to(parameter: SearchParameter, type_: str) -> bool:
    """Whether references of this parameter can have that target type."""
    return not parameter.target or bool(parameter.target & {type_, "Resource"})


def _composite(parameter: SearchParameter, _modifier: str | None, text: str) -> Value:
    parts, components = split(text, "$"), parameter.roots[0].components
    if len(parts) != len(components) or not all(parts):
        raise BadValueError(f"is not a composite of {len(components)} parts")
    return CompositeValue(tuple(read_value(component_of(parameter, n), None, part) for n, part in enumerate(parts)))


def component_of(parameter: SearchParameter, position: int) -> SearchParameter:
    """One component of a composite as a parameter, with its paths from all roots."""
    components = [root.components[position] for root in parameter.roots]
    paths = tuple(dict.fromkeys(path for component in components for path in component.paths))
    return replace(parameter, type=components[0].type, paths=paths, roots=(), target=frozenset())


_READERS: Mapping[str, Callable[[SearchParameter, str | None, str], Value]] = {
    "token": _token,
    "string": _text,
    "uri": _uri,
    "date": _date,
    "number": _number,
    "quantity": _quantity,
    "reference": _reference,
    "composite": _composite,
}
