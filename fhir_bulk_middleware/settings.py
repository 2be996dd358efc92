"""What an operator may set, validated once; every value has a sane default."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fhir_bulk_middleware.smart.configuration import SmartConfiguration

__all__ = ["Settings"]

_MIB = 1024 * 1024


def _absolute(url: str) -> str:
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be printable ASCII: percent-encode the path, and write the host as punycode")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be an absolute http or https URL without query, fragment or user")
    return url.rstrip("/")


class Settings(BaseModel):
    """Limits, sizes and times. All durations are in seconds, all sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    public_base_url: Annotated[str, AfterValidator(_absolute)] | None = None
    """The URL under which clients reach the mount, path included (`https://ehr.example/fhir`). Without it URLs are built from the
    request: its scheme, its Host header (checked for form only) and the mount's path (KO-114)."""

    fhir_base_url: Annotated[str, AfterValidator(_absolute)] | None = None
    """The base URL of the host's own FHIR API where that is not the mount's, as with `app.mount("/bulk", ...)`: attachments are
    fetched below it (FR-19), and absolute references below it are the host's own."""

    retention: Annotated[float, Field(gt=0)] = 7 * 86_400
    """How long a finished job and its files are kept, from its completion. A dialect may say otherwise."""

    tombstone_retention: Annotated[float, Field(ge=0)] = 30 * 86_400
    """How long an ended job's id is remembered, so that its owner can be told what became of it (law 11)."""

    sweep_interval: Annotated[float, Field(gt=0)] = 60
    """How often expired jobs are ended and space is given back."""

    jobs_per_owner: Annotated[int, Field(ge=1)] = 5
    """How many jobs of one owner may be queued or running at once; one more is refused (KO-113)."""

    kick_offs_per_minute: Annotated[int, Field(ge=1)] = 60
    """How many kick-offs of one owner are looked at in a minute, accepted or not (per server process); a sixth of them, and at
    least ten, may come at once."""

    refusals_per_minute: Annotated[int, Field(ge=1)] = 300
    """How many refusals one owner may cause in a minute before all its requests are told to wait (per server process)."""

    requests_per_owner: Annotated[int, Field(ge=1)] = 100
    """How many requests of one owner may be in the works at once, downloads to their last byte (per server process)."""

    body_bytes: Annotated[int, Field(ge=1024)] = _MIB
    """How large the body of a kick-off may be."""

    body_seconds: Annotated[float, Field(gt=0)] = 30
    """In which time the body of a request must have arrived."""

    page_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    """How large a page may be (law 16)."""

    slice_bytes: Annotated[int, Field(ge=1024)] = 64 * _MIB
    """How large a slice should be; the unit of parallel work and of retry."""

    part_bytes: Annotated[int, Field(ge=1024)] = 128 * _MIB
    """How large a file may become, plain, before the next one is begun."""

    smallest_part_bytes: Annotated[int, Field(ge=1)] = _MIB
    """How small a file may be, plain, that is not the last of its slice (law 15); and the least that a client may ask for as the
    largest (KO-30). A file never becomes larger than it may for the sake of this."""

    group_scope: bool = False
    """Whether an export of a group takes a scope to read Group, beside those for what it exports (GR-03). Who may export which
    group is for the adapter to say (`SupportsGroups.members`); clients that ask for a fixed list of scopes often leave Group
    out."""

    owner_includes_client: bool = False
    """Whether a job belongs to the OAuth client that began it, beside issuer and subject: then another client of the same subject
    gets what a stranger gets, and a token that names no client is refused. For issuers whose subject is a person or an
    organisation with several clients. Jobs keep the owner that they began with, so a change hides the jobs there are."""

    older_data_of_new_members: bool = False
    """Whether an export of a group since an instant also holds what is older, of those who joined the group after it (GR-01).
    Needs an adapter that knows when somebody joined (`SupportsJoining`)."""

    refuse_forgotten_deletions: bool = False
    """Whether an export is refused since an instant from which on the storage does not know all deletions any more
    (`SupportsDeletionHorizon`); otherwise its manifest says since when they are complete."""

    deletion_retention: Annotated[float, Field(gt=0)] | None = None
    """How long our own stores and log of deletes keep deletions and superseded versions; none keeps them for ever. An export
    since an earlier instant is treated as `refuse_forgotten_deletions` says. At least `deadline` plus `retention`: then the next
    export after one whose files can still be fetched has all deletions. Space is freed one to two deadlines later."""

    manifest_files: Annotated[int, Field(ge=1)] = 50
    """How many files a page of a manifest lists where the client allows partial manifests (KO-95)."""

    lease_seconds: Annotated[float, Field(gt=0)] = 30
    """How long a worker may be silent before its work is given to another."""

    renew_seconds: Annotated[float, Field(gt=0)] = 1
    """How often a worker says that it is alive, and how far it is."""

    attempts: Annotated[int, Field(ge=1)] = 4
    """How often a piece of work is begun before its job fails."""

    removals_at_most: Annotated[int, Field(ge=1)] = 1_000
    """How many matches a conditional delete removes in one transaction; one more, and nothing is removed."""

    removals_at_most_async: Annotated[int, Field(ge=1)] = 100_000
    """The same for a remove-all that runs as a job."""

    removal_batch: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """How many resources such a job removes in one transaction."""

    deadline: Annotated[float, Field(gt=0)] = 24 * 3600
    """How long a job may take; after that it fails, whatever its workers say."""

    retry_after: Annotated[int, Field(ge=1)] = 1
    """Shortest time between two polls that is asked of a client."""

    retry_after_longest: Annotated[int, Field(ge=1)] = 60
    """Longest time between two polls that is asked of a client."""

    poll_burst: Annotated[int, Field(ge=1)] = 20
    """How many polls of one job may come at once (per server process)."""

    polls_per_second: Annotated[float, Field(gt=0)] = 2
    """How many polls of one job per second are answered for long; more are told to wait (ST-05)."""

    settle: Annotated[float, Field(ge=0)] = 5
    """For adapters without snapshots: how far before the export's begin the cut lies, so that transactions that were open
    then are in the next export."""

    worker_processes: Annotated[int, Field(ge=0, le=64)] = 2
    """How many worker processes the embedded runner keeps per machine; 0 exports in the server's own loop."""

    worker_niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """How much worker processes give way to others on their machine, the server first of all (`nice`). A worker that has a core
    for itself loses nothing by it."""

    on_audit_failure: Literal["refuse", "go_on"] = "go_on"
    """What becomes of a kick-off, a file or a delete that an audit (`AuditFile`, `AuditEvents`) cannot record: `refuse` answers
    503 before anything is served or removed; `go_on` carries it out, and the audit is told how many events it missed, and when,
    once it records again."""

    audit_detail: Literal["digest", "clear"] = "digest"
    """How events name the patients and the values of criteria that clients ask for: as keyed digests, which
    `fhir-bulk audit digest` makes of an identifier that one looks for, or in clear."""

    audit_key: str | None = None
    """The key of those digests: the path of a file that only the server can read, or `env:NAME`. Without it that of the audit
    file is used; where there is none either, digests can be compared as long as one server process lives."""

    smart: SmartConfiguration | None = None
    """What `/.well-known/smart-configuration` says, below the base and, where we are attached to a whole host, at its root.
    Without it there is no such document (SE-20)."""

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
