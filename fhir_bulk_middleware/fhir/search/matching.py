"""Matches parsed resources against search criteria, by FHIR's rules.

Parse resources with `json.loads(text, parse_float=Decimal)`, because numbers are compared by their written digits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fhir_bulk_middleware.fhir.definitions import SearchParameter, TypedPath, definitions
from fhir_bulk_middleware.fhir.expression import Resource, Test, Walk, compile_path, root_keys
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.search import ordered, targets, texts, tokens
from fhir_bulk_middleware.fhir.search.criteria import Criteria, Criterion
from fhir_bulk_middleware.fhir.search.needles import needles
from fhir_bulk_middleware.fhir.search.reading import component_of
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

Predicate = Callable[[Resource], bool]
V = TypeVar("V")

_NO_VALUE = frozenset({"id", "extension"})  # an element with only these has no value, but a reason for its absence


class Matcher:
    """Criteria compiled for one server.

    All criteria must match. A criterion matches if one of its values matches one of the elements at its paths. `:not` negates
    the whole criterion, so it matches a resource without the element; the prefix `ne` compares elements, so it does not.

    Args:
        criteria: The criteria.
        base_urls: The base URLs under which absolute references are this server's own.

    Attributes:
        criteria: The criteria.
        needles: Byte strings; the JSON text of each matching resource contains at least one of them. None if there are none.
            A store may skip a text without any of them unparsed, if its texts do not escape letters, digits and ` ._:()-`.
        members: The members of a resource that decide whether it matches; it may be parsed without the others.
    """

    def __init__(self, criteria: Criteria, base_urls: Iterable[str] = ()) -> None:
        self.criteria = criteria
        references = References(base_urls)
        parameters = definitions(criteria.version).parameters(criteria.type)
        pairs = [(criterion, parameters[criterion.name]) for criterion in criteria.criteria]
        self.needles = needles(pairs, references)
        self.members = frozenset({"resourceType"}.union(*(_members(parameter) for _, parameter in pairs)))
        self._all = _all_of([_predicate(criterion, parameter, references) for criterion, parameter in pairs])

    def matches(self, resource: Resource) -> bool:
        """Whether the resource has the type of the criteria and matches all of them."""
        return resource.get("resourceType") == self.criteria.type and self._all(resource)


def _members(parameter: SearchParameter) -> frozenset[str]:
    """The members of a resource in which a parameter finds its values."""
    found = [root_keys(path.path) for path in parameter.paths]
    for root in parameter.roots:
        components = (root_keys(path.path) for component in root.components for path in component.paths)
        found += [root_keys(root.path)] if root.path else components
    return frozenset().union(*found)


def _predicate(criterion: Criterion, parameter: SearchParameter, references: References) -> Predicate:
    if criterion.missing is not None:
        return _missing(parameter, wanted=criterion.missing)
    if parameter.holds:
        found = _holding(criterion, parameter)
    elif parameter.type == "composite":
        found = _any_of([_composite(value, parameter, references) for value in criterion.values])
    else:
        found = _anywhere(criterion.modifier, criterion.values, parameter, references)
    return (lambda resource: not found(resource)) if criterion.modifier == "not" else found


def _all_of(predicates: Sequence[Predicate]) -> Predicate:
    return predicates[0] if len(predicates) == 1 else lambda resource: all(test(resource) for test in predicates)


def _any_of(predicates: Sequence[Predicate]) -> Predicate:
    return predicates[0] if len(predicates) == 1 else lambda resource: any(test(resource) for test in predicates)


def _anywhere(modifier: str | None, values: Sequence[Value], parameter: SearchParameter, references: References) -> Predicate:
    """A predicate for any value at any path; with `parameter.first`, only for the first value found."""
    tests = [(compile_path(path.path), _test(modifier, values, path, parameter, references)) for path in parameter.paths]
    if parameter.first:
        return lambda resource: _at_first(resource, tests)

    def found(resource: Resource) -> bool:
        for walk, test in tests:
            for node in walk(resource):
                if test(node):
                    return True
        return False

    return found


def _at_first(resource: Resource, tests: Iterable[tuple[Walk, Test]]) -> bool:
    for walk, test in tests:
        nodes = walk(resource)
        if nodes:
            return test(nodes[0])
    return False


def _composite(value: Value, parameter: SearchParameter, references: References) -> Predicate:
    """A predicate for all components at the same root element."""
    if not isinstance(value, CompositeValue):
        raise TypeError(f"a composite parameter was given a {type(value).__name__}")
    roots: list[tuple[Walk, list[Predicate]]] = []
    for root in parameter.roots:
        parts = []
        for position, component in enumerate(root.components):
            part = component_of(parameter, position)
            places = SearchParameter(part.name, part.type, component.paths)
            parts.append(_anywhere(None, [value.parts[position]], places, references))
        roots.append((compile_path(root.path), parts))

    def test(resource: Resource) -> bool:
        for walk, parts in roots:
            for node in walk(resource):
                if isinstance(node, Mapping) and all(part(node) for part in parts):
                    return True
        return False

    return test


def _holding(criterion: Criterion, parameter: SearchParameter) -> Predicate:
    """A predicate for a parameter that is true if an element has a value other than `false` (see `SearchParameter.holds`)."""
    walks = [compile_path(path.path) for path in parameter.paths]
    wanted = {value.code == "true" for value in criterion.values if isinstance(value, TokenValue)}
    return lambda resource: any(node is not False for walk in walks for node in walk(resource)) in wanted


def _missing(parameter: SearchParameter, *, wanted: bool) -> Predicate:
    walks = [compile_path(path.path) for path in parameter.paths]
    return lambda resource: any(_has_value(node) for walk in walks for node in walk(resource)) is not wanted


def _has_value(node: Any) -> bool:
    return not isinstance(node, Mapping) or not _NO_VALUE.issuperset(node)


def _test(  # noqa: C901, PLR0911 - a case per kind of value
    modifier: str | None, values: Sequence[Value], path: TypedPath, parameter: SearchParameter, references: References
) -> Test:
    """The test of an element at one path against the values of a criterion, which are all of one class.

    Values are prepared once and, where possible, looked up in a set, because a criterion may have a thousand of them (law 38).
    """
    match values[0]:
        case TokenValue() if modifier == "identifier":
            return tokens.reference_identifier_test(_all(values, TokenValue))
        case TokenValue():
            return tokens.token_test(_all(values, TokenValue), path)
        case TypedIdentifierValue():
            return tokens.identifier_type_test(_all(values, TypedIdentifierValue))
        case TextValue() if parameter.type == "token":
            return tokens.token_text_test(_all(values, TextValue), path)
        case TextValue() if parameter.type == "uri":
            return texts.uri_test([value.text for value in _all(values, TextValue)], modifier, path)
        case TextValue():
            return texts.string_test([value.text for value in _all(values, TextValue)], modifier, path)
        case DateValue():
            return ordered.date_test(_all(values, DateValue), path)
        case NumberValue():
            return ordered.number_test(_all(values, NumberValue))
        case QuantityValue():
            return ordered.quantity_test(_all(values, QuantityValue), path)
        case ReferenceValue():
            return targets.reference_test(_all(values, ReferenceValue), path, parameter.target, references)
        case CompositeValue():
            raise TypeError("a composite inside a composite")


def _all(values: Sequence[Value], kind: type[V]) -> list[V]:
    found: list[V] = [value for value in values if isinstance(value, kind)]
    if len(found) != len(values):
        raise TypeError("a criterion with values of several kinds")
    return found
