"""Tests of elements against reference values."""

from collections.abc import Collection, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test
from fhir_bulk_middleware.fhir.reference import Reference, References
from fhir_bulk_middleware.fhir.search.texts import uri_test
from fhir_bulk_middleware.fhir.search.values import ReferenceValue


def reference_test(values: Collection[ReferenceValue], path: TypedPath, targets: frozenset[str], references: References) -> Test:
    """Whether the element refers to the same resource of this server, in any spelling, or to the same foreign URL.

    An id alone means any target type of the parameter. A relative value matches references with any version; an absolute value
    matches only references without one.
    """
    urls = frozenset(value.url for value in values if value.url is not None)
    if path.type != "Reference":
        return uri_test(urls, None, path) if urls else lambda _node: False
    wanted: dict[str, list[tuple[str | None, bool]]] = {}  # by id: the type, and whether a version prevents a match
    foreign: set[str] = set()
    for value in values:
        own = references.parse(value.url) if value.url is not None else None
        if own is not None:
            wanted.setdefault(own.id, []).append((own.type, True))
        elif value.id is not None:
            wanted.setdefault(value.id, []).append((value.type, False))
        elif value.url is not None:
            foreign.add(value.url)

    def test(node: Any) -> bool:
        text = node.get("reference") if isinstance(node, Mapping) else None
        if not isinstance(text, str):
            return False
        if text in foreign:
            return True
        found = references.parse(text) if wanted else None
        if found is None:
            return False
        meant = wanted.get(found.id, ())
        return any(_leads(type_, found, targets) for type_, unversioned in meant if not (unversioned and found.version))

    return test


def _leads(type_: str | None, found: Reference, targets: frozenset[str]) -> bool:
    return found.type == type_ if type_ is not None else not targets or bool(targets & {found.type, "Resource"})
