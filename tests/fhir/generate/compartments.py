"""CompartmentMembership, joined with the paths of the search parameters that they name."""

from collections.abc import Iterable, Mapping
from typing import Any

from .lowering import LoweringError
from .parameters import Table

_ITSELF = "{def}"


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


def tabulate_forgotten(patient: Table, parameters: Table) -> Table:
    """Types that are not in HL7's Patient compartment although they have a reference parameter `patient`, with its paths.

    R4's Device is one: `Device?patient=1` finds the devices of a patient, and the CompartmentDefinition does not name them.

    Args:
        patient: the row of the Patient compartment, by type.
        parameters: the table of search parameters.

    Raises:
        LoweringError: If the paths of such a parameter are not known exactly.
    """
    found = {type_: rows["patient"] for type_, rows in parameters.items() if type_ not in patient and "patient" in rows}
    return {type_: sorted(_membership_paths(row, "Patient")) for type_, row in found.items() if row["type"] == "reference"}


def _membership_paths(row: Table, kind: str) -> list[str]:
    """The reference paths of a parameter that can hold a reference to the compartment's own type."""
    if row["type"] != "reference" or "unsupported" in row:
        raise LoweringError(f"a compartment needs {row}")
    paths = []
    for path, type_, *_ in row["paths"]:
        plain, _, condition = path.partition(".where(")
        if type_ != "Reference":
            continue  # a canonical URL never names a patient, an encounter, a practitioner or a device
        # Only references to the compartment's type count, so that its own `resolve()` filter says nothing new.
        if condition in {"", f"resolve() is {kind})"}:
            paths.append(plain)
        elif not (condition.startswith("resolve() is ") and condition.endswith(")")):
            raise LoweringError(f"a compartment needs {path}")
    return paths
