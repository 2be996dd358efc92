"""How a job store writes its values down: as records of scalars, one for each column, and as documents.

For authors of job stores. `job_record`, `slice_record` and `part_record` map the names of `JOB_FIELDS`, `SLICE_FIELDS` and
`PART_FIELDS` to scalars, in that order, so an insert is

    record = job_record(job)
    execute(f"INSERT INTO job ({', '.join(record)}) VALUES ({', '.join(':' + name for name in record)})", record)

and the functions named `..._from_record` read such a mapping back. Instants are microseconds since the epoch; enumerations
stand as their values or names. What no query of a store looks into is one document: `request` in a job's record is JSON,
`rows_content` is compressed JSON and can be large, `registration_content` is JSON.

A document that was written by another version of this package may be unreadable: reading it raises `ValueError` or `KeyError`.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import (
    Codec,
    Failure,
    FileKind,
    Idempotency,
    Job,
    JobState,
    Origin,
    Part,
    Request,
    Slice,
)
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    Membership,
    NoPatient,
    Rows,
    Selection,
    Unfinished,
)
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.outcomes import Reason

__all__ = [
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
    "unfinished_record",
]

Scalar = str | int | float | bytes | None
"""What a column of any database holds."""

JOB_FIELDS = (
    "id",
    "mount",
    "adapter",
    "issuer",
    "subject",
    "client",
    "state",
    "revision",
    "created_at",
    "changed_at",
    "kept_for",
    "cut",
    "codec",
    "estimate",
    "done",
    "reason",
    "detail",
    "idempotency_key",
    "fingerprint",
    "more",
    "unfinished",
    "unfinished_at",
    "request",
)
"""The names of a job's record. `kept_for` is its retention in microseconds, so it expires at `changed_at + kept_for`."""

SLICE_FIELDS = ("number", "kind", "type", "range", "estimate", "cursor", "parts", "origin", "cache_key", "fingerprint")
"""The names of a slice's record."""

PART_FIELDS = (
    "file_id",
    "slice",
    "number",
    "kind",
    "type",
    "key",
    "codec",
    "count",
    "size",
    "sha256",
    "stored_size",
    "sealed_at",
    "flush_points",
    "severity",
    "continued_in",
    "references_key",
    "references_size",
    "written_as",
)
"""The names of a part's record. `flush_points` are eight bytes each, little-endian. `written_as` is never null: parts of the same
value are links to the same bytes, so a sum of bytes counts it once."""

_REQUEST = TypeAdapter(Request)
_MEMBERSHIP = TypeAdapter(Membership)


def owner_record(owner: Owner) -> dict[str, str]:
    """An owner as `issuer`, `subject` and `client`, which is empty where it is no part of ownership."""
    return {"issuer": owner.issuer, "subject": owner.subject, "client": owner.client or ""}


def job_record(job: Job) -> dict[str, Scalar]:
    """A job as `JOB_FIELDS`."""
    return {
        "id": job.id,
        "mount": job.mount,
        "adapter": job.adapter,
        **owner_record(job.owner),
        "state": job.state.value,
        "revision": job.revision,
        "created_at": job.created_at,
        "changed_at": job.changed_at,
        "kept_for": after(Instant(0), job.request.retention),
        "cut": job.cut,
        "codec": None if job.codec is None else job.codec.value,
        "estimate": job.estimate,
        "done": job.done,
        "reason": None if job.failure is None else job.failure.reason.name,
        "detail": None if job.failure is None else job.failure.detail,
        "idempotency_key": None if job.idempotency is None else job.idempotency.key,
        "fingerprint": None if job.idempotency is None else job.idempotency.fingerprint,
        "more": int(job.more),
        **unfinished_record(job.unfinished),
        "request": _request_content(job.request),
    }


def job_from_record(record: Mapping[str, Any]) -> Job:
    """The job of `JOB_FIELDS`."""
    reason, key, unfinished = record["reason"], record["idempotency_key"], record["unfinished"]
    return Job(
        id=record["id"],
        mount=record["mount"],
        adapter=record["adapter"],
        owner=Owner(record["issuer"], record["subject"], record["client"] or None),
        request=_request_from_content(record["request"]),
        state=JobState(record["state"]),
        revision=record["revision"],
        created_at=record["created_at"],
        changed_at=record["changed_at"],
        cut=record["cut"],
        codec=None if record["codec"] is None else Codec(record["codec"]),
        estimate=record["estimate"],
        done=record["done"],
        failure=None if reason is None else Failure(Reason[reason], record["detail"]),
        idempotency=None if key is None else Idempotency(key, record["fingerprint"]),
        more=bool(record["more"]),
        unfinished=None if unfinished is None else Unfinished(unfinished, record["unfinished_at"]),
    )


def unfinished_record(unfinished: Unfinished | None) -> dict[str, Scalar]:
    """What `JobStore.plan` writes of the transactions that a cut did not wait for."""
    if unfinished is None:
        return {"unfinished": None, "unfinished_at": None}
    return {"unfinished": unfinished.transactions, "unfinished_at": unfinished.at}


def slice_record(piece: Slice) -> dict[str, Scalar]:
    """A slice as `SLICE_FIELDS`."""
    return {name: getattr(piece, name) for name in SLICE_FIELDS} | {"kind": piece.kind.value, "origin": piece.origin.value}


def slice_from_record(record: Mapping[str, Any]) -> Slice:
    """The slice of `SLICE_FIELDS`."""
    said = {name: record[name] for name in SLICE_FIELDS}
    return Slice(**said | {"kind": FileKind(said["kind"]), "origin": Origin(said["origin"])})


def part_record(part: Part) -> dict[str, Scalar]:
    """A part as `PART_FIELDS`."""
    points = struct.pack(f"<{len(part.flush_points)}Q", *part.flush_points)
    return {name: getattr(part, name) for name in PART_FIELDS} | {
        "kind": part.kind.value,
        "codec": part.codec.value,
        "flush_points": points,
    }


def part_from_record(record: Mapping[str, Any]) -> Part:
    """The part of `PART_FIELDS`."""
    said = {name: record[name] for name in PART_FIELDS}
    points: bytes = said["flush_points"]
    said["flush_points"] = struct.unpack(f"<{len(points) // 8}Q", points)
    written_as = said.pop("written_as")
    said["source"] = None if written_as == said["key"] else written_as
    return Part(**said | {"kind": FileKind(said["kind"]), "codec": Codec(said["codec"])})


def rows_content(rows: Rows) -> bytes:
    """The rows of a job as compressed JSON. Takes some 10 ms for a group of 100,000: do not call it in an event loop."""
    match rows.selection:
        case Everything():
            selection: object = "everything"
        case EveryPatient():
            selection = "every-patient"
        case NoPatient():
            selection = "no-patient"
        case Compartments(references):
            selection = sorted(references)
    filters = [[item.type, [criteria.to_json() for criteria in item.alternatives], item.granted] for item in rows.filters]
    content = {
        "selection": selection,
        "rights": rows.rights,
        "filters": filters,
        "joined": sorted(rows.joined),
        "versions": rows.versions,
        "membership": None if rows.membership is None else _MEMBERSHIP.dump_python(rows.membership, mode="json"),
        "context": rows.context,
        "groups": sorted(rows.groups),
        "opened": sorted(rows.opened),
    }
    return zlib.compress(json.dumps(content).encode(), level=1)


def rows_from_content(content: bytes) -> Rows:
    """The rows of `rows_content`; as slow.

    Raises:
        ValueError: the selection is unknown. It is never widened to a known one.
    """
    said = json.loads(zlib.decompress(content))
    selection: Selection
    match said["selection"]:
        case "everything":
            selection = Everything()
        case "every-patient":
            selection = EveryPatient()
        case "no-patient":
            selection = NoPatient()
        case list(references):
            selection = Compartments(frozenset(references))
        case unknown:
            raise ValueError(f"unknown selection {unknown!r}")
    membership = said["membership"]
    return Rows(
        selection,
        said["rights"],
        tuple(Filter(type_, tuple(map(Criteria.from_json, several)), granted) for type_, several, granted in said["filters"]),
        frozenset(said["joined"]),
        tuple((id_, version) for id_, version in said["versions"]),
        None if membership is None else _MEMBERSHIP.validate_python(membership, strict=False),
        tuple(said["context"]),
        frozenset(said["groups"]),
        frozenset(said["opened"]),
    )


def registration_content(registration: Registration) -> str:
    """A registration as JSON; its key is the mount."""
    return json.dumps(
        {
            "mount": registration.mount,
            "adapter": registration.adapter,
            "named": registration.named,
            "dialect": registration.dialect,
            "audiences": registration.audiences,
            "settings": dict(registration.settings),
        }
    )


def registration_from_content(content: str) -> Registration:
    """The registration of `registration_content`."""
    said = json.loads(content)
    return Registration(**said | {"audiences": None if said["audiences"] is None else tuple(said["audiences"])})


def _request_content(request: Request) -> str:
    """A request as JSON, without the values that are defaults. Reasons stand as their names, which do not change."""
    content = _REQUEST.dump_python(request, mode="json", exclude_defaults=True)
    options, written = request.options, content.get("options", {})
    for ignored, said in zip(options.ignored, written.get("ignored", ()), strict=True):
        said["reason"] = ignored.reason.name
    if options.reports is not None:
        written["reports"]["codes"] = [[reason.name, code] for reason, code in options.reports.codes]
    return json.dumps(content)


def _request_from_content(content: str) -> Request:
    said = json.loads(content)
    options = said.get("options", {})
    for ignored in options.get("ignored", ()):
        ignored["reason"] = Reason[ignored["reason"]]
    if "reports" in options:
        options["reports"]["codes"] = [(Reason[reason], code) for reason, code in options["reports"]["codes"]]
    return _REQUEST.validate_python(said)
