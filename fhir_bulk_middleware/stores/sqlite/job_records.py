"""How jobs, their rows, slices and parts lie in the columns of `job_schema.sql`."""

import json
import struct
import zlib
from typing import Any

from pydantic import TypeAdapter

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import (
    Codec,
    Failure,
    FileKind,
    Idempotency,
    Job,
    JobKind,
    JobState,
    Options,
    Part,
    Request,
    Slice,
)
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    Level,
    Membership,
    Rows,
    Selection,
    Window,
)
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.outcomes import Reason

__all__ = [
    "JOB_COLUMNS",
    "PART_COLUMNS",
    "REGISTRATION_COLUMNS",
    "SLICE_COLUMNS",
    "job_from_record",
    "job_record",
    "owner_record",
    "part_from_record",
    "part_record",
    "registration_from_record",
    "registration_record",
    "rows_content",
    "rows_from_content",
    "slice_from_record",
    "slice_record",
]

JOB_COLUMNS = (
    "id, mount, adapter, issuer, subject, client, url, level, types, since, until, precision, state, revision, created_at, "
    "changed_at, "
    "cut, codec, estimate, done, reason, detail, retention, granular, options, idempotency_key, fingerprint, kind"
)
REGISTRATION_COLUMNS = "mount, adapter, named, dialect, audiences, settings"
SLICE_COLUMNS = "number, kind, type, range, estimate, cursor, parts, joined"
PART_COLUMNS = (
    "file_id, slice, number, kind, type, key, codec, count, size, sha256, stored_size, sealed_at, flush_points, severity, "
    "continued_in"
)

_Record = tuple[Any, ...]
_OPTIONS = TypeAdapter(Options)
_MEMBERSHIP = TypeAdapter(Membership)


def owner_record(owner: Owner) -> tuple[str, str, str]:
    """An owner as the columns `issuer, subject, client`."""
    return owner.issuer, owner.subject, owner.client or ""


def job_record(job: Job) -> _Record:
    """A job as `JOB_COLUMNS`."""
    request, failure = job.request, job.failure
    return (
        job.id,
        job.mount,
        job.adapter,
        *owner_record(job.owner),
        request.url,
        request.level.value,
        json.dumps(request.types),
        request.window.since,
        request.window.until,
        request.precision.name,
        job.state.value,
        job.revision,
        job.created_at,
        job.changed_at,
        job.cut,
        None if job.codec is None else job.codec.value,
        job.estimate,
        job.done,
        None if failure is None else failure.reason.name,
        None if failure is None else failure.detail,
        request.retention,
        json.dumps(request.granular),
        "" if request.options == Options() else _OPTIONS.dump_json(request.options).decode(),
        None if job.idempotency is None else job.idempotency.key,
        None if job.idempotency is None else job.idempotency.fingerprint,
        request.kind.value,
    )


def job_from_record(record: _Record) -> Job:
    """The job of `JOB_COLUMNS`."""
    (
        job_id,
        mount,
        adapter,
        issuer,
        subject,
        client,
        url,
        level,
        types,
        since,
        until,
        precision,
        state,
        revision,
        created_at,
        changed_at,
        cut,
        codec,
        estimate,
        done,
        reason,
        detail,
        retention,
        granular,
        options,
        key,
        fingerprint,
        kind,
    ) = record
    return Job(
        id=job_id,
        mount=mount,
        adapter=adapter,
        owner=Owner(issuer, subject, client or None),
        request=Request(
            url=url,
            level=Level(level),
            types=tuple(json.loads(types)),
            window=Window(since, until),
            retention=retention,
            precision=Precision[precision],
            granular=tuple((type_, query) for type_, query in json.loads(granular)),
            options=_OPTIONS.validate_json(options) if options else Options(),
            kind=JobKind(kind),
        ),
        state=JobState(state),
        revision=revision,
        created_at=created_at,
        changed_at=changed_at,
        cut=cut,
        codec=None if codec is None else Codec(codec),
        estimate=estimate,
        done=done,
        failure=None if reason is None else Failure(Reason[reason], detail),
        idempotency=None if key is None else Idempotency(key, fingerprint),
    )


def registration_record(registration: Registration) -> _Record:
    """A registration as `REGISTRATION_COLUMNS`."""
    return (
        registration.mount,
        registration.adapter,
        registration.named,
        registration.dialect,
        None if registration.audiences is None else json.dumps(registration.audiences),
        json.dumps(dict(registration.settings)),
    )


def registration_from_record(record: _Record) -> Registration:
    """The registration of `REGISTRATION_COLUMNS`."""
    mount, adapter, named, dialect, audiences, settings = record
    return Registration(
        mount=mount,
        adapter=adapter,
        named=bool(named),
        dialect=dialect,
        audiences=None if audiences is None else tuple(json.loads(audiences)),
        settings=json.loads(settings),
    )


def slice_record(piece: Slice) -> _Record:
    """A slice as `SLICE_COLUMNS`."""
    return (
        piece.number,
        piece.kind.value,
        piece.type,
        piece.range,
        piece.estimate,
        piece.cursor,
        piece.parts,
        piece.joined,
    )


def slice_from_record(record: _Record) -> Slice:
    """The slice of `SLICE_COLUMNS`."""
    number, kind, type_, range_, estimate, cursor, parts, joined = record
    return Slice(
        number=number,
        kind=FileKind(kind),
        type=type_,
        range=range_,
        estimate=estimate,
        cursor=cursor,
        parts=parts,
        joined=bool(joined),
    )


def part_record(part: Part) -> _Record:
    """A part as `PART_COLUMNS`; its flush points are eight bytes each."""
    return (
        part.file_id,
        part.slice,
        part.number,
        part.kind.value,
        part.type,
        part.key,
        part.codec.value,
        part.count,
        part.size,
        part.sha256,
        part.stored_size,
        part.sealed_at,
        struct.pack(f"<{len(part.flush_points)}Q", *part.flush_points),
        part.severity,
        part.continued_in,
    )


def part_from_record(record: _Record) -> Part:
    """The part of `PART_COLUMNS`."""
    file_id, slice_, number, kind, type_, key, codec, count, size, sha256, stored_size, sealed_at, points, severity, following = (
        record
    )
    return Part(
        file_id=file_id,
        slice=slice_,
        number=number,
        kind=FileKind(kind),
        type=type_,
        key=key,
        codec=Codec(codec),
        count=count,
        size=size,
        sha256=sha256,
        stored_size=stored_size,
        flush_points=struct.unpack(f"<{len(points) // 8}Q", points),
        sealed_at=Instant(sealed_at),
        severity=severity,
        continued_in=following,
    )


def rows_content(rows: Rows) -> bytes:
    """Which rows a job may hold, as compressed JSON."""
    match rows.selection:
        case Everything():
            selection: object = "everything"
        case EveryPatient():
            selection = "every-patient"
        case Compartments(references):
            selection = sorted(references)
    filters = [[item.type, [criteria.to_json() for criteria in item.alternatives]] for item in rows.filters]
    content = {
        "selection": selection,
        "rights": rows.rights,
        "filters": filters,
        "joined": sorted(rows.joined),
        "versions": rows.versions,
        "membership": None if rows.membership is None else _MEMBERSHIP.dump_python(rows.membership, mode="json"),
    }
    return zlib.compress(json.dumps(content).encode(), level=1)


def rows_from_content(content: bytes) -> Rows:
    """The rows of `rows_content`. Takes some 10 ms for a group of 100,000, so not for an event loop."""
    said = json.loads(zlib.decompress(content))
    selection: Selection
    match said["selection"]:
        case "everything":
            selection = Everything()
        case "every-patient":
            selection = EveryPatient()
        case list(references):
            selection = Compartments(frozenset(references))
        case unknown:  # never widened: what cannot be read is not "everything"
            raise ValueError(f"unknown selection {unknown!r}")
    filters = tuple(Filter(type_, tuple(map(Criteria.from_json, several))) for type_, several in said["filters"])
    versions = tuple((id_, version) for id_, version in said["versions"])
    membership = said.get("membership")
    return Rows(
        selection,
        said["rights"],
        filters,
        frozenset(said["joined"]),
        versions,
        None if membership is None else _MEMBERSHIP.validate_python(membership, strict=False),
    )
