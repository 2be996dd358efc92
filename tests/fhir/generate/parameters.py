"""Search parameters, made into rows of the definition table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fhirpath import (
    Call,
    Literal,
    Member,
    Node,
    Operation,
    branches,
    first_name,
    parse,
)
from .lowering import LoweringError, Place, Schema, lower

Table = dict[str, Any]

_URIS = frozenset({"uri", "url", "canonical", "oid", "uuid"})

APPLICABLE: Mapping[str, frozenset[str]] = {
    "token": frozenset({"code", "Coding", "CodeableConcept", "CodeableReference", "Identifier", "ContactPoint"})
    | {"boolean", "id", "string"}
    | _URIS,
    "string": frozenset({"string", "markdown", "HumanName", "Address"}),
    "date": frozenset({"date", "dateTime", "instant", "Period", "Timing"}),
    "reference": frozenset({"Reference", "CodeableReference"}) | _URIS,
    "quantity": frozenset(
        {"Quantity", "Age", "Duration", "Distance", "Count", "Money", "SimpleQuantity", "Range", "SampledData"}
    ),
    "number": frozenset({"integer", "decimal", "positiveInt", "unsignedInt", "integer64"}),
    "uri": _URIS,
}
"""The data types that each type of search parameter can be matched on."""

_CODEABLE_REFERENCE = {"token": ("concept", "CodeableConcept"), "reference": ("reference", "Reference")}


@dataclass(frozen=True, slots=True)
class Specification:
    """What rows are made from: SearchParameters by URL, elements by type, and the one code system of a value set."""

    parameters: Mapping[str, Mapping[str, Any]]
    schema: Schema
    systems: Mapping[str, str]


def read_systems(value_sets: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The code system of each value set that draws from just one."""
    systems: dict[str, str] = {}
    for value_set in value_sets:
        parts = value_set.get("compose", {}).get("include", ())
        found = {"" if "valueSet" in part else part.get("system", "") for part in parts}
        if len(found) == 1 and "" not in found:
            systems[value_set["url"]] = found.pop()
    return systems


def tabulate_parameters(specification: Specification, types: Sequence[str]) -> Table:
    """Rows by resource type and parameter name; parameters of every type stand under `Resource`."""
    known = {*types, "Resource"}
    rows: Table = {}
    for source in specification.parameters.values():
        for base in source.get("base", ()):
            if base in known:
                rows.setdefault(base, {})[source["code"]] = _row(source, base, specification)
    for row in (row for parameters in rows.values() for row in parameters.values()):
        if set(types) <= set(row.get("target", ())):
            row["target"] = ["Resource"]
    return rows


def _row(source: Mapping[str, Any], base: str, specification: Specification) -> Table:
    row: Table = {"type": source["type"]}
    if source.get("target"):
        row["target"] = sorted(source["target"])
    try:
        texts = _branches_of(source, base)
        row["expression"] = " | ".join(texts)
        nodes = [parse(text) for text in texts]
        context = [Place("", base, base)]
        if source["type"] == "composite":
            row |= _composite(source, nodes, context, specification)
        else:
            row |= _simple(source["type"], nodes, context, specification)
    except LoweringError as error:
        row["unsupported"] = str(error)
        row["paths"] = []
    return row


def _branches_of(source: Mapping[str, Any], base: str) -> list[str]:
    """The branches of a shared expression that speak of this type: those that name it, or else those that name none."""
    usage = source.get("xpathUsage") or source.get("processingMode") or "normal"  # R4 and R5 name it differently
    if usage != "normal":
        raise LoweringError(f"its values are matched in a {usage!r} way")
    texts = branches(source.get("expression", ""))
    if not texts:
        raise LoweringError("HL7 defines no expression for it")
    named = {text: first_name(parse(text)) or "" for text in texts}
    found = [text for text, name in named.items() if name == base] or [t for t, name in named.items() if name[:1].islower()]
    if not found:
        raise LoweringError(f"its expression says nothing of {base}")
    return found


def _simple(kind: str, nodes: Sequence[Node], context: Sequence[Place], specification: Specification) -> Table:
    schema, systems = specification.schema, specification.systems
    row: Table = {"paths": []}
    for node in nodes:
        match node:
            case Operation(operator="and", left=Call(base=Member() as subject, name="exists"), right=Operation() as test) if (
                test == Operation("!=", subject, Literal(value=False))
            ):
                # "is there, and is not false": a boolean that every resource has a value for
                row["holds"] = True
                row["paths"] += _leaves(None, lower(subject, context, schema), systems)
            case Call(base=union, name="first", arguments=()) if union is not None and len(nodes) == 1:
                row["first"] = True
                row["paths"] += _leaves(kind, lower(union, context, schema), systems)
            case _:
                row["paths"] += _leaves(kind, lower(node, context, schema), systems)
    if not row["paths"]:
        raise LoweringError("its expression leads to types that cannot stand there")
    row["paths"] = [list(path) for path in dict.fromkeys(row["paths"])]
    return row


def _composite(
    source: Mapping[str, Any],
    nodes: Sequence[Node],
    context: Sequence[Place],
    specification: Specification,
) -> Table:
    """Each place of a composite is a root of its own, from which its components are read."""
    roots = []
    for place in (found for node in nodes for found in lower(node, context, specification.schema)):
        inner = [Place("", place.type, place.element)]
        components = []
        for component in source["component"]:
            parameter = specification.parameters.get(component["definition"])
            if parameter is None:
                raise LoweringError(f"{component['definition']} is not defined")
            kind = parameter["type"]
            components.append(
                {
                    "type": kind,
                    **_simple(kind, [parse(text) for text in branches(component["expression"])], inner, specification),
                }
            )
        roots.append({"path": place.path, "components": components})
    return {"paths": [], "roots": roots}


def _leaves(kind: str | None, places: Collection[Place], systems: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Paths and types (and, of codes, the system) of those places that this kind of parameter can be matched on."""
    if kind is None:
        return [(place.path, place.type) for place in places]
    if kind not in APPLICABLE:
        raise LoweringError(f"a {kind} parameter cannot be matched on elements")
    leaves: list[tuple[str, ...]] = []
    for place in places:
        if place.inline or place.type not in APPLICABLE[kind]:
            if not place.chosen:
                raise LoweringError(f"a {kind} cannot be matched on {place.type}")
        elif place.type == "CodeableReference":
            step, type_ = _CODEABLE_REFERENCE[kind]
            leaves.append((f"{place.path}.{step}", type_))
        elif place.type == "code" and place.binding in systems:
            leaves.append((place.path, place.type, systems[place.binding or ""]))
        else:
            leaves.append((place.path, place.type))
    if places and not leaves:
        raise LoweringError(f"a {kind} cannot be matched on {', '.join(sorted({place.type for place in places}))}")
    return leaves
