"""What a job store writes down it reads back as it was (laws 5 and 8), through columns of any database."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.job import (
    Associated,
    Codec,
    Failure,
    FileKind,
    Idempotency,
    Ignored,
    Job,
    JobKind,
    JobState,
    Options,
    Origin,
    Part,
    ReportForm,
    Request,
    Sizes,
    Slice,
)
from fhir_bulk_middleware.contract.job_record import (
    JOB_FIELDS,
    PART_FIELDS,
    SLICE_FIELDS,
    job_from_record,
    job_record,
    part_from_record,
    part_record,
    registration_content,
    registration_from_content,
    rows_content,
    rows_from_content,
    slice_from_record,
    slice_record,
)
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    Level,
    Membership,
    NoPatient,
    Rows,
    Unfinished,
    Window,
)
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.outcomes import Reason

_text = st.text(max_size=20)
_count = st.integers(0, 2**53)
_instant = _count.map(Instant)
_texts = st.lists(_text, max_size=3).map(tuple)
_references = st.frozensets(_text, max_size=3)


def _perhaps(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_owners = st.builds(Owner, _text, _text, _perhaps(st.text(min_size=1, max_size=20)))
_options = st.builds(
    Options,
    elements=_texts,
    associated=_perhaps(st.sampled_from(Associated)),
    organised_by=_perhaps(_text),
    partial_manifests=st.booleans(),
    separate_status=st.booleans(),
    smallest_file=_perhaps(_count),
    largest_file=_perhaps(_count),
    sizes=_perhaps(st.builds(Sizes, _count, _count, _count, _count)),
    ignored=st.lists(st.builds(Ignored, st.sampled_from(Reason), _text, _perhaps(_text)), max_size=2).map(tuple),
    reports=_perhaps(
        st.builds(
            ReportForm, st.sampled_from(TextElement), st.lists(st.tuples(st.sampled_from(Reason), _text), max_size=3).map(tuple)
        )
    ),
    base_url=_perhaps(_text),
    base_urls=_texts,
    deletions_since=_perhaps(_instant),
    version=st.sampled_from(FhirVersion),
)
_requests = st.builds(
    Request,
    url=_text,
    level=st.sampled_from(Level),
    types=_texts,
    window=st.builds(Window, _perhaps(_instant), _perhaps(_instant)),
    retention=st.floats(0, 1e9),
    precision=st.sampled_from(Precision),
    granular=st.lists(st.tuples(_text, _text), max_size=2).map(tuple),
    options=st.just(Options()) | _options,
    kind=st.sampled_from(JobKind),
)
_jobs = st.builds(
    Job,
    id=_text,
    mount=_text,
    adapter=_text,
    owner=_owners,
    request=_requests,
    state=st.sampled_from(JobState),
    revision=_count,
    created_at=_instant,
    changed_at=_instant,
    cut=_perhaps(_instant),
    codec=_perhaps(st.sampled_from(Codec)),
    estimate=_count,
    done=_count,
    failure=_perhaps(st.builds(Failure, st.sampled_from(Reason), _text)),
    idempotency=_perhaps(st.builds(Idempotency, _text, _text)),
    more=st.booleans(),
    unfinished=_perhaps(st.builds(Unfinished, st.integers(1, 2**31), _instant)),
)
_slices = st.builds(
    Slice,
    number=_count,
    kind=st.sampled_from(FileKind),
    type=_text,
    range=_text,
    estimate=_count,
    cursor=_perhaps(_text),
    parts=_count,
    origin=st.sampled_from(Origin),
)
_parts = st.builds(
    Part,
    file_id=_text,
    slice=_count,
    number=_count,
    kind=st.sampled_from(FileKind),
    type=_text,
    key=_text,
    codec=st.sampled_from(Codec),
    count=_count,
    size=_count,
    sha256=_text,
    stored_size=_count,
    flush_points=st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple),
    sealed_at=_instant,
    severity=_perhaps(_text),
    continued_in=_perhaps(_text),
    references_key=_perhaps(_text),
    references_size=_count,
)
_principals = st.builds(
    Principal,
    owner=_owners,
    scopes=_texts,
    expires_at=_instant,
    client_id=_perhaps(_text),
    claims=st.dictionaries(_text, _text | _count | st.lists(_text, max_size=2), max_size=2),
)
_criteria = st.sampled_from(["status=final", "code=http://loinc.org|1,2", "date=ge2020-01-01&status:not=final"]).map(
    lambda query: Criteria.parse(FhirVersion.R4, "Observation", query)
)
_filters = st.builds(Filter, st.just("Observation"), st.lists(_criteria, min_size=1, max_size=2).map(tuple), st.booleans())
_rows = st.builds(
    Rows,
    st.just(Everything()) | st.just(EveryPatient()) | st.just(NoPatient()) | st.builds(Compartments, _references),
    _text,
    st.lists(
        st.builds(Filter, st.just("Observation"), st.lists(_criteria, min_size=1, max_size=2).map(tuple), st.booleans()),
        max_size=2,
    ).map(tuple),
    _references,
    st.lists(st.tuples(_text, _text), max_size=3).map(tuple),
    _perhaps(st.builds(Membership, _text, _principals, _perhaps(_references), st.booleans())),
    _texts,
    _references,
    _references,
)
_registrations = st.builds(
    Registration,
    mount=_text,
    adapter=_text,
    named=st.booleans(),
    dialect=_text,
    audiences=_perhaps(_texts),
    settings=st.dictionaries(_text, st.floats(0, 1e9), max_size=3),
)


@given(_jobs)
def test_a_job_comes_back_as_it_was_written(job: Job) -> None:
    record = job_record(job)
    assert tuple(record) == JOB_FIELDS
    assert {type(value) for value in record.values()} <= {str, int, type(None)}
    assert job_from_record(record) == job
    if not job.state.working:
        changed, kept_for = record["changed_at"], record["kept_for"]
        assert isinstance(changed, int)
        assert isinstance(kept_for, int)
        assert changed + kept_for == job.expires_at


@given(_slices)
def test_a_slice_comes_back_as_it_was_written(piece: Slice) -> None:
    record = slice_record(piece)
    assert tuple(record) == SLICE_FIELDS
    assert slice_from_record(record) == piece


@given(_parts)
def test_a_part_comes_back_as_it_was_written(part: Part) -> None:
    record = part_record(part)
    assert tuple(record) == PART_FIELDS
    assert part_from_record(record) == part


@given(_rows)
def test_rows_come_back_as_they_were_written(rows: Rows) -> None:
    back = rows_from_content(rows_content(rows))
    assert back == rows
    if rows.membership is not None and back.membership is not None:
        assert back.membership.principal.claims == rows.membership.principal.claims


def test_an_unknown_selection_is_never_widened() -> None:
    import zlib

    said = json.loads(zlib.decompress(rows_content(Rows(Everything()))))
    with pytest.raises(ValueError, match="unknown selection 'all'"):
        rows_from_content(zlib.compress(json.dumps(said | {"selection": "all"}).encode()))


@given(_registrations)
def test_a_registration_comes_back_as_it_was_written(registration: Registration) -> None:
    assert registration_from_content(registration_content(registration)) == registration


@given(_jobs)
def test_a_tombstone_keeps_nothing_that_a_client_sent(job: Job) -> None:
    """Law 38."""
    if job.state.live:
        content = json.loads(str(job_record(job.expired(Instant(1)))["request"]))
        assert set(content) <= {"url", "level", "types", "window", "retention", "precision", "kind"}
        assert (content["url"], content["window"]) == ("", {})
