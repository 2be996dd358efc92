"""The settings of the operator, with defaults, validated when they are made."""

import inspect
import textwrap
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fhir_bulk_middleware import environment
from fhir_bulk_middleware.smart.configuration import SmartConfiguration

__all__ = ["Settings"]

_MIB = 1024 * 1024
_WIDTH = 110


def _absolute(url: str) -> str:
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be printable ASCII: percent-encode the path, and write the host as punycode")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be an absolute http or https URL without query, fragment or user")
    return url.rstrip("/")


class Settings(BaseModel):
    """Limits, sizes and times. All durations are in seconds, all sizes in bytes.

    `Settings.from_environment()` takes them from environment variables: `FHIR_BULK_RETENTION=86400` is `retention=86400`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    public_base_url: Annotated[str, AfterValidator(_absolute)] | None = None
    """The URL at which clients reach the mount, path included (`https://ehr.example/fhir`). Without it, URLs are built from each
    request: its scheme, its Host header and the mount's path (KO-114). A request that a proxy sent with an inside address as Host
    is then refused. Set it behind every proxy."""

    fhir_base_url: Annotated[str, AfterValidator(_absolute)] | None = None
    """The base URL of the host's own FHIR API, if it differs from the mount's, as with `app.mount("/bulk", ...)`. Attachments are
    fetched below it (FR-19), and absolute references below it are the host's own."""

    retention: Annotated[float, Field(gt=0)] = 7 * 86_400
    """How long a finished job and its files are kept, from its completion. A dialect may fix another time. A job keeps
    the time that was set at its kick-off; `fhir-bulk jobs cancel` removes its files at once."""

    tombstone_retention: Annotated[float, Field(ge=0)] = 30 * 86_400
    """How long the id of an ended job is remembered, so that its owner gets the right answer (law 11)."""

    sweep_interval: Annotated[float, Field(gt=0)] = 60
    """How often expired jobs are ended and their files are removed."""

    jobs_per_owner: Annotated[int, Field(ge=1)] = 5
    """How many jobs of one owner may be queued or running; a further one is refused (KO-113)."""

    kick_offs_per_minute: Annotated[int, Field(ge=1)] = 60
    """How many kick-offs of one owner are handled in a minute, accepted or not (per server process); a sixth of them, but at
    least ten, may arrive at once."""

    refusals_per_minute: Annotated[int, Field(ge=1)] = 300
    """How many refusals one owner may cause in a minute before all its requests are refused (per server process)."""

    requests_per_owner: Annotated[int, Field(ge=1)] = 100
    """How many requests of one owner may be open at once, downloads until their last byte (per server process)."""

    body_bytes: Annotated[int, Field(ge=1024)] = _MIB
    """The largest body of a kick-off."""

    body_seconds: Annotated[float, Field(gt=0)] = 30
    """The time in which the body of a request must arrive."""

    page_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    """The size of a page (law 16)."""

    reuse: Literal["never", "owner", "everybody"] = "owner"
    """Whose earlier files an export may link instead of writing the same bytes again: nobody's, those of the same owner, or those
    of everybody with the same rights. It applies to full exports, at system level or of all patients without context, of a
    storage that can tell what did not change (`SupportsFingerprints`), into an output store that can link (`SupportsLinking`).
    With `everybody`, the speed of an export tells whether another client exported the same before (law 7)."""

    slice_bytes: Annotated[int, Field(ge=1024)] = 64 * _MIB
    """The intended size of a slice, the unit of parallel work and of retry."""

    part_bytes: Annotated[int, Field(ge=1024)] = 128 * _MIB
    """The largest size of a file, plain; after that the next file begins."""

    smallest_part_bytes: Annotated[int, Field(ge=1)] = _MIB
    """The smallest size of a file, plain, that is not the last of its slice (law 15); also the smallest `_maximumFileSize` that a
    client may ask for (KO-30). The largest size takes precedence."""

    group_scope: bool = False
    """Whether an export of a group requires a scope to read Group, besides those for the exported types (GR-03). The adapter
    decides who may export which group (`SupportsGroups.members`). Clients with a fixed list of scopes often leave Group out."""

    owner_includes_client: bool = False
    """Whether the owner of a job includes the OAuth client, besides issuer and subject. Then other clients of the same subject
    get the answer for unknown jobs, and a token that names no client is refused. For issuers whose subject is a person or an
    organisation with several clients. Existing jobs keep their owner, so a change hides them."""

    older_data_of_new_members: bool = False
    """Whether an export of a group with `_since` also holds the older data of members who joined after that instant (GR-01). The
    adapter must know when members joined (`SupportsJoining`)."""

    context: bool = True
    """Whether Patient and Group exports hold what exported resources refer to and what lies in no patient's compartment, such as
    Organizations, Practitioners and Locations (law 40). The adapter must be able to read it (`SupportsContext`). If off, such
    types cannot be asked for at these levels."""

    linked_patients: bool = False
    """Whether an export of some patients also holds other Patients that lie in their compartments, because `Patient.link` names
    one of them (law 41)."""

    other_groups: bool = False
    """Whether an export of some patients also holds other Groups that they are members of, with all members. Otherwise it holds
    the group that was asked for and those inside it (law 41)."""

    shared_lists: bool = False
    """Whether an export of some patients also holds a List that lies in their compartments and is not about one of them, or that
    names another patient (law 41)."""

    refuse_forgotten_deletions: bool = False
    """Whether an export is refused if the storage no longer knows all deletions since its `_since` (`SupportsDeletionHorizon`).
    Otherwise the manifest says since when they are complete."""

    deletion_retention: Annotated[float, Field(gt=0)] | None = None
    """How long our own stores and log of deletes keep deletions and superseded versions; none keeps them for ever. An export
    since an earlier instant is treated as `refuse_forgotten_deletions` says. At least `deadline` plus `retention`: then the next
    export after one whose files can still be fetched has all deletions. Space is freed one to two deadlines later."""

    signed_url_seconds: Annotated[float, Field(ge=1, le=7 * 86_400)] | None = None
    """For how long the URLs in a manifest work, if clients are to fetch files from the output store itself, without a token: each
    poll signs new ones (FR-05). At most 300 is advised, and long enough for a client to begin all its downloads. The output store
    must be able to sign (`SupportsSignedUrls`). None: clients fetch files from this server, with a token, as they always do in
    dialects whose document demands one."""

    manifest_files: Annotated[int, Field(ge=1)] = 50
    """How many files a page of a manifest lists, if the client allows partial manifests (KO-95)."""

    lease_seconds: Annotated[float, Field(gt=0)] = 30
    """How long a lease lasts: after that time without renewal, another worker may take the work."""

    renew_seconds: Annotated[float, Field(gt=0)] = 1
    """How often a worker renews its lease and reports its progress."""

    attempts: Annotated[int, Field(ge=1)] = 4
    """How many attempts a piece of work gets before its job fails."""

    removals_at_most: Annotated[int, Field(ge=1)] = 1_000
    """How many matches a conditional delete removes in one transaction. With more matches, nothing is removed."""

    removals_at_most_async: Annotated[int, Field(ge=1)] = 100_000
    """The same for a remove-all that runs as a job."""

    removal_batch: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """How many resources a remove-all job removes in one transaction. With a log of deletes (`log=`), which removes one resource
    after the other, progress is reported every 50 resources at least."""

    deadline: Annotated[float, Field(gt=0)] = 24 * 3600
    """How long a job may take before it fails."""

    retry_after: Annotated[int, Field(ge=1)] = 1
    """The shortest `Retry-After` of a poll."""

    retry_after_longest: Annotated[int, Field(ge=1)] = 60
    """The longest `Retry-After` of a poll."""

    poll_burst: Annotated[int, Field(ge=1)] = 20
    """How many polls of one job may arrive at once (per server process)."""

    polls_per_second: Annotated[float, Field(gt=0)] = 2
    """How many polls of one job per second are answered; more are refused (ST-05)."""

    first_poll_wait: Annotated[float, Field(ge=0, le=30)] = 1
    """How long the first poll of a job is held open if the job has not ended (law 19), so that the client of a short export gets
    the manifest with it. A client can ask for another time, for any poll, with `Prefer: wait=N`. With 0, only those are held."""

    settle: Annotated[float, Field(ge=0)] = 5
    """For adapters without snapshots: how long before the start of the export the cut lies, so that transactions that were open
    then are in the next export."""

    worker_processes: Annotated[int, Field(ge=0, le=64)] = 2
    """How many worker processes the embedded runner keeps on a machine. With 0, exports run in the server's event loop."""

    worker_niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """The `nice` value of worker processes, which gives precedence to the server. It costs nothing on an idle core. Beside
    another busy process a worker at 10 gets about a tenth of the core; set 0 where exports matter as much as the others."""

    health: bool = False
    """Whether `/$health` and `/$health/ready` below the mount answer probes of an orchestrator, without a token: whether stores
    can be reached, workers alive, jobs queued and since when, space left. No patient data, names or versions."""

    on_audit_failure: Literal["refuse", "go_on"] = "go_on"
    """What to do with a kick-off, a file or a delete that an audit (`AuditFile`, `AuditEvents`) cannot record. `refuse` answers
    503 before anything is served or removed. `go_on` carries it out; the audit later records how many events it missed."""

    audit_detail: Literal["digest", "clear"] = "digest"
    """How events name the patients and the values of criteria in requests: in clear, or as keyed digests. `fhir-bulk audit
    digest` makes the digest of a given identifier."""

    audit_key: str | None = None
    """The key of those digests: the path of a file that only the server can read, or `env:NAME`. Without it, the key of the audit
    file is used. Without that too, the key is random, and digests are comparable within one server process."""

    smart: SmartConfiguration | None = None
    """The content of `/.well-known/smart-configuration`, below the base and, if attached to a whole host, at its root. Without it
    there is no such document (SE-20)."""

    @classmethod
    def from_environment(cls, **given: Any) -> "Settings":
        """The settings of the environment variables `FHIR_BULK_...` (`fhir_bulk_middleware.environment`).

        Args:
            given: settings that take precedence over the environment.

        Raises:
            ValueError: a value is invalid. The message names the variable and does not quote its value.
        """
        read = environment.values({name: field for name, field in cls.model_fields.items() if name not in given})
        try:
            return cls.model_validate(read | given)
        except ValidationError as error:
            fault = environment.fault(error, dict(zip(given, given, strict=True)))
        raise ValueError(fault)  # out here, so that no traceback leads to pydantic's error, which quotes the values

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The base URLs below which an absolute reference leads to the host's own resources (KO-85)."""
        return tuple(dict.fromkeys(url for url in (self.public_base_url, self.fhir_base_url) if url is not None))

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.renew_seconds * 3 > self.lease_seconds:
            raise ValueError("lease_seconds must be at least three times renew_seconds")
        if self.retry_after > self.retry_after_longest:
            raise ValueError("retry_after must not exceed retry_after_longest")
        if self.page_bytes > self.part_bytes:
            raise ValueError("page_bytes must not exceed part_bytes")
        if self.deletion_retention is not None and self.deletion_retention < self.deadline + self.retention:
            raise ValueError("deletion_retention must be at least deadline plus retention")
        return self


def _explained() -> str:
    """Every setting with its meaning, for `help(Settings)`."""
    explained = [f"{name}: {' '.join((field.description or '').split())}" for name, field in Settings.model_fields.items()]
    lines = [textwrap.fill(each, _WIDTH, initial_indent="    ", subsequent_indent="        ") for each in explained]
    return "\n".join(["Attributes:", *lines])


Settings.__doc__ = f"{inspect.cleandoc(Settings.__doc__ or '')}\n\n{_explained()}\n"
