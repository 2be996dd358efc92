"""The values of reads: what an export selects, what the storage adapter is asked for, and what it returns."""

from dataclasses import dataclass, field
from enum import StrEnum

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Instant

__all__ = [
    "Authorisation",
    "Block",
    "Compartments",
    "Deletions",
    "EveryPatient",
    "Everything",
    "Filter",
    "Level",
    "Membership",
    "NoPatient",
    "Page",
    "ProvenanceTarget",
    "Query",
    "Range",
    "Rows",
    "Selection",
    "Unfinished",
    "Window",
]


class Level(StrEnum):
    """Where an export is kicked off (KO-01 to KO-03)."""

    SYSTEM = "system"
    PATIENT = "patient"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Everything:
    """All resources, tied to a patient or not (KO-01)."""


@dataclass(frozen=True, slots=True)
class EveryPatient:
    """All resources in the Patient compartment of any patient (KO-02)."""


@dataclass(frozen=True, slots=True)
class Compartments:
    """All resources in the compartment of at least one of these owners, and the owners themselves (KO-03).

    An empty set selects nothing. "No members" cannot turn into "no filter", which is another type.

    Attributes:
        references: owners of compartments, `Patient/123` (in STU2 and later also `Practitioner/9`, `Device/7`).
    """

    references: frozenset[str]


@dataclass(frozen=True, slots=True)
class NoPatient:
    """All resources that lie in the compartment of no patient; only a `SupportsNaming` is asked for them (law 40)."""


Selection = Everything | EveryPatient | Compartments | NoPatient
"""Which resources of a type a query asks for. An adapter tells the four apart; empty `Compartments` hold nothing."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A restriction on the resources of one type: at least one of the alternatives must hold (TF-02, SE-09).

    Attributes:
        type: the resource type.
        alternatives: queries on that type; never empty.
        granted: whether it is a right, from a granular scope, and so restricts context too; `_typeFilter` does not (TF-01).
    """

    type: str
    alternatives: tuple[Criteria, ...]
    granted: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """The group whose members a job exports, until they are read when its cut is fixed (law 33).

    Attributes:
        group_id: the group.
        principal: the client, as at kick-off (law 8); kept as long as the job's other rows, and never logged.
        patients: the members to keep, from the `patient` parameter; None for all members.
        older: whether older data of members who joined after `_since` is exported too (GR-01).
    """

    group_id: str
    principal: Principal = field(repr=False)
    patients: frozenset[str] | None = None
    older: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a job may hold; frozen at kick-off (law 8), except for the members of a group (law 33).

    Stores keep it apart from the job, since it can be large and a poll never reads it. A storage adapter never sees it.

    Attributes:
        selection: whose resources.
        rights: the adapter's context about rows (`Authorisation.rights`).
        filters: restrictions from `_typeFilter` and granular scopes; all filters of a type must hold.
        joined: members of the selection who joined their group after `_since` (GR-01); empty unless those are asked for.
        versions: for a remove-all, the ids and versions to remove, as at kick-off (law 26).
        membership: the group whose members become the selection when the job is planned; None after that, and at other levels.
        context: the types of which context is exported (law 40); empty for an export without context. At kick-off all types that
            the caller may read; when the job is planned, those of which some resource lies in no patient's compartment.
        groups: the Group resources that may be exported, `Group/9`: the one that was asked for and those inside it (law 41).
        opened: the types whose resources go out although they are another patient's: `Patient`, `Group`, `List` (law 41).
    """

    selection: Selection
    rights: str = field(default="", repr=False)
    filters: tuple[Filter, ...] = ()
    joined: frozenset[str] = frozenset()
    versions: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    membership: Membership | None = None
    context: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """The changes that are wanted: `since < lastUpdated <= until` (law 2).

    Attributes:
        since: exclusive; None from the beginning.
        until: inclusive; None up to the moment of reading, which only storages without snapshots are asked for.
    """

    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to read of one resource type, for one export.

    Attributes:
        type: the resource type.
        selection: whose resources.
        rights: the context that the adapter's `authorise` returned (`Authorisation.rights`); we do not read it.
        window: which changes.
        as_of: the cut. A storage with snapshots returns each resource as it was at this instant; None for other storages. The
            queries for context may have an earlier instant: `_until`, or `_since` (law 40).
        filters: restrictions on the resources, all of which must hold. We apply them to each line that comes; the adapter may
            leave out what does not meet them, so that less is read. `deletions` and `left` are never asked with filters.
        range: the range to read, as the adapter's `slices` returned it; empty for the whole type.
        page_bytes: the largest size of a page in bytes, unless it holds a single larger resource (law 16).
    """

    type: str
    selection: Selection
    rights: str = field(default="", repr=False)
    window: Window
    as_of: Instant | None
    filters: tuple[Filter, ...] = ()
    range: str = ""
    page_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProvenanceTarget:
    """Resources that a Provenance may be about (`SupportsProvenance`).

    Attributes:
        query: the resources, of one type.
        filters: further restrictions on them, all of which must hold; `Filters` applies them.
        entered: whether only those count that entered the selection within the query's window: as of `window.since` they did not
            exist, were deleted, or lay outside of it (law 34).
        before: with `entered`, the selection as of `window.since` where that was another: a group without its new members.
    """

    query: Query
    filters: tuple[Filter, ...] = ()
    entered: bool = False
    before: Selection | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a query that can be read on its own.

    Attributes:
        range: identifies the part to the adapter; its own format, at most 4 kB.
        estimate: about how many resources the part holds.
    """

    range: str
    estimate: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some resources, as canonical NDJSON (law 17).

    A page that is not so fails its job, and the log names the line and the reason. We check the form of each line, the count, the
    size (a page of several resources may have four times `Query.page_bytes`, or 1 MiB if that is more) and that no cursor
    repeats. We check for repeated resources only where two pages meet; the test suites check the rest.

    Attributes:
        lines: `count` lines of UTF-8, each one compact JSON object that begins with `{"resourceType":"` and ends with a
            newline. There is no raw newline within a resource.
        count: how many resources.
        cursor: where the next page begins: `pages` called with it continues after this page's last resource. At most 4,096
            characters; no two pages of a query have the same cursor.
        unreadable: `Type/id` of resources that belong here but could not be read; the job goes on without them and reports each
            in an error file (ST-15). A page may have these and no lines.
    """

    lines: bytes
    count: int
    cursor: str
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Some resources of one patient, for output that is organised by patient (FR-14).

    Attributes:
        reference: the patient, `Patient/123`.
        type: the type of all resources in the page.
        page: the resources. The Patient resource itself, if it is selected, is in the first block of its patient.
        cursor: where the next block begins; as `Page.cursor`, over the whole sequence of blocks.
    """

    reference: str
    type: str
    page: Page
    cursor: str


@dataclass(frozen=True, slots=True)
class Deletions:
    """Some resources that were deleted (DR-01), or that left a selection (law 34).

    Attributes:
        references: `Type/id` of each; at most 10,000, none twice.
        cursor: where the next page begins; as `Page.cursor`.
    """

    references: tuple[str, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Authorisation:
    """What a principal may export or delete; frozen into the job at kick-off (law 8).

    Attributes:
        types: the resource types.
        rights: the adapter's context about rows, at most 64 kB, in its own format: each `Query`, `Target` and removal carries it.
    """

    types: frozenset[str]
    rights: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The transactions that a cut did not wait for: what they commit is not in this export, and is told by the next one.

    Attributes:
        transactions: how many of those that were writing when the cut was chosen had not ended when it was recorded.
        at: when it was recorded.
    """

    transactions: int
    at: Instant
