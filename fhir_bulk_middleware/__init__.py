"""FHIR Bulk Data export and safe deletes for existing FHIR servers.

Everything that a host or the author of an adapter needs is importable from here, and this is all whose names stay. The names
are imported when they are first used: a worker process, which needs few of them, starts sooner.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fhir_bulk_middleware.app import BulkData
    from fhir_bulk_middleware.contract.access import Caller, Owner, Principal, TokenRejected, TokenVerifier
    from fhir_bulk_middleware.contract.deletes import (
        DeletionLog,
        SupportsBatchDelete,
        SupportsConditionalDelete,
        SupportsDelete,
        SupportsLockedDelete,
        SupportsOutbox,
    )
    from fhir_bulk_middleware.contract.filters import Filters
    from fhir_bulk_middleware.contract.job import Job, JobKind, JobState, Lease, Part, Slice
    from fhir_bulk_middleware.contract.job_store import JobRetention, JobStore, WorkQueue
    from fhir_bulk_middleware.contract.observer import Audit, Observer
    from fhir_bulk_middleware.contract.output_store import OutputSink, OutputStore
    from fhir_bulk_middleware.contract.query import (
        Authorisation,
        Block,
        Compartments,
        Deletions,
        EveryPatient,
        Everything,
        Filter,
        Level,
        Membership,
        Page,
        ProvenanceTarget,
        Query,
        Range,
        Rows,
        Selection,
        Window,
    )
    from fhir_bulk_middleware.contract.registration import NotAdmitted
    from fhir_bulk_middleware.contract.removal import (
        AlreadyDeleted,
        Batch,
        BatchId,
        BatchProgress,
        Current,
        Matches,
        NeverExisted,
        Protected,
        Removed,
        Report,
        Target,
        Version,
        VersionMismatch,
    )
    from fhir_bulk_middleware.contract.running import JobRunner, Recipe, SupportsWorkerProcess, Work
    from fhir_bulk_middleware.contract.storage import (
        SupportsAudit,
        SupportsDeletionHorizon,
        SupportsDeletions,
        SupportsExport,
        SupportsForgetting,
        SupportsGroups,
        SupportsJoining,
        SupportsOrganising,
        SupportsPatients,
        SupportsProvenance,
        SupportsRead,
        SupportsSlices,
        SupportsSnapshot,
        SupportsTypes,
    )
    from fhir_bulk_middleware.delete.policy import AIDBOX, FHIR_R4, FHIR_R6_DRAFT, DeletePolicy
    from fhir_bulk_middleware.dialects import (
        DIALECTS,
        HEALTH_CONNECT_AU,
        SOARIAN,
        STANDARD,
        STU2,
        STU3,
        STU4,
        SUBJECT_BOUND,
        Dialect,
    )
    from fhir_bulk_middleware.fhir.canonical import canonical, canonical_and_content
    from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
    from fhir_bulk_middleware.fhir.version import FhirVersion
    from fhir_bulk_middleware.instant import Clock, Instant, from_datetime, latest_cut, system_clock, to_datetime
    from fhir_bulk_middleware.jose import JoseTokenVerifier
    from fhir_bulk_middleware.middleware import BulkDataMiddleware
    from fhir_bulk_middleware.observers.audit_events import AuditEvents
    from fhir_bulk_middleware.observers.audit_file import AuditFile
    from fhir_bulk_middleware.observers.logs import LogEvents
    from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation, Reason, Refused
    from fhir_bulk_middleware.settings import Settings
    from fhir_bulk_middleware.stores.filesystem import FileOutputStore
    from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
    from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
    from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
    from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
    from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog
    from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
    from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

    __version__: str

__all__ = [
    "AIDBOX",
    "DIALECTS",
    "FHIR_R4",
    "FHIR_R6_DRAFT",
    "HEALTH_CONNECT_AU",
    "SOARIAN",
    "STANDARD",
    "STU2",
    "STU3",
    "STU4",
    "SUBJECT_BOUND",
    "AlreadyDeleted",
    "Audit",
    "AuditEvents",
    "AuditFile",
    "Authorisation",
    "Batch",
    "BatchId",
    "BatchProgress",
    "Block",
    "BulkData",
    "BulkDataMiddleware",
    "Caller",
    "Clock",
    "Compartments",
    "Criteria",
    "CriteriaError",
    "Current",
    "DeleteOutcome",
    "DeletePolicy",
    "DeletionLog",
    "Deletions",
    "Dialect",
    "EveryPatient",
    "Everything",
    "FhirVersion",
    "FileOutputStore",
    "Filter",
    "Filters",
    "Instant",
    "Job",
    "JobKind",
    "JobRetention",
    "JobRunner",
    "JobState",
    "JobStore",
    "JoseTokenVerifier",
    "Lease",
    "Level",
    "LogEvents",
    "Matches",
    "Membership",
    "MemoryDeletionLog",
    "MemoryJobStore",
    "MemoryOutputStore",
    "MemoryResourceStore",
    "NeverExisted",
    "NotAdmitted",
    "Observer",
    "Operation",
    "OutputSink",
    "OutputStore",
    "Owner",
    "Page",
    "Part",
    "Principal",
    "Protected",
    "ProvenanceTarget",
    "Query",
    "Range",
    "Reason",
    "Recipe",
    "Refused",
    "Removed",
    "Report",
    "Rows",
    "SQLiteDeletionLog",
    "SQLiteJobStore",
    "SQLiteResourceStore",
    "Selection",
    "Settings",
    "Slice",
    "SupportsAudit",
    "SupportsBatchDelete",
    "SupportsConditionalDelete",
    "SupportsDelete",
    "SupportsDeletionHorizon",
    "SupportsDeletions",
    "SupportsExport",
    "SupportsForgetting",
    "SupportsGroups",
    "SupportsJoining",
    "SupportsLockedDelete",
    "SupportsOrganising",
    "SupportsOutbox",
    "SupportsPatients",
    "SupportsProvenance",
    "SupportsRead",
    "SupportsSlices",
    "SupportsSnapshot",
    "SupportsTypes",
    "SupportsWorkerProcess",
    "Target",
    "TokenRejected",
    "TokenVerifier",
    "Version",
    "VersionMismatch",
    "Window",
    "Work",
    "WorkQueue",
    "__version__",
    "canonical",
    "canonical_and_content",
    "from_datetime",
    "latest_cut",
    "system_clock",
    "to_datetime",
]

_MODULES = {
    "app": ("BulkData",),
    "contract.access": ("Caller", "Owner", "Principal", "TokenRejected", "TokenVerifier"),
    "contract.job": ("Job", "JobKind", "JobState", "Lease", "Part", "Slice"),
    "contract.deletes": (
        "DeletionLog",
        "SupportsBatchDelete",
        "SupportsConditionalDelete",
        "SupportsDelete",
        "SupportsLockedDelete",
        "SupportsOutbox",
    ),
    "contract.filters": ("Filters",),
    "contract.job_store": ("JobRetention", "JobStore", "WorkQueue"),
    "contract.observer": ("Audit", "Observer"),
    "contract.output_store": ("OutputSink", "OutputStore"),
    "contract.running": ("JobRunner", "Recipe", "SupportsWorkerProcess", "Work"),
    "contract.storage": (
        "SupportsAudit",
        "SupportsDeletionHorizon",
        "SupportsDeletions",
        "SupportsExport",
        "SupportsForgetting",
        "SupportsGroups",
        "SupportsJoining",
        "SupportsOrganising",
        "SupportsPatients",
        "SupportsProvenance",
        "SupportsRead",
        "SupportsSlices",
        "SupportsSnapshot",
        "SupportsTypes",
    ),
    "contract.query": (
        "Authorisation",
        "Block",
        "Compartments",
        "Deletions",
        "EveryPatient",
        "Everything",
        "Filter",
        "Level",
        "Membership",
        "Page",
        "ProvenanceTarget",
        "Query",
        "Range",
        "Rows",
        "Selection",
        "Window",
    ),
    "contract.registration": ("NotAdmitted",),
    "contract.removal": (
        "AlreadyDeleted",
        "Batch",
        "BatchId",
        "BatchProgress",
        "Current",
        "Removed",
        "Matches",
        "NeverExisted",
        "Protected",
        "Report",
        "Target",
        "Version",
        "VersionMismatch",
    ),
    "delete.policy": ("AIDBOX", "FHIR_R4", "FHIR_R6_DRAFT", "DeletePolicy"),
    "dialects": ("DIALECTS", "HEALTH_CONNECT_AU", "SOARIAN", "STANDARD", "STU2", "STU3", "STU4", "SUBJECT_BOUND", "Dialect"),
    "fhir.canonical": ("canonical", "canonical_and_content"),
    "fhir.search.criteria": ("Criteria", "CriteriaError"),
    "fhir.version": ("FhirVersion",),
    "instant": ("Clock", "Instant", "from_datetime", "latest_cut", "system_clock", "to_datetime"),
    "jose": ("JoseTokenVerifier",),
    "middleware": ("BulkDataMiddleware",),
    "observers.audit_events": ("AuditEvents",),
    "observers.audit_file": ("AuditFile",),
    "observers.logs": ("LogEvents",),
    "outcomes": ("DeleteOutcome", "Operation", "Reason", "Refused"),
    "settings": ("Settings",),
    "stores.filesystem": ("FileOutputStore",),
    "stores.memory.deletions": ("MemoryDeletionLog",),
    "stores.memory.jobs": ("MemoryJobStore",),
    "stores.memory.outputs": ("MemoryOutputStore",),
    "stores.memory.resources": ("MemoryResourceStore",),
    "stores.sqlite.deletions": ("SQLiteDeletionLog",),
    "stores.sqlite.jobs": ("SQLiteJobStore",),
    "stores.sqlite.resources": ("SQLiteResourceStore",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name == "__version__":
        return metadata.version("fhir-bulk-middleware")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; the public names are in dir({__name__})")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
