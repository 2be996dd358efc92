"""What happened, as frozen values. Observers make logs, metrics and audit records of it.

An event says who, which job, through which mount, when and how much. It never holds the content of a resource, and no URL or
query string: those carry patients' identifiers. Patients and criteria that a client named are digests, or clear by setting.

Events follow facts: one is told after what it tells is durable. Two are told before (law 37): `FileServed` before the first byte
leaves, and `DeleteIntended` before anything is removed. A process that dies between a fact and its telling takes the event with
it; the job store has the fact.

`Deleted` is the exception (law 37): it is recorded with the removal and told at least once, in the order of the removals, perhaps
by another process and later. Where it is told twice its `record_id` is the same. Of a storage that does not record removals
(`SupportsOutbox`) and has no log of ours before it, it is as of all other events.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Self

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.job import FileKind, Job, JobKind
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
    "Removal",
    "RequestRefused",
    "Started",
    "content",
    "name",
]

_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened.

    Attributes:
        at: when.
        mount: through which mount, or on behalf of which.
        owner: whose doing it was, or whose job it was done for; None where that was never learnt.
        caller: the request that it came of; None for what happened without one, as in a worker.
    """

    at: Instant
    mount: str
    owner: Owner | None
    caller: Caller | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """Something happened to a job.

    Attributes:
        job_id: which.
    """

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KickedOff(JobEvent):
    """An export, or a long remove-all, was accepted. A repeated kick-off under the same idempotency key is none.

    Attributes:
        kind: which of the two.
        level: what it covers.
        types: the resource types that it will hold.
        group: the id of the group, for that level.
        patients: those whom the client named, as digests or in clear (`Settings.audit_detail`).
        criteria: what rows must meet, `Observation?category=...`, its values as digests or in clear.
    """

    kind: JobKind
    level: Level
    types: tuple[str, ...]
    group: str | None = None
    patients: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(JobEvent):
    """An export has a cut and a plan.

    Attributes:
        cut: its `transactionTime`.
        slices: how many there are.
        estimate: about how many resources.
    """

    cut: Instant
    slices: int
    estimate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSealed(JobEvent):
    """A file of an export is durable.

    Attributes:
        file_id: which.
        kind: in which list of the manifest it stands.
        type: what each of its lines is.
        count: lines.
        size: bytes of the plain NDJSON.
        worker: who wrote it.
        attempt: in which attempt at its slice.
    """

    file_id: str
    kind: FileKind
    type: str
    count: int
    size: int
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(JobEvent):
    """An export has its result.

    Attributes:
        resources: how many were read.
        seconds: from kick-off to completion.
    """

    resources: int
    seconds: float

    @classmethod
    def of(cls, job: Job, now: Instant) -> Self:
        """The completion of a job at an instant; a clock that was set back makes no time negative."""
        seconds = max(seconds_between(job.created_at, now), 0.0)
        return cls(at=now, mount=job.mount, owner=job.owner, job_id=job.id, resources=job.done, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(JobEvent):
    """An export ended without a result.

    Attributes:
        reason: in the domain's words.
        cause: for the operator, None where the reason says it all; nothing of the data is in it.
    """

    reason: Reason
    cause: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(JobEvent):
    """Its owner ended an export, or was done with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(JobEvent):
    """An export reached the end of its retention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileServed(JobEvent):
    """A file, or a part of one, is handed over. Told before the first byte leaves, so that no disclosure goes unrecorded.

    Attributes:
        file_id: which.
        type: what each of its lines is.
        size: bytes that the answer announces, as they go over the wire.
    """

    file_id: str
    type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Event):
    """A request was not carried out.

    Attributes:
        operation: what it would have done.
        reason: why not.
    """

    operation: Operation
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsSummed(Event):
    """Requests were refused whose refusals are not recorded one by one: those without an owner, or too many of one owner.

    `at` is when the sum was made.

    Attributes:
        count: how many.
        first: when the first was refused.
        last: when the last was.
        reasons: how many for each operation and reason, `file: token-missing`.
        addresses: how many came from each; those beyond the first few are counted under `others`.
    """

    count: int
    first: Instant
    last: Instant
    reasons: Mapping[str, int] = field(hash=False)
    addresses: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFailed(Event):
    """An audit could not record an event. It is told to observers that are no audits, such as metrics.

    Attributes:
        audit: which, by the name of its class.
        missed: the name of the event.
    """

    audit: str
    missed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditGap(Event):
    """An audit records again, after it could not for a while. The first thing that it records says what it missed.

    Attributes:
        count: how many events.
        first: when the first of them happened.
        last: when the last of them did.
        missed: how many by name.
    """

    count: int
    first: Instant
    last: Instant
    missed: Mapping[str, int] = field(hash=False)


class Removal(StrEnum):
    """How resources came to be deleted."""

    BY_ID = "by-id"
    BY_CRITERIA = "by-criteria"
    ALL = "all"
    """All that met criteria; of a long remove-all, one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteIntended(Event):
    """Resources are about to be removed. Told before anything is, and followed by `Deleted` or `NothingDeleted`.

    The record that a crash leaves alone says what may be gone; where the storage journals its removals, `Deleted` comes later.

    Attributes:
        removal: how they were named.
        type: their resource type.
        references: which they are (`Patient/123`).
        criteria: what was asked for, its values as digests or in clear.
        job_id: of the job that removes them, None for a delete that is answered at once.
    """

    removal: Removal
    type: str
    references: tuple[str, ...]
    criteria: tuple[str, ...] = ()
    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingDeleted(Event):
    """A delete that was understood and allowed removed nothing.

    Attributes:
        removal: how the resources were named.
        type: their resource type.
        outcome: why nothing was removed; for a dry run, that it would have been.
        references: what a dry run showed to the client.
        criteria: what was asked for, its values as digests or in clear.
    """

    removal: Removal
    type: str
    outcome: DeleteOutcome
    references: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Event):
    """Resources were deleted.

    Attributes:
        removal: how they were named.
        type: their resource type.
        references: which they were (`Patient/123`).
        record_id: the same whenever the same removal is told again, and no other's.
        criteria: what was asked for, its values as digests or in clear; of a long remove-all, its `KickedOff` has them.
    """

    removal: Removal
    type: str
    references: tuple[str, ...]
    record_id: str = ""
    criteria: tuple[str, ...] = ()


def name(event: Event) -> str:
    """The event's name in logs and records: `part-sealed`."""
    return _WORDS.sub("-", type(event).__name__).lower()


def content(event: Event) -> dict[str, JsonValue]:
    """The event as a JSON object: instants in full precision, enumerations by their value or, where that is a number, name."""
    found: dict[str, JsonValue] = {"event": name(event)}
    instants = {"at", "cut", "first", "last"}
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
