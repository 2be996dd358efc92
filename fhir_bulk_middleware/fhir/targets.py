"""Tests of a reference against an element: what it leads to."""

from collections.abc import Mapping
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.texts import uri_test
from fhir_bulk_middleware.fhir.values import ReferenceValue, TextValue


def reference_test(value: ReferenceValue, path: TypedPath, targets: frozenset[str], references: References) -> Test:
    """The same resource of this server, however it is named; or the same foreign URL.

    An id alone means any type that the parameter may lead to. A relative value is met by a reference to any version,
    an absolute one only by a reference to none.
    """
    if path.type != "Reference":
        return uri_test(TextValue(value.url), None, path) if value.url is not None else lambda _node: False
    own = references.parse(value.url) if value.url is not None else None
    type_, id_ = (own.type, own.id) if own is not None else (value.type, value.id)

    def test(node: Any) -> bool:
        text = node.get("reference") if isinstance(node, Mapping) else None
        if not isinstance(text, str):
            return False
        if id_ is None:
            return text == value.url
        found = references.parse(text)
        if found is None or found.id != id_ or (own is not None and found.version is not None):
            return False
        return found.type == type_ if type_ is not None else not targets or bool(targets & {found.type, "Resource"})

    return test
