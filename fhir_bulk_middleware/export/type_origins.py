"""How the resources of a type get into an export: by the selection, or as context that exported resources name (law 40)."""

from collections import deque

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Selection
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion

__all__ = ["TypeOrigins"]


class TypeOrigins:
    """Tells for each resource type whether a selection can hold it, and whether references can lead to it.

    Depends on the FHIR release and on the kinds of the selected owners only, so a planned job has the same answers as its
    kick-off. At Group level the group's members at the cut decide.

    Args:
        version: FHIR version of the resources.
        selection: whose resources are exported.
    """

    def __init__(self, version: FhirVersion, selection: Selection) -> None:
        self._definitions = definitions(version)
        self._in_compartments: frozenset[str] | None = None  # None: the selection can hold every type
        match selection:
            case EveryPatient():
                owners = frozenset({"Patient"})
            case Compartments(references):
                owners = frozenset(reference.partition("/")[0] for reference in references) | {"Patient"}
            case _:
                return
        membership = CompartmentMembership(version)
        self._in_compartments = frozenset[str]().union(*map(membership.types, owners & membership.kinds))

    @property
    def bounded(self) -> bool:
        """Whether the selection is of compartments, so that context may come beside it."""
        return self._in_compartments is not None

    def selected(self, types: frozenset[str]) -> frozenset[str]:
        """Those of `types` whose resources the selection can hold."""
        return types if self._in_compartments is None else types & self._in_compartments

    def possible(self, types: frozenset[str]) -> frozenset[str]:
        """Those of `types` that the selection can hold, or that reference elements lead to from what it can hold."""
        if self._in_compartments is None:
            return types
        reached, waiting = set(self._in_compartments), list(self._in_compartments)
        while waiting:
            following = self._targets(waiting.pop()) - reached
            reached |= following
            waiting += following
        return types & reached

    def naming(self, wanted: frozenset[str], types: frozenset[str]) -> frozenset[str]:
        """Those of `types` that the selection can hold and that have a reference element for one of `wanted`."""
        return frozenset(type_ for type_ in self.selected(types) if not wanted.isdisjoint(self._targets(type_)))

    def chain(self, wanted: frozenset[str], types: frozenset[str]) -> tuple[str, ...]:
        """The fewest of `types` by which references lead from the selection to one of `wanted`; empty if none do."""
        waiting: deque[tuple[str, ...]] = deque((type_,) for type_ in sorted(self.selected(types)))
        seen = set(self.selected(types))
        while waiting:
            chain = waiting.popleft()
            following = self._targets(chain[-1])
            if not wanted.isdisjoint(following):
                return chain
            for type_ in sorted((following & types) - seen):
                seen.add(type_)
                waiting.append((*chain, type_))
        return ()

    def _targets(self, type_: str) -> frozenset[str]:
        """The types that references name; none of a type that the release does not have."""
        known = self._definitions.resource_types
        return self._definitions.reference_targets(type_) if type_ in known else frozenset()
