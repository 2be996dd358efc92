"""Search parameters and compartments, made into rows of the definition table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fhir_bulk_middleware.fhir.fhirpath import Call, Literal, Member, Node, Operation, branches, first_name, parse
from fhir_bulk_middleware.fhir.lowering import LoweringError, Place, Schema, lower

Table = dict[str, Any]

_ITSELF = "{def}"
_STRINGS = frozenset({"string", "markdown", "HumanName", "Address", "code", "uri"})
_URIS = frozenset({"uri", "url", "canonical", "oid", "uuid"})

APPLICABLE: Mapping[str, frozenset[str]] = {
    "token": frozenset({"code", "Coding", "CodeableConcept", "CodeableReference", "Identifier", "ContactPoint"})
    | {"boolean", "id", "string", "positiveInt", "Quantity"}
    | _URIS,
    "string": _STRINGS,
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


def tabulate_parameters(sources: Iterable[Mapping[str, Any]], types: Sequence[str], schema: Schema) -> Table:
    """Rows by resource type and parameter name; parameters of every type stand under `Resource`."""
    by_url = {source["url"]: source for source in sources}
    known = {*types, "Resource"}
    rows: Table = {}
    for source in by_url.values():
        for base in source.get("base", ()):
            if base in known:
                rows.setdefault(base, {})[source["code"]] = _row(source, base, by_url, schema)
    for row in (row for parameters in rows.values() for row in parameters.values()):
        if set(types) <= set(row.get("target", ())):
            row["target"] = ["Resource"]
    return rows


def tabulate_compartments(sources: Iterable[Mapping[str, Any]], parameters: Table) -> Table:
    """Per compartment and resource type, the reference paths that put a resource into it.

    A type whose own id makes it a member (`{def}`) has a row that may be empty.

    Raises:
        LoweringError: If a compartment names a parameter whose paths are not known exactly: it must not be left out.
    """
    table: Table = {}
    for source in sources:
        kind, rows = source["code"], {}
        for resource in source["resource"]:
            if resource.get("param"):
                names = [name for name in resource["param"] if name != _ITSELF]
                found = [_membership_paths(parameters[resource["code"]][name], kind) for name in names]
                rows[resource["code"]] = sorted({path for paths in found for path in paths})
        table[kind] = rows
    return table


def _membership_paths(row: Table, kind: str) -> list[str]:
    """The reference paths of a parameter that can hold a reference to the compartment's own type."""
    if row["type"] != "reference" or "unsupported" in row:
        raise LoweringError(f"a compartment needs {row}")
    paths = []
    for path, type_ in row["paths"]:
        plain, _, condition = path.partition(".where(")
        if type_ != "Reference":
            continue  # a canonical URL never names a patient, an encounter, a practitioner or a device
        # Only references to the compartment's type count, so that its own `resolve()` filter says nothing new.
        if condition in {"", f"resolve() is {kind})"}:
            paths.append(plain)
        elif not (condition.startswith("resolve() is ") and condition.endswith(")")):
            raise LoweringError(f"a compartment needs {path}")
    return paths


def _row(source: Mapping[str, Any], base: str, by_url: Mapping[str, Mapping[str, Any]], schema: Schema) -> Table:
    row: Table = {"type": source["type"]}
    if source.get("target"):
        row["target"] = sorted(source["target"])
    try:
        texts = _branches_of(source, base)
        row["expression"] = " | ".join(texts)
        nodes = [parse(text) for text in texts]
        context = [Place("", base, base)]
        if source["type"] == "composite":
            row |= _composite(source, nodes, context, by_url, schema)
        else:
            row |= _simple(source["type"], nodes, context, schema)
    except LoweringError as error:
        row["unsupported"] = str(error)
        row["paths"] = []
    return row


def _branches_of(source: Mapping[str, Any], base: str) -> list[str]:
    """The branches of a shared expression that speak of this type: those that name it, or else those that name none."""
    texts = branches(source.get("expression", ""))
    if not texts:
        raise LoweringError("HL7 defines no expression for it")
    named = {text: first_name(parse(text)) or "" for text in texts}
    found = [text for text, name in named.items() if name == base] or [t for t, name in named.items() if name[:1].islower()]
    if not found:
        raise LoweringError(f"its expression says nothing of {base}")
    return found


def _simple(kind: str, nodes: Sequence[Node], context: Sequence[Place], schema: Schema) -> Table:
    row: Table = {"paths": []}
    for node in nodes:
        match node:
            case Operation(operator="and", left=Call(base=Member() as subject, name="exists"), right=Operation() as test) if (
                test == Operation("!=", subject, Literal(value=False))
            ):
                # "is there, and is not false": a boolean that every resource has a value for
                row["holds"] = True
                row["paths"] += _leaves(None, lower(subject, context, schema))
            case Call(base=union, name="first", arguments=()) if union is not None and len(nodes) == 1:
                row["first"] = True
                row["paths"] += _leaves(kind, lower(union, context, schema))
            case _:
                row["paths"] += _leaves(kind, lower(node, context, schema))
    if not row["paths"]:
        raise LoweringError("its expression leads to types that cannot stand there")
    row["paths"] = [list(path) for path in dict.fromkeys(row["paths"])]
    return row


def _composite(
    source: Mapping[str, Any],
    nodes: Sequence[Node],
    context: Sequence[Place],
    by_url: Mapping[str, Mapping[str, Any]],
    schema: Schema,
) -> Table:
    """Each place of a composite is a root of its own, from which its components are read."""
    roots = []
    for place in (found for node in nodes for found in lower(node, context, schema)):
        inner = [Place("", place.type, place.element)]
        components = []
        for component in source["component"]:
            parameter = by_url.get(component["definition"])
            if parameter is None:
                raise LoweringError(f"{component['definition']} is not defined")
            kind = parameter["type"]
            components.append(
                {
                    "type": kind,
                    **_simple(kind, [parse(text) for text in branches(component["expression"])], inner, schema),
                }
            )
        roots.append({"path": place.path, "components": components})
    return {"paths": [], "roots": roots}


def _leaves(kind: str | None, places: Collection[Place]) -> list[tuple[str, str]]:
    """Paths and types of those places that this kind of parameter can be matched on."""
    if kind is None:
        return [(place.path, place.type) for place in places]
    if kind not in APPLICABLE:
        raise LoweringError(f"a {kind} parameter cannot be matched on elements")
    leaves = []
    for place in places:
        if place.inline or place.type not in APPLICABLE[kind]:
            continue
        step, type_ = _CODEABLE_REFERENCE.get(kind, ("", "")) if place.type == "CodeableReference" else ("", place.type)
        leaves.append((f"{place.path}.{step}" if step else place.path, type_))
    if places and not leaves:
        raise LoweringError(f"a {kind} cannot be matched on {', '.join(sorted({place.type for place in places}))}")
    return leaves
