"""What happened, as frozen values. Observers make logs, metrics and audit records of it.

An event says who, which job, through which mount, when and how much. It never holds the content of a resource, and no URL or
query string: those carry patients' identifiers.

Events follow facts: one is told after what it tells is durable, except `FileServed`, which is told before the first byte leaves.
A process that dies between a fact and its telling takes the event with it; the job store has the fact.

`Deleted` is the exception (law 37): it is recorded with the removal and told at least once, in the order of the removals, perhaps
by another process and later. Where it is told twice its `record_id` is the same. Of a storage that does not record removals
(`SupportsOutbox`) and has no log of ours before it, it is as of all other events.
"""

import re
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from typing import Self

from pydantic import JsonValue

from fhir_bulk_middleware.export.job import FileKind, Job, JobKind
from fhir_bulk_middleware.export.query import Level
from fhir_bulk_middleware.instant import Instant, Precision, render, seconds_between
from fhir_bulk_middleware.outcomes import Operation, Reason
from fhir_bulk_middleware.principal import Owner

__all__ = [
    "Cancelled",
    "Completed",
    "Deleted",
    "Event",
    "Expired",
    "Failed",
    "FileServed",
    "JobEvent",
    "KickedOff",
    "PartSealed",
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
    """

    at: Instant
    mount: str
    owner: Owner | None


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
    """

    kind: JobKind
    level: Level
    types: tuple[str, ...]


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


class Removal(StrEnum):
    """How resources came to be deleted."""

    BY_ID = "by-id"
    BY_CRITERIA = "by-criteria"
    ALL = "all"
    """All that met criteria; of a long remove-all, one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Event):
    """Resources were deleted.

    Attributes:
        removal: how they were named.
        type: their resource type.
        references: which they were (`Patient/123`).
        record_id: the same whenever the same removal is told again, and no other's.
    """

    removal: Removal
    type: str
    references: tuple[str, ...]
    record_id: str = ""


def name(event: Event) -> str:
    """The event's name in logs and records: `part-sealed`."""
    return _WORDS.sub("-", type(event).__name__).lower()


def content(event: Event) -> dict[str, JsonValue]:
    """The event as a JSON object: instants in full precision, enumerations by their value or, where that is a number, name."""
    found: dict[str, JsonValue] = {"event": name(event)}
    instants = {"at", "cut"}
    for field in fields(event):
        value = getattr(event, field.name)
        found[field.name] = render(value, Precision.MICROSECONDS) if field.name in instants else _as_json(value)
    return found


def _as_json(value: object) -> JsonValue:
    match value:
        case Owner(issuer, subject, client):
            known: dict[str, JsonValue] = {"issuer": issuer, "subject": subject}
            return known if client is None else known | {"client": client}
        case Enum():
            return value.value if isinstance(value.value, str) else value.name.lower().replace("_", "-")
        case tuple():
            return [str(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"an event cannot hold {type(value).__name__}")
