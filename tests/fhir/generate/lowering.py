"""From HL7's search expressions to concrete JSON paths, with the help of the StructureDefinitions.

`Observation.value as Quantity` becomes `valueQuantity`, `Patient.deceased` becomes `deceasedBoolean` and
`deceasedDateTime`. Choice types, casts and the types of every leaf are settled here, once, by the generator, so that
evaluation needs no schema and no guesses. An expression that cannot be settled exactly is refused here, and then a
search that uses it is refused too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .fhirpath import Call, Index, Literal, Member, Node, Operation

_FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
_INLINE = frozenset({"BackboneElement", "Element"})
_REFERENCES = frozenset({"Reference", "CodeableReference"})


class LoweringError(ValueError):
    """The expression has no exact concrete paths; the message says what stands in the way."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a StructureDefinition's snapshot."""

    types: tuple[str, ...]
    minimum: int
    choice: bool
    content: str | None  # the element of the same definition whose content this one repeats
    binding: str | None  # the value set that a code must be from
    targets: tuple[str, ...] = ()  # the resource types that a reference may name


@dataclass(frozen=True, slots=True)
class Place:
    """A concrete JSON path and what stands there: a type, or (for inline structures) an element of a definition."""

    path: str
    type: str  # the data type; for an inline structure, the resource or type that defines it
    element: str  # the element of that definition; equals `type` where the whole type stands here
    chosen: bool = False  # one of several types that the expression left open
    binding: str | None = None  # the value set that a code there must be from

    @property
    def inline(self) -> bool:
        """Whether a structure without a name of its own stands here."""
        return self.element != self.type

    def step(self, text: str, type_: str, element: str) -> "Place":
        """The place one path step further on."""
        return Place(f"{self.path}.{text}" if self.path else text, type_, element)


Schema = Mapping[str, Mapping[str, Element]]
"""Definitions by type name, each with its elements by path (`Patient.contact.name`; choices without their `[x]`)."""


def read_elements(definition: Mapping[str, Any]) -> dict[str, Element]:
    """The elements of a StructureDefinition, from its snapshot."""
    elements = {}
    for element in definition["snapshot"]["element"]:
        path: str = element["path"]
        logical_id = definition["kind"] == "resource" and path == f"{definition['type']}.id"
        content = element.get("contentReference")
        elements[path.removesuffix("[x]")] = Element(
            types=("id",) if logical_id else tuple(dict.fromkeys(map(_type_name, element.get("type", ())))),
            minimum=element["min"],
            choice=path.endswith("[x]"),
            content=None if content is None else content.rpartition("#")[2],
            binding=_required(element.get("binding", {})),
            targets=tuple(name for kind in element.get("type", ()) for name in _target_types(kind)),
        )
    return elements


def _target_types(kind: Mapping[str, Any]) -> list[str]:
    """The resource types that a reference of this type may name; empty for other types, and for a reference to any type."""
    if kind["code"] not in _REFERENCES:
        return []
    return [str(profile).rpartition("/")[2] for profile in kind.get("targetProfile", ())]


def _required(binding: Mapping[str, Any]) -> str | None:
    value_set: str = binding.get("valueSet", "")
    return value_set.partition("|")[0] if value_set and binding["strength"] == "required" else None


def _type_name(kind: Mapping[str, Any]) -> str:
    code: str = kind["code"]
    if "/" not in code:
        return code
    for extension in kind.get("extension", ()):
        if extension["url"] == _FHIR_TYPE:
            return str(extension.get("valueUrl") or extension["valueUri"])
    return "string"


def choice_key(name: str, type_: str) -> str:
    """The JSON key of a choice element with this type: `value` and `dateTime` give `valueDateTime`."""
    return name + type_[0].upper() + type_[1:]


def lower(node: Node, context: Sequence[Place], schema: Schema) -> list[Place]:  # noqa: PLR0911 - a case per form
    """Every concrete place that the expression leads to from the context, in the order of the expression.

    Raises:
        LoweringError: If a part of it leads nowhere or is beyond concrete paths.
    """
    match node:
        case Member(base=None, name=name) if context and context[0].path == "" and name in {context[0].type, "Resource"}:
            return list(context)
        case Member(base=base, name=name):
            return _children(_bases(base, context, schema), name, schema)
        case Index(base=base, position=0):
            raise LoweringError("positions are not concrete paths")
        case Operation(operator="|", left=left, right=right):
            return lower(left, context, schema) + lower(right, context, schema)
        case Operation(operator="as", left=left, right=Member(base=None, name=name)):
            return _cast(lower(left, context, schema), name)
        case Call(base=base, name="as" | "ofType", arguments=(Member(base=None, name=name),)):
            return _cast(_bases(base, context, schema), name)
        case Call(base=base, name="where", arguments=(condition,)):
            return [_filtered(place, condition, schema) for place in _bases(base, context, schema)]
        case Call(base=base, name="extension", arguments=(Literal(value=str(url)),)):
            extensions = _children(_bases(base, context, schema), "extension", schema)
            return [_suffixed(place, f".where(url='{url}')") for place in extensions]
        case _:
            raise LoweringError(f"{_describe(node)} is beyond concrete paths")


def _bases(base: Node | None, context: Sequence[Place], schema: Schema) -> list[Place]:
    return list(context) if base is None else lower(base, context, schema)


def _children(places: Sequence[Place], name: str, schema: Schema) -> list[Place]:
    """All children of that name; where several types may stand, those that have one."""
    found = [child for place in places for child in _child(place, name, schema)]
    if not found:
        raise LoweringError(f"there is no element {name!r} at {', '.join(place.element for place in places) or 'nowhere'}")
    return found


def _child(place: Place, name: str, schema: Schema) -> list[Place]:
    elements = schema.get(place.type, {})
    element = elements.get(f"{place.element}.{name}")
    if element is None:
        return []
    if element.content is not None:
        return [place.step(name, place.type, element.content)]
    children = []
    for type_ in element.types:
        key = choice_key(name, type_) if element.choice else name
        if type_ in _INLINE:
            children.append(place.step(key, place.type, f"{place.element}.{name}"))
        else:
            child = place.step(key, type_, type_)
            children.append(replace(child, chosen=element.choice, binding=element.binding))
    return children


def _cast(places: Sequence[Place], name: str) -> list[Place]:
    # A cast to a type that cannot stand there is empty in FHIRPath, not an error; HL7 has some of them.
    kept = [place for place in places if not place.inline and place.type.lower() == name.lower()]
    return [replace(place, chosen=False) for place in kept]


def _filtered(place: Place, condition: Node, schema: Schema) -> Place:
    match condition:
        case Operation(operator="is", left=Call(base=None, name="resolve"), right=Member(base=None, name=type_)):
            return _suffixed(place, f".where(resolve() is {type_})")
        case Operation(operator="=", left=left, right=Literal(value=str(value))):
            tested = lower(left, [Place("", place.type, place.element)], schema)
            if len(tested) != 1 or tested[0].type not in {"code", "string", "uri"}:
                raise LoweringError(f"a filter on {', '.join(test.type for test in tested)} is beyond concrete paths")
            return _suffixed(place, f".where({tested[0].path}='{value}')")
        case _:
            raise LoweringError(f"the filter {_describe(condition)} is beyond concrete paths")


def _suffixed(place: Place, suffix: str) -> Place:
    return replace(place, path=place.path + suffix)


def _describe(node: Node) -> str:
    match node:
        case Call(name=name):
            return f"the function {name}()"
        case Operation(operator=operator):
            return f"the operator {operator!r}"
        case Index():
            return "a position"
        case Member(name=name):
            return f"the name {name!r}"
        case Literal():
            return "a literal"
