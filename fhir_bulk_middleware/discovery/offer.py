"""The features of a mount, from which its descriptions are derived."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.storage import (
    SupportsContext,
    SupportsDeletions,
    SupportsExport,
    SupportsGroups,
    SupportsJoining,
    SupportsOrganising,
    SupportsProvenance,
    SupportsSnapshot,
    SupportsTypes,
)
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.discovery.openapi_parameters import PARAMETERS, ExportParameter
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.routes import KICK_OFF_PATHS, ONE_PATIENT_PATH, Row
from fhir_bulk_middleware.outcomes import Operation
from fhir_bulk_middleware.settings import Settings

__all__ = ["Offer"]

_NEEDS: Mapping[str, type] = {"includeAssociatedData": SupportsProvenance, "organizeOutputBy": SupportsOrganising}


@dataclass(frozen=True)
class Offer:
    """The features of a mount.

    Attributes:
        rows: its route table.
        dialect: its dialect.
        version: FHIR version of the resources.
        resources: the storage adapter; only its implemented protocols matter here.
        groups: the adapter for group members, or None.
        settings: the mount's settings, with the SMART configuration.
        retention: seconds for which finished jobs are kept.
        deletes: the delete policy; None without DELETE routes.
    """

    rows: tuple[Row, ...]
    dialect: Dialect
    version: FhirVersion
    resources: SupportsExport
    groups: SupportsGroups | None
    settings: Settings
    retention: float
    deletes: DeletePolicy | None = None

    @cached_property
    def kick_off(self) -> Mapping[Level, tuple[str, ...]]:
        """The kick-off methods by level, for the levels that this mount has."""
        found = {
            level: tuple(row.method for row in self.rows if row.operation is Operation.KICK_OFF and row.path == path)
            for level, path in KICK_OFF_PATHS.items()
        }
        return {level: methods for level, methods in found.items() if methods}

    @property
    def one_patient(self) -> bool:
        """Whether one patient can be exported at a path of its own."""
        return any(row.path == ONE_PATIENT_PATH for row in self.rows)

    @cached_property
    def types(self) -> frozenset[str]:
        """The types that the storage can export; empty if it does not name them (CS-06)."""
        return self.resources.exportable_types() if isinstance(self.resources, SupportsTypes) else frozenset()

    @cached_property
    def remove_alls(self) -> bool:
        """Whether the mount supports asynchronous remove-all."""
        conditional = any(row.operation is Operation.CONDITIONAL_DELETE for row in self.rows)
        return conditional and self.deletes is not None and self.deletes.remove_all_header is not None

    @property
    def snapshots(self) -> bool:
        """Whether exports are snapshots of one instant (law 6)."""
        return isinstance(self.resources, SupportsSnapshot)

    @property
    def deletions(self) -> bool:
        """Whether manifests list deleted resources (DR-01)."""
        return isinstance(self.resources, SupportsDeletions) and self.dialect.manifest.deleted

    @property
    def context(self) -> bool:
        """Whether Patient and Group exports hold what exported resources refer to (law 40)."""
        return self.settings.context and isinstance(self.resources, SupportsContext)

    @property
    def older_data_of_new_members(self) -> bool:
        """Whether all data of members who joined a group after `_since` is exported (GR-01)."""
        return self.settings.older_data_of_new_members and isinstance(self.groups, SupportsJoining)

    def parameters(self, level: Level, methods: Iterable[str] | None = None) -> tuple[ExportParameter, ...]:
        """The parameters of a kick-off at this level by one of these methods (default: all methods of the level)."""
        offered = self.kick_off.get(level, ()) if methods is None else tuple(methods)
        return tuple(parameter for parameter in PARAMETERS if self._takes(parameter, level, offered))

    def _takes(self, parameter: ExportParameter, level: Level, methods: tuple[str, ...]) -> bool:
        if parameter.name not in self.dialect.parameters or level not in parameter.levels:
            return False
        if parameter.name in self.dialect.post_only and "POST" not in methods:
            return False
        needed = _NEEDS.get(parameter.name)
        return needed is None or isinstance(self.resources, needed)
