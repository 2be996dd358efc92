"""Decides what a kick-off may export: checks all that can be checked before the 202, and freezes the caller's rights (law 8)."""

from dataclasses import replace

import anyio

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Associated, Options, ReportForm, Request
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
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
from fhir_bulk_middleware.export.cohort import opened_types
from fhir_bulk_middleware.export.kick_off import KickOff, KickOffParameters
from fhir_bulk_middleware.export.plan import PROVENANCE
from fhir_bulk_middleware.export.row_filters import granted_filters, requested_filters
from fhir_bulk_middleware.export.sizes import sizes_of
from fhir_bulk_middleware.export.types import TypeRules
from fhir_bulk_middleware.fhir.elements import ElementSelection, ElementsError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Clock, Instant, Precision, render
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["Admission"]


class Admission:
    """Turns kick-offs into requests, or refuses them.

    Args:
        resources: the storage adapter.
        groups: knows the members of groups; None if exports of groups are not offered.
        type_rules: decides the exported types.
        settings: limits, and which optional rights the operator grants.
        version: FHIR version of the resources.
        retention: seconds that the mount keeps finished jobs.
        precision: of the cut, as the mount's clients see it.
        reports: how error files write their issues.
        clock: the current time, for storages without a clock of their own.
        horizon: knows since when the deletions of exports are complete; None if they always are.
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
        """Held while criteria are parsed: one kick-off at a time, so that polls run between two (law 38)."""

    async def decide(self, principal: Principal, kick_off: KickOff) -> tuple[Request, Rows]:
        """The request to store, and the rows that the job may hold.

        Raises:
            Refused: for the first reason found.
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
            filters = (
                *granted_filters(self._version, exported),
                *requested_filters(self._version, parameters.filters, exported, leniency),
            )
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
        if membership is not None:  # the members are read when the cut is fixed; until then nobody is selected
            selection = Compartments(frozenset())
        return request, Rows(
            selection,
            authorisation.rights,
            filters,
            membership=membership,
            context=exported.context,
            groups=frozenset() if membership is None else frozenset({f"Group/{membership.group_id}"}),
            opened=opened_types(self._settings),
        )

    async def _selection(self, principal: Principal, kick_off: KickOff) -> Selection:
        patients = kick_off.parameters.patients
        if kick_off.level is Level.SYSTEM:
            if patients is not None:
                # Refused even if lenient: ignoring it would export everybody's data instead of some patients' (PT-02).
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
        elif kick_off.patient_id is not None:
            return await self._one_patient(principal, kick_off, kick_off.patient_id)
        elif patients is None:
            return EveryPatient()
        elif isinstance(self._resources, SupportsPatients):
            known = patients & references(await self._resources.patients(patients, principal), "patients")
        else:
            known = patients
        if known != patients:
            # The answer does not say which: a caller must not learn of patients that it may not see (PT-04).
            raise Refused(
                Reason.PATIENT_UNKNOWN,
                "A patient of the list cannot be exported here.",
                part=kick_off.parameters.place("patient"),
            )
        return Compartments(known)

    async def _one_patient(self, principal: Principal, kick_off: KickOff, patient_id: str) -> Selection:
        """The compartment of the patient in the path. One who is unknown, gone or not to be seen is answered alike (law 7)."""
        if kick_off.parameters.patients is not None:
            # Refused even if lenient: the client may expect that it widens the export (PT-02).
            raise Refused(
                Reason.PARAMETER_UNSUPPORTED,
                "patient has no meaning here, since the path names the patient.",
                part=kick_off.parameters.place("patient"),
            )
        asked = frozenset({f"Patient/{patient_id}"})
        known = asked if is_resource_id(patient_id) else frozenset[str]()
        if known and isinstance(self._resources, SupportsPatients):
            known = asked & references(await self._resources.patients(asked, principal), "patients")
        if known != asked:
            raise Refused(Reason.PATIENT_OF_PATH_UNKNOWN)
        return Compartments(asked)

    async def _members(self, principal: Principal, group_id: str | None) -> frozenset[str]:
        members = None
        if self._groups is not None and group_id is not None and is_resource_id(group_id):
            members = await self._groups.members(group_id, principal)
        if members is None:
            raise Refused(Reason.GROUP_UNKNOWN)
        return references(members, "members")

    def _check_group_scope(self, scopes: Scopes) -> None:
        """Require a scope to read Group, if the setting says so (GR-03). The refusal does not depend on whether the group exists.

        A granular scope on Group is not enough: it would have to be applied to the group, which may be stored elsewhere (law 8).
        """
        if self._settings.group_scope and not scopes.may_read("Group"):
            raise Refused(Reason.SCOPE_MISSING, "The token's scopes do not cover Group, which an export of a group reads.")

    def _membership(self, principal: Principal, kick_off: KickOff) -> Membership | None:
        """The group whose members the job exports; they are read when the cut is fixed, since people join and leave (law 33)."""
        if kick_off.level is not Level.GROUP or kick_off.group_id is None:
            return None
        older = self._settings.older_data_of_new_members and kick_off.parameters.since is not None
        return Membership(kick_off.group_id, principal, kick_off.parameters.patients, older)

    def _check_sizes(self, parameters: KickOffParameters) -> None:
        """Refuse file sizes outside the operator's limits: what we accept, we must keep (KO-30)."""
        least, most = self._settings.smallest_part_bytes, self._settings.part_bytes
        if parameters.largest_file is not None and parameters.largest_file < least:
            detail = f"_maximumFileSize must be at least {least} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameters.place("_maximumFileSize"))
        if parameters.smallest_file is not None and parameters.smallest_file > most:
            detail = f"_minimumFileSize must be at most {most} bytes here."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameters.place("_minimumFileSize"))

    async def _check_since(self, parameters: KickOffParameters) -> None:
        """Refuse a `_since` that lies in the future by the storage's own clock (law 2, KO-76)."""
        if parameters.since is None:
            return
        now = await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()
        if parameters.since > now:
            raise Refused(Reason.VALUE_MALFORMED, "_since lies in the future.", part=parameters.place("_since"))

    async def _deletions_since(self, since: Instant | None) -> Instant | None:
        """The instant since which the storage knows all deletions, if it is later than the client's `_since`; else None.

        Raises:
            Refused: it is later, and `Settings.refuse_forgotten_deletions` is set.
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

    def _options(self, kick_off: KickOff, associated: Associated | None, organised_by: str | None) -> Options:
        """The options of the request. Made last, since they hold the reports of everything that was set aside."""
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
        """Which Provenance to include and how to organise the output, if the storage supports it."""
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
