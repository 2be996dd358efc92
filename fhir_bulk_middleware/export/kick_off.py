"""A kick-off as it was read: the parameters, the level, and what the answer and the files need to know of the request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fhir_bulk_middleware.contract.job import Associated
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.instant import Instant

__all__ = ["KickOff", "KickOffParameters", "TypeQuery"]


@dataclass(frozen=True, slots=True)
class TypeQuery:
    """One `_typeFilter` query, split at its question mark (TF-01, TF-07).

    Attributes:
        type: the resource type before it.
        query: the search after it, names and values still percent-encoded (law 39).
        part: its place in the request, for refusals.
    """

    type: str
    query: str
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KickOffParameters:
    """The parameters of a kick-off.

    Attributes:
        types: `_type` in the order sent, without repeats; None for all types.
        since: `_since`.
        until: `_until`.
        elements: entries of `_elements`.
        filters: queries of `_typeFilter`.
        patients: `patient` as `Patient/id`; None without the parameter.
        associated: the least restrictive of `includeAssociatedData` (KO-90).
        organised_by: `organizeOutputBy`.
        partial_manifests: `allowPartialManifests`.
        smallest_file: `_minimumFileSize` in bytes.
        largest_file: `_maximumFileSize` in bytes.
        places: the place of each parameter's first occurrence, by name.
    """

    types: tuple[str, ...] | None = None
    since: Instant | None = None
    until: Instant | None = None
    elements: tuple[str, ...] = ()
    filters: tuple[TypeQuery, ...] = ()
    patients: frozenset[str] | None = None
    associated: Associated | None = None
    organised_by: str | None = None
    partial_manifests: bool = False
    smallest_file: int | None = None
    largest_file: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """The place of a parameter in the request; for one that was not sent, its place in a query string."""
        return self.places.get(name, f"http.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KickOff:
    """A kick-off, before anything in it is checked against rights and storage.

    Attributes:
        level: system, Patient or Group.
        group_id: for `Level.GROUP`.
        patient_id: the one patient of the path, for `Level.PATIENT`; None without one.
        parameters: its parameters.
        leniency: refuses or sets aside parameters that cannot be used.
        url: of the request, which the manifest repeats.
        base_url: of the host's FHIR API; attachment URLs are made absolute with it.
        base_urls: absolute references below one of these are the host's own.
        separate_status: the client prefers the job's status in a separate header.
        idempotency_key: the client's key, None if it sent none.
    """

    level: Level
    group_id: str | None
    parameters: KickOffParameters
    leniency: Leniency
    url: str
    base_url: str
    base_urls: tuple[str, ...] = ()
    separate_status: bool = False
    idempotency_key: str | None = None
    patient_id: str | None = None

    @property
    def named_patients(self) -> frozenset[str]:
        """The patients that the request names, as `Patient/id`: in its path or by `patient`."""
        if self.patient_id is not None:
            return frozenset({f"Patient/{self.patient_id}"})
        return self.parameters.patients or frozenset()
