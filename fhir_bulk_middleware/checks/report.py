"""Runs all checks, and reports what came of them."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import anyio

from fhir_bulk_middleware.checks import (
    change_checks,
    compartment_checks,
    deletion_checks,
    lookup_checks,
    page_checks,
    slice_checks,
    snapshot_checks,
    turn_checks,
    window_checks,
)
from fhir_bulk_middleware.checks.bounds import Bounds
from fhir_bulk_middleware.checks.data_check import DataCheck
from fhir_bulk_middleware.checks.finding import Finding, Notes, Outcome
from fhir_bulk_middleware.checks.offering import Offering, offering
from fhir_bulk_middleware.checks.probe import Call, Probe, raised
from fhir_bulk_middleware.checks.record import LineReader
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.check import check_capabilities
from fhir_bulk_middleware.contract.returned import answered, authorised
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import (
    SupportsChangedTypes,
    SupportsContext,
    SupportsDeletionHorizon,
    SupportsDeletions,
    SupportsExport,
    SupportsGroups,
    SupportsJoining,
    SupportsLeft,
    SupportsNaming,
    SupportsOrganising,
    SupportsPatients,
    SupportsProvenance,
    SupportsRead,
    SupportsSlices,
    SupportsSnapshot,
    SupportsTypes,
)
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Precision, after, system_clock
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["CHECKS", "DATA_CHECKS", "METHODS", "RIGHTS", "Cost", "Report", "client", "report"]

_HOUR = 3600
_RIGHTS_BYTES = 64 * 1024
_FIRST = "Mend what the checks before this one say."

METHODS = ("methods", "Each protocol is implemented completely, and its methods can be called as it says.")
RIGHTS = ("authorise", "`authorise` returns types of the FHIR release and rights, the same when asked twice.")

DATA_CHECKS: tuple[DataCheck, ...] = (
    DataCheck("types", "`exportable_types` lists each type that may be exported.", lookup_checks.exportable_types, SupportsTypes),
    DataCheck("pages", "Pages have the form of `Page` and the size that was asked for.", page_checks.page_form),
    DataCheck("lines", "Lines are compact JSON of the asked type, with ids.", page_checks.canonical_lines),
    DataCheck("once", "No resource comes twice.", page_checks.single_occurrence),
    DataCheck("order", "The same query gives the same lines in the same order.", page_checks.repeatable),
    DataCheck("cursors", "Reading on from a cursor gives the rest, also within one instant.", page_checks.cursors),
    DataCheck("time", "`lastUpdated` lies neither in the future nor after the cut.", window_checks.last_updated),
    DataCheck("edges", "A window holds since < lastUpdated <= until, to the microsecond.", window_checks.window_edges),
    DataCheck("windows", "Windows that follow each other hold each resource once.", window_checks.chained_windows),
    DataCheck(
        "compartments",
        "The compartment of a patient holds what a walk of each type finds there, by each path alone.",
        compartment_checks.compartments,
    ),
    DataCheck("together", "Several compartments together give each resource of theirs once.", compartment_checks.shared),
    DataCheck("every patient", "Every patient's is what lies in the compartment of a patient.", compartment_checks.every_patient),
    DataCheck("nobody", "No members, and an id that is only like a patient's, give nothing.", compartment_checks.near_misses),
    DataCheck("clock", "The storage's clock is right; cuts do not go back.", snapshot_checks.clock_and_cut, SupportsSnapshot),
    DataCheck("as of", "A version is there from its lastUpdated on.", snapshot_checks.as_of_edges, SupportsSnapshot),
    DataCheck("slices", "Slices hold each resource once, in the order of the pages.", slice_checks.slices, SupportsSlices),
    DataCheck(
        "changed types", "What a window holds is of a type that is named.", change_checks.changed_types, SupportsChangedTypes
    ),
    DataCheck("deletions", "Deletions do not live, and keep to their window.", deletion_checks.deletions, SupportsDeletions),
    DataCheck(
        "deletion edges", "A deletion is in one of two windows that meet.", deletion_checks.deletion_edges, SupportsDeletions
    ),
    DataCheck("horizon", "The horizon of deletions does not go back.", deletion_checks.horizon, SupportsDeletionHorizon),
    DataCheck("left", "What left a compartment does not lie in it.", deletion_checks.left, SupportsLeft),
    DataCheck("groups", "A group has members or none; an unknown one is None.", lookup_checks.groups, SupportsGroups),
    DataCheck("joining", "The members at this moment are the members of now.", lookup_checks.joining, SupportsJoining),
    DataCheck("patients", "Known patients are found, and nobody else.", lookup_checks.patients, SupportsPatients),
    DataCheck("named", "Named resources come as the pages have them.", lookup_checks.named, SupportsContext),
    DataCheck("naming", "What names a resource is found by that resource.", lookup_checks.naming, SupportsNaming),
    DataCheck("blocks", "The blocks of a patient hold the patient's compartment.", lookup_checks.blocks, SupportsOrganising),
    DataCheck("provenance", "The Provenance of a type is about that type.", lookup_checks.provenance, SupportsProvenance),
    DataCheck("current", "The current version is the one that the pages have.", lookup_checks.current, SupportsRead),
    DataCheck("event loop", "No method that runs in the server holds its event loop.", turn_checks.event_loop),
    DataCheck("recipe", "A worker process makes an adapter that reads the same.", turn_checks.recipe, SupportsWorkerProcess),
)
CHECKS = (METHODS, RIGHTS, *((check.name, check.promise) for check in DATA_CHECKS))
"""Name and promise of each check, in their order."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The time of the calls of one method; `pages` and `deletions` are counted page by page.

    Attributes:
        method: its name.
        calls: their number.
        median: milliseconds of a call.
        longest: milliseconds of the longest call.
        turn: milliseconds for which a call held the event loop, the median.
    """

    method: str
    calls: int
    median: float
    longest: float
    turn: float

    @classmethod
    def of(cls, method: str, calls: list[Call]) -> "Cost":
        """The cost of these calls."""
        seconds = [call.seconds * 1000 for call in calls]
        return cls(
            method, len(calls), statistics.median(seconds), max(seconds), statistics.median(call.turn * 1000 for call in calls)
        )


@dataclass(slots=True)
class Report:
    """What came of all checks.

    Attributes:
        adapter: the name of the adapter's class.
        findings: one for each check, in the order of `CHECKS`.
        offering: what a mount with the adapter offers; None if it could not be made.
        costs: the time of each method that was called.
    """

    adapter: str
    findings: list[Finding] = field(default_factory=list)
    offering: Offering | None = None
    costs: list[Cost] = field(default_factory=list)

    def number(self, outcome: Outcome) -> int:
        """How many checks came to this."""
        return sum(finding.outcome is outcome for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {"summary": {outcome.name.lower(): self.number(outcome) for outcome in Outcome}, **asdict(self)}


def client(claims: Mapping[str, object] | None = None) -> Principal:
    """The client in whose name the adapter is read: that of the claims of a token, by default one that may read everything."""
    claims = dict(claims or {})
    return Principal(
        owner=Owner(str(claims.get("iss", "https://issuer.example")), str(claims.get("sub", "check"))),
        scopes=tuple(str(claims.get("scope", "system/*.rs")).split()),
        client_id=None if claims.get("client_id") is None else str(claims["client_id"]),
        expires_at=after(system_clock(), _HOUR),
        claims=claims,
    )


async def report(
    adapter: SupportsExport,
    bounds: Bounds,
    principal: Principal,
    *,
    version: FhirVersion = FhirVersion.R4,
    base_urls: Iterable[str] = (),
) -> Report:
    """Run all checks. The storage is only read.

    Args:
        adapter: the storage adapter.
        bounds: what to read of it at most.
        principal: the client in whose name it is read.
        version: the FHIR release of the resources.
        base_urls: base URLs under which absolute references are the server's own.
    """
    made = Report(type(adapter).__name__)
    probe = Probe(adapter, principal, bounds, LineReader(version, base_urls))
    made.findings.append(_methods(made, adapter, version))
    callable_ = made.findings[0].outcome is Outcome.PASS
    made.findings.append(
        await _rights(probe, version) if callable_ else _not_checked(*RIGHTS, "Methods cannot be called.", _FIRST)
    )
    for check in DATA_CHECKS:
        readable = await _checked(check, probe) if probe.types else None
        made.findings.append(readable or _not_checked(check.name, check.promise, "There is no type that can be read.", _FIRST))
    made.costs = [Cost.of(method, calls) for method, calls in probe.calls.items()]
    return made


def _methods(made: Report, adapter: SupportsExport, version: FhirVersion) -> Finding:
    notes = Notes()
    try:
        notes.saw("protocols", len(check_capabilities(adapter, "resources")))
        made.offering = offering(adapter, version)
    except (TypeError, ValueError) as error:
        notes.fault(f"{error}.", "Change the method as the protocol in fhir_bulk_middleware.contract says.")
    return notes.finding(*METHODS)


async def _rights(probe: Probe, version: FhirVersion) -> Finding:
    notes = Notes()
    try:
        probe.allowed = authorised(await probe.call("authorise", probe.adapter.authorise(probe.principal)))
        again = await probe.call("authorise", probe.adapter.authorise(probe.principal))
        if isinstance(probe.adapter, SupportsSnapshot):
            probe.cut = answered(await probe.call("cut", probe.adapter.cut(Precision.MICROSECONDS)), int, "cut")  # type: ignore[assignment]
    except Exception as error:  # noqa: BLE001 - whatever the adapter raises is what came of the check
        notes.fault(*raised(error))
        return notes.finding(*RIGHTS)
    types, known = probe.allowed.types, definitions(version).resource_types
    notes.saw("types", len(types))
    if not types:
        notes.gap("authorise allows no type to this client.", "Give the claims of a client that may export, with --claims.")
    for type_ in sorted(types - known):
        notes.fault(
            f"authorise allows {type_}, which is no type of FHIR {version}.", "Correct the name, or choose --fhir-version."
        )
    if len(probe.allowed.rights.encode()) > _RIGHTS_BYTES:
        notes.fault(
            "The rights that authorise returns are larger than 64 kB.", "Return what identifies them, and read the rest then."
        )
    if again != probe.allowed:
        notes.fault("authorise was asked twice and gave two answers.", "Name what may be exported, not what exists now (law 33).")
    wanted = types if probe.bounds.types is None else types & probe.bounds.types
    probe.types = tuple(sorted(wanted & known))
    if types and not probe.types:
        notes.gap("None of the asked types is allowed.", f"Choose among these: {', '.join(sorted(types))}.")
    return notes.finding(*RIGHTS)


async def _checked(check: DataCheck, probe: Probe) -> Finding:
    if check.needs is not None and not isinstance(probe.adapter, check.needs):
        lacks = check.needs.__name__
        what, do = f"The adapter does not implement {lacks}.", "See above what is missing without it."
        return replace(_not_checked(check.name, check.promise, what, do), lacks=lacks)
    if probe.left <= 0:
        return _not_checked(
            check.name, check.promise, f"The {probe.bounds.seconds:g} seconds were over.", "Give more with --seconds."
        )
    notes = await _noted(check, probe)
    if notes.failed and probe.cut is None:
        probe.forget()  # without snapshots, a write between two reads looks like a fault: look again
        notes = await _noted(check, probe)
    return notes.finding(check.name, check.promise)


async def _noted(check: DataCheck, probe: Probe) -> Notes:
    notes = Notes()
    with anyio.move_on_after(probe.left) as scope:
        try:
            await check.run(probe, notes)
        except Refused as refused:
            if refused.reason is not Reason.BUSY:
                notes.fault(*raised(refused))
            notes.gap("The storage was busy.", "Repeat the check when it is not.")
        except Exception as error:  # noqa: BLE001 - whatever the adapter raises is what came of the check
            notes.fault(*raised(error))
    if scope.cancelled_caught or probe.left <= 0:
        notes = Notes()  # what was cut short looks like a fault
        notes.gap(f"The {probe.bounds.seconds:g} seconds were over before its end.", "Give more with --seconds.")
    return notes


def _not_checked(name: str, promise: str, what: str, do: str) -> Finding:
    notes = Notes()
    notes.gap(what, do)
    return notes.finding(name, promise)
