"""Events as frozen values, from which observers make logs, metrics and audit records.

An event says who, which job, through which mount, when and how much. It never holds the content of a resource, a URL or a query
string, since those carry patients' identifiers. Patients and criteria that a client named are digests, or clear by setting.

An event is sent after its fact is durable, with three exceptions (law 37): `FileServed` before the first byte leaves,
`UrlsSigned` before the URLs leave, and `DeleteIntended` before anything is removed. If a process dies between the fact and the
event, the event is lost; the job store has the fact.

`Deleted` is not lost (law 37): it is recorded with the removal and sent at least once, in the order of the removals, perhaps
later by another process. If it is sent twice, its `record_id` is the same. A storage without `SupportsOutbox` and without a
`DeletionLog` gives no such guarantee.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Self

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.job import FileKind, Job, JobKind, Part
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.instant import Instant, Precision, render, seconds_between
from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation, Reason

__all__ = [
    "AuditFailed",
    "AuditGap",
    "Cancelled",
    "Completed",
    "DeleteIntended",
    "Deleted",
    "Event",
    "Expired",
    "Failed",
    "FileServed",
    "JobEvent",
    "KickedOff",
    "NothingDeleted",
    "PartSealed",
    "RefusalsSummed",
    "RemovalKind",
    "RequestRefused",
    "Started",
    "UrlsSigned",
    "content",
    "name",
]

_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event.

    Attributes:
        at: when it happened.
        mount: the mount that it happened through, or on behalf of.
        owner: who caused it, or whose job it belongs to; None if that was not determined.
        caller: the request that caused it; None without a request, as in a worker.
    """

    at: Instant
    mount: str
    owner: Owner | None
    caller: Caller | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """An event of a job.

    Attributes:
        job_id: the job's id.
    """

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KickedOff(JobEvent):
    """An export or an asynchronous remove-all was accepted. A repeated kick-off under the same idempotency key sends no event.

    Attributes:
        kind: export or remove-all.
        level: the level of the kick-off.
        types: the resource types of the job.
        group: the id of the group, at Group level.
        patients: the patients that the client named, as digests or in clear (`Settings.audit_detail`).
        criteria: the criteria that resources must meet, `Observation?category=...`, values as digests or in clear.
    """

    kind: JobKind
    level: Level
    types: tuple[str, ...]
    group: str | None = None
    patients: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(JobEvent):
    """The cut and the plan of a job are fixed.

    Attributes:
        cut: its `transactionTime`.
        slices: the number of slices.
        estimate: about how many resources it has.
    """

    cut: Instant
    slices: int
    estimate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSealed(JobEvent):
    """A file of an export is durable.

    Attributes:
        file_id: the file's id.
        kind: the list of the manifest that it belongs to.
        type: the resource type of its lines.
        count: the number of lines.
        size: bytes of the plain NDJSON.
        worker: the worker that wrote it.
        attempt: the attempt at its slice, or at the plan for a linked file.
        linked: whether it is a link to a file of an earlier job, so that nothing was written.
    """

    file_id: str
    kind: FileKind
    type: str
    count: int
    size: int
    worker: str
    attempt: int
    linked: bool = False

    @classmethod
    def of(cls, lease: Lease, part: Part) -> Self:
        """The sealing of a part by the holder of a lease."""
        return cls(
            at=part.sealed_at,
            mount=lease.job.mount,
            owner=lease.job.owner,
            job_id=lease.job.id,
            file_id=part.file_id,
            kind=part.kind,
            type=part.type,
            count=part.count,
            size=part.size,
            worker=lease.worker,
            attempt=lease.attempt,
            linked=part.source is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(JobEvent):
    """A job is complete.

    Attributes:
        resources: how many resources were read.
        seconds: from kick-off to completion.
    """

    resources: int
    seconds: float

    @classmethod
    def of(cls, job: Job, now: Instant) -> Self:
        """The completion of a job; `seconds` is not negative, even if the clock was set back."""
        seconds = max(seconds_between(job.created_at, now), 0.0)
        return cls(at=now, mount=job.mount, owner=job.owner, job_id=job.id, resources=job.done, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(JobEvent):
    """A job failed.

    Attributes:
        reason: why, as the client is told.
        cause: why, for the operator; None if the reason says it all. It contains no data of resources.
    """

    reason: Reason
    cause: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(JobEvent):
    """The owner or the operator cancelled a job, or deleted a finished one.

    Attributes:
        operator: who cancelled somebody's job by a command on the server's machine; None for its owner, who is `owner` always.
    """

    operator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(JobEvent):
    """A job reached the end of its retention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileServed(JobEvent):
    """A file or a range of it is about to be sent. Sent before the first byte, so that no disclosure goes unrecorded.

    Attributes:
        file_id: the file's id.
        type: the resource type of its lines.
        size: the Content-Length of the response.
    """

    file_id: str
    type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlsSigned(JobEvent):
    """A manifest with URLs that work without a token is about to be sent. Only the output store knows whether they are used.

    Attributes:
        file_ids: the files that can be fetched by them.
        types: the resource types of their lines.
        until: when the URLs end.
    """

    file_ids: tuple[str, ...]
    types: tuple[str, ...]
    until: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request was refused.

    Attributes:
        operation: the operation that was asked for.
        reason: why it was refused.
    """

    operation: Operation
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsSummed(Event):
    """The sum of refusals that are not recorded one by one: those without an owner, or too many of one owner.

    `at` is when the sum was made.

    Attributes:
        count: the number of refusals.
        first: when the first request was refused.
        last: when the last request was refused.
        reasons: the number for each operation and reason, `file: token-missing`.
        addresses: the number for each client address; addresses beyond the first few are counted as `others`.
    """

    count: int
    first: Instant
    last: Instant
    reasons: Mapping[str, int] = field(hash=False)
    addresses: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFailed(Event):
    """An audit could not record an event. Sent to observers that are no audits, such as metrics.

    Attributes:
        audit: the class name of the audit.
        missed: the name of the event.
    """

    audit: str
    missed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditGap(Event):
    """An audit records again after a failure; sent to it before any other event.

    Attributes:
        count: how many events it missed.
        first: when the first of them happened.
        last: when the last of them happened.
        missed: the number of missed events for each event name.
    """

    count: int
    first: Instant
    last: Instant
    missed: Mapping[str, int] = field(hash=False)


class RemovalKind(StrEnum):
    """The kind of delete."""

    BY_ID = "by-id"
    BY_CRITERIA = "by-criteria"
    ALL = "all"
    """All matches of criteria; for an asynchronous remove-all, one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteIntended(Event):
    """Resources are about to be removed. Sent before anything is removed, and followed by `Deleted` or `NothingDeleted`.

    After a crash it may stand alone and says what may be gone; if the storage records its removals, `Deleted` follows later.

    Attributes:
        removal: the kind of delete.
        type: the resource type.
        references: the resources (`Patient/123`).
        criteria: the client's criteria, values as digests or in clear.
        job_id: the job that removes them; None for a synchronous delete.
    """

    removal: RemovalKind
    type: str
    references: tuple[str, ...]
    criteria: tuple[str, ...] = ()
    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingDeleted(Event):
    """A valid and permitted delete removed nothing.

    Attributes:
        removal: the kind of delete.
        type: the resource type.
        outcome: why nothing was removed.
        references: the resources that a dry run showed to the client.
        criteria: the client's criteria, values as digests or in clear.
    """

    removal: RemovalKind
    type: str
    outcome: DeleteOutcome
    references: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Event):
    """Resources were deleted.

    Attributes:
        removal: the kind of delete.
        type: the resource type.
        references: the resources (`Patient/123`).
        record_id: identifies the removal; the same if the event is sent again.
        criteria: the client's criteria, values as digests or in clear; for a remove-all that is a job, `KickedOff` has them.
    """

    removal: RemovalKind
    type: str
    references: tuple[str, ...]
    record_id: str = ""
    criteria: tuple[str, ...] = ()


def name(event: Event) -> str:
    """The event's name in logs and records: `part-sealed`."""
    return _WORDS.sub("-", type(event).__name__).lower()


def content(event: Event) -> dict[str, JsonValue]:
    """The event as a JSON object: instants with microseconds; enumerations by value, or by name if the value is a number."""
    found: dict[str, JsonValue] = {"event": name(event)}
    instants = {"at", "cut", "first", "last", "until"}
    for each in fields(event):
        value = getattr(event, each.name)
        found[each.name] = render(value, Precision.MICROSECONDS) if each.name in instants else _as_json(value)
    return found


def _as_json(value: object) -> JsonValue:
    match value:
        case Owner(issuer, subject, client):
            known: dict[str, JsonValue] = {"issuer": issuer, "subject": subject}
            return known if client is None else known | {"client": client}
        case Caller(client_id=client_id, address=address, request_id=request_id):
            return {"client_id": client_id, "address": address, "request_id": request_id}
        case Mapping():
            return {str(key): _as_json(item) for key, item in value.items()}
        case Enum():
            return value.value if isinstance(value.value, str) else value.name.lower().replace("_", "-")
        case tuple():
            return [str(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"an event cannot hold {type(value).__name__}")
