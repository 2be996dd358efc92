"""What is to be read: values that travel from the kick-off, through the job, to the storage adapter."""

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
    "Page",
    "ProvenanceTarget",
    "Query",
    "Range",
    "Rows",
    "Selection",
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
    """What lies in the Patient compartment of any patient (KO-02)."""


@dataclass(frozen=True, slots=True)
class Compartments:
    """What lies in the compartment of at least one of these, themselves included (KO-03).

    An empty set selects nothing. "No members" can not turn into "no filter": that would be another type.

    Attributes:
        references: owners of compartments, `Patient/123` (in STU2 and later also `Practitioner/9`, `Device/7`).
    """

    references: frozenset[str]


Selection = Everything | EveryPatient | Compartments


@dataclass(frozen=True, slots=True)
class Filter:
    """A restriction on the resources of one type: at least one of the alternatives must hold (TF-02, SE-09).

    Attributes:
        type: the resource type.
        alternatives: queries on that type; never empty.
    """

    type: str
    alternatives: tuple[Criteria, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """Which group's members a job exports, until they are read when its cut is fixed (law 33).

    Attributes:
        group_id: the group.
        principal: who asked, as at kick-off (law 8); it is kept as long as the job's other rows, and never logged.
        patients: the members to keep, from the `patient` parameter; None for all members.
        older: whether the older data of those who joined after `_since` is exported too (GR-01).
    """

    group_id: str
    principal: Principal = field(repr=False)
    patients: frozenset[str] | None = None
    older: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of the asked types a job may hold; frozen at kick-off (law 8), but for the members of a group (law 33).

    It can be large, so a poll never reads it: stores keep it apart from the job.

    Attributes:
        selection: whose resources.
        rights: the adapter's note about rows (`Authorisation.rights`).
        filters: further restrictions, from `_typeFilter` and from granular scopes; all of a type's must hold.
        joined: those of the selection that joined their group after `_since` (GR-01); empty where that is not looked at.
        versions: for a job that removes, what it removes: ids and versions as they were at its kick-off (law 26).
        membership: the group whose members become the selection when the job is planned; None where that is done, or at other
            levels. An adapter always sees None.
    """

    selection: Selection
    rights: str = field(default="", repr=False)
    filters: tuple[Filter, ...] = ()
    joined: frozenset[str] = frozenset()
    versions: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    membership: Membership | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Which changes are wanted: `since < lastUpdated <= until` (law 2).

    Attributes:
        since: exclusive; None for "from the beginning".
        until: inclusive; None for "whatever is there when it is read", which only stores without snapshots are given.
    """

    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One resource type of one export, as the adapter is asked for it. What we filter and join ourselves is not in it.

    Attributes:
        type: the resource type.
        selection: whose resources.
        rights: the context that `authorise` returned with the types (`Authorisation.rights`), unread by us.
        window: which changes.
        as_of: the cut. A store with snapshots returns each resource as it was at this instant; None for other stores.
        range: the part of the type to read, as the adapter's `slices` said it; empty for the whole type.
        page_bytes: how large a page may be; a page with a single larger resource is the exception (law 16).
    """

    type: str
    selection: Selection
    rights: str = field(default="", repr=False)
    window: Window
    as_of: Instant | None
    range: str = ""
    page_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProvenanceTarget:
    """Resources that a Provenance may be about (`SupportsProvenance`).

    Attributes:
        query: the resources, of one type.
        filters: further restrictions on them, all of which must hold; `Filters` applies them.
    """

    query: Query
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a query that can be read on its own.

    Attributes:
        range: what the adapter needs to find it again, in its own words; at most 4 kB.
        estimate: about how many resources it holds.
    """

    range: str
    estimate: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some resources, as canonical NDJSON (law 17).

    A page that is otherwise fails its job, and the log says which line and why. Checked are the form of each line, the count, the
    size (above four times `Query.page_bytes`, and 1 MiB at least, a page of several resources is refused) and that cursors do
    not come again. Not looked for are resources that come twice, but at the border of two pages; the kit tests that.

    Attributes:
        lines: `count` lines of UTF-8, each one compact JSON object that begins with `{"resourceType":"` and ends with a
            newline. There is no raw newline within a resource.
        count: how many resources.
        cursor: where the next page begins: `pages` called with it goes on after this page's last resource. At most 4,096
            characters; no two pages of a query have the same.
        unreadable: `Type/id` of resources that belong here but could not be given out; the job goes on without them and reports
            each in an error file (ST-15). A page may have these and no lines.
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
        type: the type of all the resources in the page.
        page: the resources. The Patient resource itself, if it is wanted, comes in the first block of its patient.
        cursor: where the next block begins; as `Page.cursor` for the whole sequence of blocks.
    """

    reference: str
    type: str
    page: Page
    cursor: str


@dataclass(frozen=True, slots=True)
class Deletions:
    """Some resources that were deleted (DR-01).

    Attributes:
        references: `Type/id` of each; at most 10,000, none twice.
        cursor: where the next ones begin.
    """

    references: tuple[str, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Authorisation:
    """What the storage lets a principal export; frozen into the job at kick-off (law 8).

    Attributes:
        types: the resource types that can be exported.
        rights: the adapter's own note about rows, at most 64 kB, handed back to it with each `Query`. Empty for "all rows".
    """

    types: frozenset[str]
    rights: str = field(default="", repr=False)
