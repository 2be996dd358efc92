"""FHIR Bulk Data export and safe deletes for existing FHIR servers.

A host and the author of an adapter import everything from here, and the author of an observer imports the events from
`fhir_bulk_middleware.contract.events`. Only the names of these two modules are stable. Each name here is imported when it is
first used, so that a worker process, which needs few of them, starts sooner.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; a test compares it with the table below
    from fhir_bulk_middleware.app import BulkData as BulkData
    from fhir_bulk_middleware.contract.access import (
        Caller as Caller,
        Owner as Owner,
        Principal as Principal,
        TokenRejected as TokenRejected,
        TokenVerifier as TokenVerifier,
    )
    from fhir_bulk_middleware.contract.deletes import (
        DeletionLog as DeletionLog,
        SupportsBatchDelete as SupportsBatchDelete,
        SupportsConditionalDelete as SupportsConditionalDelete,
        SupportsDelete as SupportsDelete,
        SupportsLockedDelete as SupportsLockedDelete,
        SupportsOutbox as SupportsOutbox,
    )
    from fhir_bulk_middleware.contract.figures import (
        Census as Census,
        Figures as Figures,
        SupportsCensus as SupportsCensus,
        SupportsFigures as SupportsFigures,
        SupportsFreeSpace as SupportsFreeSpace,
        SupportsWorkerCount as SupportsWorkerCount,
    )
    from fhir_bulk_middleware.contract.filters import Filters as Filters
    from fhir_bulk_middleware.contract.job import (
        Codec as Codec,
        Former as Former,
        Job as Job,
        JobKind as JobKind,
        JobState as JobState,
        Origin as Origin,
        Part as Part,
        Slice as Slice,
        Standing as Standing,
    )
    from fhir_bulk_middleware.contract.job_record import (
        JOB_FIELDS as JOB_FIELDS,
        PART_FIELDS as PART_FIELDS,
        SLICE_FIELDS as SLICE_FIELDS,
        Scalar as Scalar,
        job_from_record as job_from_record,
        job_record as job_record,
        owner_record as owner_record,
        part_from_record as part_from_record,
        part_record as part_record,
        registration_content as registration_content,
        registration_from_content as registration_from_content,
        rows_content as rows_content,
        rows_from_content as rows_from_content,
        slice_from_record as slice_from_record,
        slice_record as slice_record,
    )
    from fhir_bulk_middleware.contract.job_store import (
        Due as Due,
        JobStore as JobStore,
        ListPlace as ListPlace,
        SupportsBacklog as SupportsBacklog,
        SupportsHints as SupportsHints,
    )
    from fhir_bulk_middleware.contract.lease import (
        LEASE_SLACK as LEASE_SLACK,
        Lease as Lease,
        Recorded as Recorded,
        fell_silent as fell_silent,
    )
    from fhir_bulk_middleware.contract.migration import SupportsMigration as SupportsMigration
    from fhir_bulk_middleware.contract.observer import Audit as Audit, Observer as Observer
    from fhir_bulk_middleware.contract.output_store import (
        Link as Link,
        OutputSink as OutputSink,
        OutputStore as OutputStore,
        SupportsLinking as SupportsLinking,
        SupportsSignedUrls as SupportsSignedUrls,
    )
    from fhir_bulk_middleware.contract.paging import PageMaker as PageMaker
    from fhir_bulk_middleware.contract.query import (
        Authorisation as Authorisation,
        Block as Block,
        Compartments as Compartments,
        Deletions as Deletions,
        EveryPatient as EveryPatient,
        Everything as Everything,
        Filter as Filter,
        Level as Level,
        Membership as Membership,
        NoPatient as NoPatient,
        Page as Page,
        ProvenanceTarget as ProvenanceTarget,
        Query as Query,
        Range as Range,
        Rows as Rows,
        Selection as Selection,
        Unfinished as Unfinished,
        Window as Window,
    )
    from fhir_bulk_middleware.contract.registration import (
        NotAdmitted as NotAdmitted,
        Registration as Registration,
        Registry as Registry,
    )
    from fhir_bulk_middleware.contract.removal import (
        AlreadyDeleted as AlreadyDeleted,
        Batch as Batch,
        BatchId as BatchId,
        BatchProgress as BatchProgress,
        Current as Current,
        Mark as Mark,
        Matches as Matches,
        NeverExisted as NeverExisted,
        Protected as Protected,
        Removal as Removal,
        Removed as Removed,
        Report as Report,
        Tally as Tally,
        Target as Target,
        Version as Version,
        VersionMismatch as VersionMismatch,
    )
    from fhir_bulk_middleware.contract.running import (
        Dispatcher as Dispatcher,
        JobRunner as JobRunner,
        Recipe as Recipe,
        SupportsWorkerProcess as SupportsWorkerProcess,
        Work as Work,
        WorkingDispatcher as WorkingDispatcher,
    )
    from fhir_bulk_middleware.contract.storage import (
        SupportsAudit as SupportsAudit,
        SupportsChangedTypes as SupportsChangedTypes,
        SupportsContext as SupportsContext,
        SupportsDeletionHorizon as SupportsDeletionHorizon,
        SupportsDeletions as SupportsDeletions,
        SupportsExport as SupportsExport,
        SupportsFingerprints as SupportsFingerprints,
        SupportsForgetting as SupportsForgetting,
        SupportsGroups as SupportsGroups,
        SupportsJoining as SupportsJoining,
        SupportsLeft as SupportsLeft,
        SupportsNaming as SupportsNaming,
        SupportsOrganising as SupportsOrganising,
        SupportsPatients as SupportsPatients,
        SupportsProvenance as SupportsProvenance,
        SupportsRead as SupportsRead,
        SupportsSlices as SupportsSlices,
        SupportsSlicesNear as SupportsSlicesNear,
        SupportsSnapshot as SupportsSnapshot,
        SupportsTypes as SupportsTypes,
        SupportsUnfinished as SupportsUnfinished,
    )
    from fhir_bulk_middleware.delete.policy import (
        AIDBOX as AIDBOX,
        Cell as Cell,
        DeletePolicy as DeletePolicy,
        FHIR_R4 as FHIR_R4,
        FHIR_R6_DRAFT as FHIR_R6_DRAFT,
        NOT_FOUND as NOT_FOUND,
        Shows as Shows,
    )
    from fhir_bulk_middleware.dialects import (
        DIALECTS as DIALECTS,
        Dialect as Dialect,
        HEALTH_CONNECT_AU as HEALTH_CONNECT_AU,
        SOARIAN as SOARIAN,
        STANDARD as STANDARD,
        STU2 as STU2,
        STU3 as STU3,
        STU4 as STU4,
        SUBJECT_BOUND as SUBJECT_BOUND,
    )
    from fhir_bulk_middleware.fhir.canonical import canonical as canonical, canonical_and_content as canonical_and_content
    from fhir_bulk_middleware.fhir.search.criteria import Criteria as Criteria, CriteriaError as CriteriaError
    from fhir_bulk_middleware.fhir.version import FhirVersion as FhirVersion
    from fhir_bulk_middleware.instant import (
        Clock as Clock,
        Instant as Instant,
        from_datetime as from_datetime,
        latest_cut as latest_cut,
        system_clock as system_clock,
        to_datetime as to_datetime,
    )
    from fhir_bulk_middleware.jose import JoseTokenVerifier as JoseTokenVerifier
    from fhir_bulk_middleware.middleware import BulkDataMiddleware as BulkDataMiddleware
    from fhir_bulk_middleware.observers.audit_events import AuditEvents as AuditEvents
    from fhir_bulk_middleware.observers.audit_file import AuditFile as AuditFile
    from fhir_bulk_middleware.observers.logs import LogEvents as LogEvents
    from fhir_bulk_middleware.outcomes import (
        DeleteOutcome as DeleteOutcome,
        Operation as Operation,
        Reason as Reason,
        Refused as Refused,
    )
    from fhir_bulk_middleware.settings import Settings as Settings
    from fhir_bulk_middleware.stores.filesystem import FileOutputStore as FileOutputStore
    from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog as MemoryDeletionLog
    from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore as MemoryJobStore
    from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore as MemoryOutputStore
    from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore as MemoryResourceStore
    from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog as SQLiteDeletionLog
    from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore as SQLiteJobStore
    from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore as SQLiteResourceStore
    from fhir_bulk_middleware.workers.step_threads import StepThreads as StepThreads

    __version__: str

_MODULES = {
    "app": "BulkData",
    "contract.access": "Caller Owner Principal TokenRejected TokenVerifier",
    "contract.deletes": (
        "DeletionLog SupportsBatchDelete SupportsConditionalDelete SupportsDelete SupportsLockedDelete SupportsOutbox"
    ),
    "contract.figures": "Census Figures SupportsCensus SupportsFigures SupportsFreeSpace SupportsWorkerCount",
    "contract.filters": "Filters",
    "contract.job": "Codec Former Job JobKind JobState Origin Part Slice Standing",
    "contract.job_record": (
        "JOB_FIELDS PART_FIELDS SLICE_FIELDS Scalar job_from_record job_record owner_record part_from_record "
        "part_record registration_content registration_from_content rows_content rows_from_content "
        "slice_from_record slice_record"
    ),
    "contract.job_store": "Due JobStore ListPlace SupportsBacklog SupportsHints",
    "contract.lease": "LEASE_SLACK Lease Recorded fell_silent",
    "contract.migration": "SupportsMigration",
    "contract.observer": "Audit Observer",
    "contract.output_store": "Link OutputSink OutputStore SupportsLinking SupportsSignedUrls",
    "contract.paging": "PageMaker",
    "contract.query": (
        "Authorisation Block Compartments Deletions EveryPatient Everything Filter Level Membership NoPatient "
        "Page ProvenanceTarget Query Range Rows Selection Unfinished Window"
    ),
    "contract.registration": "NotAdmitted Registration Registry",
    "contract.removal": (
        "AlreadyDeleted Batch BatchId BatchProgress Current Mark Matches NeverExisted Protected Removal Removed "
        "Report Tally Target Version VersionMismatch"
    ),
    "contract.running": "Dispatcher JobRunner Recipe SupportsWorkerProcess Work WorkingDispatcher",
    "contract.storage": (
        "SupportsAudit SupportsChangedTypes SupportsContext SupportsDeletionHorizon SupportsDeletions SupportsExport "
        "SupportsFingerprints SupportsForgetting SupportsGroups SupportsJoining SupportsLeft SupportsNaming "
        "SupportsOrganising SupportsPatients SupportsProvenance SupportsRead SupportsSlices SupportsSlicesNear "
        "SupportsSnapshot SupportsTypes SupportsUnfinished"
    ),
    "delete.policy": "AIDBOX Cell DeletePolicy FHIR_R4 FHIR_R6_DRAFT NOT_FOUND Shows",
    "dialects": "DIALECTS Dialect HEALTH_CONNECT_AU SOARIAN STANDARD STU2 STU3 STU4 SUBJECT_BOUND",
    "fhir.canonical": "canonical canonical_and_content",
    "fhir.search.criteria": "Criteria CriteriaError",
    "fhir.version": "FhirVersion",
    "instant": "Clock Instant from_datetime latest_cut system_clock to_datetime",
    "jose": "JoseTokenVerifier",
    "middleware": "BulkDataMiddleware",
    "observers.audit_events": "AuditEvents",
    "observers.audit_file": "AuditFile",
    "observers.logs": "LogEvents",
    "outcomes": "DeleteOutcome Operation Reason Refused",
    "settings": "Settings",
    "stores.filesystem": "FileOutputStore",
    "stores.memory.deletions": "MemoryDeletionLog",
    "stores.memory.jobs": "MemoryJobStore",
    "stores.memory.outputs": "MemoryOutputStore",
    "stores.memory.resources": "MemoryResourceStore",
    "stores.sqlite.deletions": "SQLiteDeletionLog",
    "stores.sqlite.jobs": "SQLiteJobStore",
    "stores.sqlite.resources": "SQLiteResourceStore",
    "workers.step_threads": "StepThreads",
}
"""The public names by the module that defines them."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

_NAMES = sorted([*_MODULE_OF, "__version__"])
if not TYPE_CHECKING:  # type checkers take the aliases
    __all__ = _NAMES  # noqa: PLE0605 - it is a list


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name == "__version__":
        return metadata.version("fhir-bulk-middleware")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; the public names are in dir({__name__})")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return _NAMES
