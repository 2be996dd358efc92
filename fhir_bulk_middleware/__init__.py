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
    from fhir_bulk_middleware.contract.job import Codec, Job, JobKind, JobState, Part, Slice, Standing
    from fhir_bulk_middleware.contract.job_record import (
        JOB_FIELDS,
        PART_FIELDS,
        SLICE_FIELDS,
        Scalar,
        job_from_record,
        job_record,
        owner_record,
        part_from_record,
        part_record,
        registration_content,
        registration_from_content,
        rows_content,
        rows_from_content,
        slice_from_record,
        slice_record,
    )
    from fhir_bulk_middleware.contract.job_store import Due, JobStore
    from fhir_bulk_middleware.contract.lease import LEASE_SLACK, Lease, Recorded, fell_silent
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
        Query,
        Range,
        Rows,
        Selection,
        Window,
    )
    from fhir_bulk_middleware.contract.registration import NotAdmitted, Registration, Registry
    from fhir_bulk_middleware.contract.removal import (
        AlreadyDeleted,
        Batch,
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
    from fhir_bulk_middleware.instant import Clock, Instant, from_datetime, latest_cut, system_clock
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
    "JOB_FIELDS",
    "LEASE_SLACK",
    "PART_FIELDS",
    "SLICE_FIELDS",
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
    "Block",
    "BulkData",
    "BulkDataMiddleware",
    "Caller",
    "Clock",
    "Codec",
    "Compartments",
    "Criteria",
    "CriteriaError",
    "Current",
    "DeleteOutcome",
    "DeletePolicy",
    "DeletionLog",
    "Deletions",
    "Dialect",
    "Due",
    "EveryPatient",
    "Everything",
    "FhirVersion",
    "FileOutputStore",
    "Filter",
    "Instant",
    "Job",
    "JobKind",
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
    "Query",
    "Range",
    "Reason",
    "Recipe",
    "Recorded",
    "Refused",
    "Registration",
    "Registry",
    "Removed",
    "Report",
    "Rows",
    "SQLiteDeletionLog",
    "SQLiteJobStore",
    "SQLiteResourceStore",
    "Scalar",
    "Selection",
    "Settings",
    "Slice",
    "Standing",
    "SupportsAudit",
    "SupportsBatchDelete",
    "SupportsConditionalDelete",
    "SupportsDelete",
    "SupportsDeletionHorizon",
    "SupportsDeletions",
    "SupportsExport",
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
    "__version__",
    "canonical",
    "canonical_and_content",
    "fell_silent",
    "from_datetime",
    "job_from_record",
    "job_record",
    "latest_cut",
    "owner_record",
    "part_from_record",
    "part_record",
    "registration_content",
    "registration_from_content",
    "rows_content",
    "rows_from_content",
    "slice_from_record",
    "slice_record",
    "system_clock",
]

_MODULES = {
    "app": ("BulkData",),
    "contract.access": ("Caller", "Owner", "Principal", "TokenRejected", "TokenVerifier"),
    "contract.job": ("Codec", "Job", "JobKind", "JobState", "Part", "Slice", "Standing"),
    "contract.lease": ("LEASE_SLACK", "Lease", "Recorded", "fell_silent"),
    "contract.deletes": (
        "DeletionLog",
        "SupportsBatchDelete",
        "SupportsConditionalDelete",
        "SupportsDelete",
        "SupportsLockedDelete",
        "SupportsOutbox",
    ),
    "contract.job_record": (
        "JOB_FIELDS",
        "PART_FIELDS",
        "SLICE_FIELDS",
        "Scalar",
        "job_from_record",
        "job_record",
        "owner_record",
        "part_from_record",
        "part_record",
        "registration_content",
        "registration_from_content",
        "rows_content",
        "rows_from_content",
        "slice_from_record",
        "slice_record",
    ),
    "contract.job_store": ("Due", "JobStore"),
    "contract.observer": ("Audit", "Observer"),
    "contract.output_store": ("OutputSink", "OutputStore"),
    "contract.running": ("JobRunner", "Recipe", "SupportsWorkerProcess", "Work"),
    "contract.storage": (
        "SupportsAudit",
        "SupportsDeletionHorizon",
        "SupportsDeletions",
        "SupportsExport",
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
        "Query",
        "Range",
        "Rows",
        "Selection",
        "Window",
    ),
    "contract.registration": ("NotAdmitted", "Registration", "Registry"),
    "contract.removal": (
        "AlreadyDeleted",
        "Batch",
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
    "instant": ("Clock", "Instant", "from_datetime", "latest_cut", "system_clock"),
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
