"""The root members of a resource that `_elements` keeps."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import zip_longest

from fhir_bulk_middleware.fhir.definitions import Definitions, RootElement, definitions
from fhir_bulk_middleware.fhir.version import FhirVersion

_ALWAYS = ("id", "meta")
_CHOICE = "[x]"
_LONGEST_NAME = 80


class ElementsError(ValueError):
    """An entry of `_elements` that names no root element of the release.

    Attributes:
        part: The entry, cut to 80 characters.
    """

    def __init__(self, part: str, problem: str) -> None:
        self.part = part[:_LONGEST_NAME]
        super().__init__(f"{self.part}: {problem}")


class ElementSelection:
    """The checked entries of `_elements`, and the root members that they keep of each resource type.

    An entry is `Type.element`, or `element` for all types that have it (EL-01); a choice element is `value` or
    `value[x]`. A type without a matching entry is not restricted.

    Args:
        version: The release of the resources.
        asked: The entries, already split at the commas.

    Raises:
        ElementsError: If an entry is empty, goes below the root, or names a type or element that the release does not
        have.
    """

    def __init__(self, version: FhirVersion, asked: Iterable[str]) -> None:
        self._definitions = definitions(version)
        self._everywhere: set[str] = set()
        self._of_type: dict[str, set[str]] = {}
        self._keys: dict[str, frozenset[str] | None] = {}
        for entry in asked:
            self._add(entry)

    def keys(self, type_: str) -> frozenset[str] | None:
        """The root members to keep of a resource of this type, or None if all are kept.

        These are the requested elements, `resourceType`, `id`, `meta` and the mandatory elements (EL-02), each with
        all keys of a choice and, for a primitive element, the key of its extensions (`_birthDate`).

        Raises:
            KeyError: If the release has no such type.
        """
        if type_ not in self._keys:
            self._keys[type_] = self._kept(type_)
        return self._keys[type_]

    def _kept(self, type_: str) -> frozenset[str] | None:
        elements = self._definitions.elements(type_)
        asked = (self._everywhere & elements.keys()) | self._of_type.get(type_, set())
        if not asked:
            return None
        names = asked | self._definitions.mandatory(type_) | (set(_ALWAYS) & elements.keys())
        return frozenset(key for name in names for key in _keys(elements[name])) | {"resourceType"}

    def _add(self, entry: str) -> None:
        head, dot, rest = entry.partition(".")
        type_, name = (head, rest) if dot else ("", head)
        if dot and type_ not in self._definitions.resource_types:
            raise ElementsError(entry, "names no resource type before the dot")
        if "." in name:
            raise ElementsError(entry, "only root elements can be asked for")
        if type_:
            elements = self._definitions.elements(type_)
            _check(entry, name, elements.get(name.removesuffix(_CHOICE)), elements.values())
            self._of_type.setdefault(type_, set()).add(name.removesuffix(_CHOICE))
        else:
            types = sorted(self._definitions.resource_types)
            everywhere = (element for each in types for element in self._definitions.elements(each).values())
            _check(entry, name, _anywhere(self._definitions, name.removesuffix(_CHOICE)), everywhere)
            self._everywhere.add(name.removesuffix(_CHOICE))


def _anywhere(known: Definitions, name: str) -> RootElement | None:
    """An element of that name in any type; one that is a choice, if there is one."""
    return _by_name(known).get(name)


@cache
def _by_name(known: Definitions) -> Mapping[str, RootElement]:
    """The result of `_anywhere` by name; cached, because a request may name a thousand elements."""
    found: dict[str, RootElement] = {}
    for elements in map(known.elements, sorted(known.resource_types)):
        for name, element in elements.items():
            if name not in found or (element.choice and not found[name].choice):
                found[name] = element
    return found


def _check(entry: str, name: str, element: RootElement | None, others: Iterable[RootElement]) -> None:
    """Refuse an entry that names no element. If it names a choice with its type, the message has the name of the choice."""
    if element is None:
        if choice := next((other.name for other in others if other.choice and name in other.keys), None):
            raise ElementsError(entry, f"names a type of the choice {choice}; ask for {entry.removesuffix(name)}{choice}")
        raise ElementsError(entry, "names no root element")
    if name.endswith(_CHOICE) and not element.choice:
        raise ElementsError(entry, "is not a choice of types")


def _keys(element: RootElement) -> Iterator[str]:
    for key, type_ in zip_longest(element.keys, element.types, fillvalue=""):
        yield key
        if type_[:1].islower():
            yield f"_{key}"
