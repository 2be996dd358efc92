"""What a kick-off comes to: everything that can be checked is checked here, and what the principal may see is frozen (law 8)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import anyio

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Associated, Options, ReportForm, Request
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
from fhir_bulk_middleware.contract.returned import authorised, references
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsExport,
    SupportsGroups,
    SupportsOrganising,
    SupportsPatients,
    SupportsProvenance,
    SupportsSnapshot,
)
from fhir_bulk_middleware.export.kick_off import KickOffParameters, Leniency, TypeQuery
from fhir_bulk_middleware.export.plan import PROVENANCE
from fhir_bulk_middleware.export.sizes import sizes_of
from fhir_bulk_middleware.export.types import ExportedTypes, TypeRules
from fhir_bulk_middleware.fhir.elements import ElementSelection, ElementsError
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Clock, Instant, Precision, render
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["Admission", "KickOff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KickOff:
    """A kick-off, read.

    Attributes:
        level: where it was kicked off.
        group_id: for `Level.GROUP`.
        parameters: its parameters.
        leniency: what to do about those that cannot be used.
        url: as the manifest repeats it.
        base_url: of the host's FHIR API, for URLs within resources.
        base_urls: under which an absolute reference is the host's own.
        separate_status: the client prefers the job's status in a header of its own.
        idempotency_key: the client's key, None if it gave none.
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


class Admission:
    """Turns wishes into requests, or refuses them.

    Args:
        resources: the storage adapter.
        groups: who knows the members of groups, None if nobody does.
        type_rules: decides the types.
        settings: limits, and what the operator grants.
        version: FHIR version of the resources.
        retention: seconds that the mount keeps finished jobs.
        precision: how much of the cut the mount's clients are shown.
        reports: how error files write their issues.
        clock: what time it is, for storages without a clock of their own.
        horizon: says since when the deletions of exports are known; None if they all are.
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        groups: SupportsGroups | None,
        type_rules: TypeRules,
        settings: Settings,
        version: FhirVersion,
        retention: float,
        precision: Precision,
        reports: ReportForm,
        clock: Clock,
        horizon: SupportsDeletionHorizon | None = None,
    ) -> None:
        self._resources = resources
        self._groups = groups
        self._type_rules = type_rules
        self._settings = settings
        self._version = version
        self._retention = retention
        self._precision = precision
        self._reports = reports
        self._clock = clock
        self._horizon = horizon
        self._reading = anyio.Lock()
        """Of several kick-offs one has its criteria read at a time, so that polls have their turn between two (law 38)."""

    async def decide(self, principal: Principal, kick_off: KickOff) -> tuple[Request, Rows]:
        """What to export, as asked and as allowed.

        Raises:
            Refused: for the first thing that stands against it.
        """
        authorisation = authorised(await self._resources.authorise(principal))
        parameters, leniency, scopes = kick_off.parameters, kick_off.leniency, Scopes.parse(principal.scopes)
        if kick_off.level is Level.GROUP:
            self._check_group_scope(scopes)
        selection = await self._selection(principal, kick_off)
        exported = self._type_rules.of(
            scopes, selection, authorisation, parameters.types, leniency, place=parameters.place("_type")
        )
        await self._check_since(parameters)
        self._check_sizes(parameters)
        associated, organised_by = self._arranged(kick_off, selection)
        if associated is not None:
            exported = self._type_rules.with_type(PROVENANCE, exported, scopes, authorisation)
        async with self._reading:
            filters = (*self._granted(exported), *self._asked_filters(parameters.filters, exported, leniency))
        request = Request(
            url=kick_off.url,
            level=kick_off.level,
            types=exported.types,
            window=Window(parameters.since, parameters.until),
            retention=self._retention,
            precision=self._precision,
            granular=exported.granular,
            options=replace(
                self._options(kick_off, associated, organised_by), deletions_since=await self._deletions_since(parameters.since)
            ),
        )
        membership = self._membership(principal, kick_off)
        if membership is not None:  # who is selected is read when the cut is fixed; until then it is nobody
            selection = Compartments(frozenset())
        return request, Rows(selection, authorisation.rights, filters, membership=membership)

    async def _selection(self, principal: Principal, kick_off: KickOff) -> Selection:
        patients = kick_off.parameters.patients
        if kick_off.level is Level.SYSTEM:
            if patients is not None:
                # Never set aside, however lenient: everybody's data instead of some patients' is no lesser wish (PT-02).
                raise Refused(
                    Reason.PARAMETER_UNSUPPORTED,
                    "patient has no meaning at system level.",
                    part=kick_off.parameters.place("patient"),
                )
            return Everything()
        if kick_off.level is Level.GROUP:
            members = await self._members(principal, kick_off.group_id)
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
                Reason.PATIENT_UNKNOWN,
                "A patient of the list cannot be exported here.",
                part=kick_off.parameters.place("patient"),
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

    def _membership(self, principal: Principal, kick_off: KickOff) -> Membership | None:
        """Whose members the job exports; read when its cut is fixed, for people join and leave while it is queued (law 33)."""
        if kick_off.level is not Level.GROUP or kick_off.group_id is None:
            return None
        older = self._settings.older_data_of_new_members and kick_off.parameters.since is not None
        return Membership(kick_off.group_id, principal, kick_off.parameters.patients, older)

    def _check_sizes(self, parameters: KickOffParameters) -> None:
        """The client's sizes must lie within the operator's, for they bind us (KO-30)."""
        least, most = self._settings.smallest_part_bytes, self._settings.part_bytes
        if parameters.largest_file is not None and parameters.largest_file < least:
            detail = f"_maximumFileSize must be at least {least} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameters.place("_maximumFileSize"))
        if parameters.smallest_file is not None and parameters.smallest_file > most:
            detail = f"_minimumFileSize must be at most {most} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameters.place("_minimumFileSize"))

    async def _check_since(self, parameters: KickOffParameters) -> None:
        """A change after an instant that has not come cannot be asked for; by the storage's own clock (law 2, KO-76)."""
        if parameters.since is None:
            return
        now = await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()
        if parameters.since > now:
            raise Refused(Reason.VALUE_MALFORMED, "_since lies in the future.", part=parameters.place("_since"))

    async def _deletions_since(self, since: Instant | None) -> Instant | None:
        """Since when all deletions are known, where that is later than the client's `_since`.

        Raises:
            Refused: it is later, and the operator wants such an export to be refused.
        """
        if since is None or self._horizon is None:
            return None
        known = await self._horizon.deletions_known_since()
        if known is None or known <= since:
            return None
        if self._settings.refuse_forgotten_deletions:
            detail = f"What was deleted before {render(known, self._precision)} is not known any more: export without _since."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part="http._since")
        return known

    def _granted(self, exported: ExportedTypes) -> Iterable[Filter]:
        """Granular scopes as filters; one that cannot be applied exactly grants nothing (law 8)."""
        characters = sum(len(query) for _, query in exported.granular)
        if len(exported.granular) > caps.GRANULAR_QUERIES or characters > caps.GRANULAR_CHARACTERS:
            detail = "The token's granular scopes restrict this export in too many ways; ask for fewer types with _type."
            raise Refused(Reason.TOO_MUCH, detail, part="http._type")
        for type_ in sorted({type_ for type_, _ in exported.granular}):
            alternatives = []
            for query in (query for granted, query in exported.granular if granted == type_):
                try:
                    alternatives.append(Criteria.parse(self._version, type_, query))
                except CriteriaError:
                    continue
            if not alternatives:
                raise Refused(Reason.SCOPE_MISSING, f"The token's scopes on {type_} cannot be applied here.")
            yield Filter(type_, tuple(alternatives))

    def _asked_filters(self, queries: Iterable[TypeQuery], exported: ExportedTypes, leniency: Leniency) -> Iterable[Filter]:
        """`_typeFilter`: for one type any of its queries, other types unaffected (TF-02, TF-03)."""
        alternatives: dict[str, list[Criteria]] = {}
        values = 0
        for query in queries:
            if query.type not in exported.types:
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

    def _options(self, kick_off: KickOff, associated: Associated | None, organised_by: str | None) -> Options:
        """How the output is shaped; made last, for it holds what was set aside until then."""
        parameters, leniency = kick_off.parameters, kick_off.leniency
        elements: list[str] = []
        for entry in parameters.elements:
            try:
                ElementSelection(self._version, [entry])
            except ElementsError as error:
                leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_elements", f"{error}.", parameters.place("_elements"))
                continue
            elements.append(entry)
        return Options(
            elements=tuple(elements),
            associated=associated,
            organised_by=organised_by,
            partial_manifests=parameters.partial_manifests,
            separate_status=kick_off.separate_status,
            smallest_file=parameters.smallest_file,
            largest_file=parameters.largest_file,
            sizes=sizes_of(self._settings, parameters.smallest_file, parameters.largest_file),
            ignored=leniency.ignored,
            reports=self._reports,
            base_url=kick_off.base_url,
            base_urls=kick_off.base_urls,
            version=self._version,
        )

    def _arranged(self, kick_off: KickOff, selection: Selection) -> tuple[Associated | None, str | None]:
        """Which Provenance comes along, and by what the output is organised, as far as this storage can do it."""
        leniency, associated, organised_by = kick_off.leniency, kick_off.parameters.associated, kick_off.parameters.organised_by
        if associated is not None and not isinstance(self._resources, SupportsProvenance):
            problem = "This server cannot tell which Provenance belongs to what."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "includeAssociatedData", problem, kick_off.parameters.place("includeAssociatedData")
            )
            associated = None
        if organised_by is not None and (kick_off.level is Level.SYSTEM or not isinstance(self._resources, SupportsOrganising)):
            problem = "This server does not organise this export's output by resource."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "organizeOutputBy", problem, kick_off.parameters.place("organizeOutputBy")
            )
            organised_by = None
        if organised_by is not None and not _of_patients(selection):
            problem = "Output is organised by patient, and this group has other members too."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "organizeOutputBy", problem, kick_off.parameters.place("organizeOutputBy")
            )
            organised_by = None
        if organised_by is not None and associated is not None:
            problem = "This server does not organise associated data by resource; ask for one or the other."
            leniency.unusable(
                Reason.PARAMETER_UNSUPPORTED, "includeAssociatedData", problem, kick_off.parameters.place("includeAssociatedData")
            )
            associated = None
        return associated, organised_by


def _of_patients(selection: Selection) -> bool:
    """Whether all that is selected lies in the compartments of patients."""
    return not isinstance(selection, Compartments) or all(text.startswith("Patient/") for text in selection.references)
