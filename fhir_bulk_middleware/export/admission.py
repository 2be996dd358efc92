"""What a kick-off comes to: everything that can be checked is checked here, and what the principal may see is frozen (law 8)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import anyio

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.answers import authorised, references
from fhir_bulk_middleware.contract.job import Associated, Options, Request
from fhir_bulk_middleware.contract.protocols import (
    SupportsDeletionHorizon,
    SupportsExport,
    SupportsGroups,
    SupportsOrganising,
    SupportsPatients,
    SupportsProvenance,
    SupportsSnapshot,
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
from fhir_bulk_middleware.export.kick_off import Asked, Leniency, TypeQuery
from fhir_bulk_middleware.export.plan import PROVENANCE
from fhir_bulk_middleware.export.sizes import sizes_of
from fhir_bulk_middleware.export.types import Coverage, Covered
from fhir_bulk_middleware.fhir.elements import ElementSelection, ElementsError
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Clock, Instant, Precision, render
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["Admission", "Wish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A kick-off, read.

    Attributes:
        level: where it was kicked off.
        group_id: for `Level.GROUP`.
        asked: its parameters.
        leniency: what to do about those that cannot be used.
        url: as the manifest repeats it.
        base_url: of the host's FHIR API, for URLs within resources.
        base_urls: under which an absolute reference is the host's own.
        separate_status: the client prefers the job's status in a header of its own.
        unreadable: how a resource is reported that could not be given out (`Options.unreadable`).
        idempotency_key: the client's key, None if it gave none.
    """

    level: Level
    group_id: str | None
    asked: Asked
    leniency: Leniency
    url: str
    base_url: str
    base_urls: tuple[str, ...] = ()
    separate_status: bool = False
    unreadable: str = ""
    idempotency_key: str | None = None


class Admission:
    """Turns wishes into requests, or refuses them.

    Args:
        resources: the storage adapter.
        groups: who knows the members of groups, None if nobody does.
        coverage: decides the types.
        settings: limits, and what the operator grants.
        version: FHIR version of the resources.
        retention: seconds that the mount keeps finished jobs.
        precision: how much of the cut the mount's clients are shown.
        clock: what time it is, for storages without a clock of their own.
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        groups: SupportsGroups | None,
        coverage: Coverage,
        settings: Settings,
        version: FhirVersion,
        retention: float,
        precision: Precision,
        clock: Clock,
    ) -> None:
        self._resources = resources
        self._groups = groups
        self._coverage = coverage
        self._settings = settings
        self._version = version
        self._retention = retention
        self._precision = precision
        self._clock = clock
        self._reading = anyio.Lock()
        """Of several kick-offs one has its criteria read at a time, so that polls have their turn between two (law 38)."""

    async def decide(self, principal: Principal, wish: Wish) -> tuple[Request, Rows]:
        """What to export, as asked and as allowed.

        Raises:
            Refused: for the first thing that stands against it.
        """
        authorisation = authorised(await self._resources.authorise(principal))
        asked, leniency, scopes = wish.asked, wish.leniency, Scopes.parse(principal.scopes)
        if wish.level is Level.GROUP:
            self._check_group_scope(scopes)
        selection = await self._selection(principal, wish)
        covered = self._coverage.of(scopes, selection, authorisation, asked.types, leniency, place=asked.place("_type"))
        await self._check_since(asked)
        self._check_sizes(asked)
        associated, organised_by = self._arranged(wish, selection)
        if associated is not None:
            covered = self._coverage.with_type(PROVENANCE, covered, scopes, authorisation)
        async with self._reading:
            filters = (*self._granted(covered), *self._asked_filters(asked.filters, covered, leniency))
        request = Request(
            url=wish.url,
            level=wish.level,
            types=covered.types,
            window=Window(asked.since, asked.until),
            retention=self._retention,
            precision=self._precision,
            granular=covered.granular,
            options=replace(
                self._options(wish, associated, organised_by), deletions_since=await self._deletions_since(asked.since)
            ),
        )
        membership = self._membership(principal, wish)
        if membership is not None:  # who is selected is read when the cut is fixed; until then it is nobody
            selection = Compartments(frozenset())
        return request, Rows(selection, authorisation.rights, filters, membership=membership)

    async def _selection(self, principal: Principal, wish: Wish) -> Selection:
        patients = wish.asked.patients
        if wish.level is Level.SYSTEM:
            if patients is not None:
                # Never set aside, however lenient: everybody's data instead of some patients' is no lesser wish (PT-02).
                raise Refused(
                    Reason.PARAMETER_UNSUPPORTED, "patient has no meaning at system level.", part=wish.asked.place("patient")
                )
            return Everything()
        if wish.level is Level.GROUP:
            members = await self._members(principal, wish.group_id)
            if patients is None:
                return Compartments(members)
            known = patients & members
        elif patients is None:
            return EveryPatient()
        elif isinstance(self._resources, SupportsPatients):
            known = patients & references(await self._resources.patients(patients, principal), "patients")
        else:
            known = patients
        if known != patients:
            # Which of them is not said: a caller must not learn of patients that it may not see (PT-04).
            raise Refused(
                Reason.PATIENT_UNKNOWN, "A patient of the list cannot be exported here.", part=wish.asked.place("patient")
            )
        return Compartments(known)

    async def _members(self, principal: Principal, group_id: str | None) -> frozenset[str]:
        members = None
        if self._groups is not None and group_id is not None and is_resource_id(group_id):
            members = await self._groups.members(group_id, principal)
        if members is None:
            raise Refused(Reason.GROUP_UNKNOWN)
        return references(members, "members")

    def _check_group_scope(self, scopes: Scopes) -> None:
        """By setting, refuse who may not read groups (GR-03). The refusal is the same for every group, there or not.

        A granular scope on Group does not do: it would have to be applied to the group, which may live elsewhere (law 8).
        """
        if self._settings.group_scope and not scopes.may_read("Group"):
            raise Refused(Reason.SCOPE_MISSING, "The token's scopes do not cover Group, which an export of a group reads.")

    def _membership(self, principal: Principal, wish: Wish) -> Membership | None:
        """Whose members the job exports; read when its cut is fixed, for people join and leave while it is queued (law 33)."""
        if wish.level is not Level.GROUP or wish.group_id is None:
            return None
        older = self._settings.older_data_of_new_members and wish.asked.since is not None
        return Membership(wish.group_id, principal, wish.asked.patients, older)

    def _check_sizes(self, asked: Asked) -> None:
        """The client's sizes must lie within the operator's, for they bind us (KO-30)."""
        least, most = self._settings.smallest_part_bytes, self._settings.part_bytes
        if asked.largest_file is not None and asked.largest_file < least:
            detail = f"_maximumFileSize must be at least {least} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=asked.place("_maximumFileSize"))
        if asked.smallest_file is not None and asked.smallest_file > most:
            detail = f"_minimumFileSize must be at most {most} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=asked.place("_minimumFileSize"))

    async def _check_since(self, asked: Asked) -> None:
        """A change after an instant that has not come cannot be asked for; by the storage's own clock (law 2, KO-76)."""
        if asked.since is None:
            return
        now = await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()
        if asked.since > now:
            raise Refused(Reason.VALUE_MALFORMED, "_since lies in the future.", part=asked.place("_since"))

    async def _deletions_since(self, since: Instant | None) -> Instant | None:
        """Since when all deletions are known, where that is later than the client's `_since`.

        Raises:
            Refused: it is later, and the operator wants such an export to be refused.
        """
        if since is None or not isinstance(self._resources, SupportsDeletionHorizon):
            return None
        known = await self._resources.deletions_known_since()
        if known is None or known <= since:
            return None
        if self._settings.refuse_forgotten_deletions:
            detail = f"What was deleted before {render(known, self._precision)} is not known any more: export without _since."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part="http._since")
        return known

    def _granted(self, covered: Covered) -> Iterable[Filter]:
        """Granular scopes as filters; one that cannot be applied exactly grants nothing (law 8)."""
        characters = sum(len(query) for _, query in covered.granular)
        if len(covered.granular) > caps.GRANULAR_QUERIES or characters > caps.GRANULAR_CHARACTERS:
            detail = "The token's granular scopes restrict this export in too many ways; ask for fewer types with _type."
            raise Refused(Reason.TOO_MUCH, detail, part="http._type")
        for type_ in sorted({type_ for type_, _ in covered.granular}):
            alternatives = []
            for query in (query for granted, query in covered.granular if granted == type_):
                try:
                    alternatives.append(Criteria.parse(self._version, type_, query))
                except CriteriaError:
                    continue
            if not alternatives:
                raise Refused(Reason.SCOPE_MISSING, f"The token's scopes on {type_} cannot be applied here.")
            yield Filter(type_, tuple(alternatives))

    def _asked_filters(self, queries: Iterable[TypeQuery], covered: Covered, leniency: Leniency) -> Iterable[Filter]:
        """`_typeFilter`: for one type any of its queries, other types unaffected (TF-02, TF-03)."""
        alternatives: dict[str, list[Criteria]] = {}
        values = 0
        for query in queries:
            if query.type not in covered.types:
                problem = f"It names {query.type}, which is not among the exported types."
                leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_typeFilter", problem, query.part)
                continue
            try:
                criteria = Criteria.parse(self._version, query.type, query.query)
            except CriteriaError as error:
                if error.excessive:
                    raise Refused(Reason.TOO_MUCH, f"_typeFilter: {error}.", part=query.part) from None
                if error.malformed:
                    raise Refused(Reason.VALUE_MALFORMED, f"_typeFilter: {error}.", part=query.part) from None
                leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_typeFilter", f"{error}.", query.part)
                continue
            values += criteria.size
            if values > caps.CRITERIA_VALUES:
                detail = f"All _typeFilter together may have {caps.CRITERIA_VALUES:,} search values; split the export."
                raise Refused(Reason.TOO_MUCH, detail, part=query.part)
            alternatives.setdefault(query.type, []).append(criteria)
        return (Filter(type_, tuple(several)) for type_, several in alternatives.items())

    def _options(self, wish: Wish, associated: Associated | None, organised_by: str | None) -> Options:
        """How the output is shaped; made last, for it holds what was set aside until then."""
        asked, leniency = wish.asked, wish.leniency
        elements: list[str] = []
        for entry in asked.elements:
            try:
                ElementSelection(self._version, [entry])
            except ElementsError as error:
                leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_elements", f"{error}.", asked.place("_elements"))
                continue
            elements.append(entry)
        return Options(
            elements=tuple(elements),
            associated=associated,
            organised_by=organised_by,
            partial_manifests=asked.partial_manifests,
            separate_status=wish.separate_status,
            smallest_file=asked.smallest_file,
            largest_file=asked.largest_file,
            sizes=sizes_of(self._settings, asked.smallest_file, asked.largest_file),
            ignored=leniency.ignored,
            unreadable=wish.unreadable,
            base_url=wish.base_url,
            base_urls=wish.base_urls,
            version=self._version,
        )

    def _arranged(self, wish: Wish, selection: Selection) -> tuple[Associated | None, str | None]:
        """Which Provenance comes along, and by what the output is organised, as far as this storage can do it."""
        leniency, associated, organised_by = wish.leniency, wish.asked.associated, wish.asked.organised_by
        if associated is not None and not isinstance(self._resources, SupportsProvenance):
            problem = "This server cannot tell which Provenance belongs to what."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "includeAssociatedData", problem, wish.asked.place("includeAssociatedData")
            )
            associated = None
        if organised_by is not None and (wish.level is Level.SYSTEM or not isinstance(self._resources, SupportsOrganising)):
            problem = "This server does not organise this export's output by resource."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "organizeOutputBy", problem, wish.asked.place("organizeOutputBy"))
            organised_by = None
        if organised_by is not None and not _of_patients(selection):
            problem = "Output is organised by patient, and this group has other members too."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "organizeOutputBy", problem, wish.asked.place("organizeOutputBy"))
            organised_by = None
        if organised_by is not None and associated is not None:
            problem = "This server does not organise associated data by resource; ask for one or the other."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "includeAssociatedData", problem, wish.asked.place("includeAssociatedData")
            )
            associated = None
        return associated, organised_by


def _of_patients(selection: Selection) -> bool:
    """Whether all that is selected lies in the compartments of patients."""
    return not isinstance(selection, Compartments) or all(text.startswith("Patient/") for text in selection.references)
