"""Checks of methods that look something up: groups, patients, named resources, the current version, Provenance, blocks."""

from typing import cast

from fhir_bulk_middleware.checks.compartment_checks import patients_to_read
from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe, Reading
from fhir_bulk_middleware.checks.record import Record
from fhir_bulk_middleware.contract.query import Compartments, ProvenanceTarget, Query
from fhir_bulk_middleware.contract.returned import references
from fhir_bulk_middleware.contract.storage import (
    SupportsContext,
    SupportsGroups,
    SupportsJoining,
    SupportsNaming,
    SupportsOrganising,
    SupportsPatients,
    SupportsProvenance,
    SupportsRead,
    SupportsTypes,
)
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["blocks", "current", "exportable_types", "groups", "joining", "named", "naming", "patients", "provenance"]

_FEW = 3
_SOME = 50
_PROVENANCE = "Provenance"


def _unknown() -> str:
    """An id that no resource has."""
    return f"no-{new_job_id()}"


async def exportable_types(probe: Probe, notes: Notes) -> None:
    """`exportable_types` holds each type that this client may export."""
    published = references(cast("SupportsTypes", probe.adapter).exportable_types(), "exportable_types")
    notes.saw("types", len(published))
    for type_ in sorted(probe.allowed.types - published):
        notes.fault(
            f"authorise allows {type_}, and exportable_types does not list it.", "List each type that somebody may export."
        )


async def groups(probe: Probe, notes: Notes) -> None:
    """Members are references; an unknown group is None; listed members of a Group resource are members."""
    storage = cast("SupportsGroups", probe.adapter)
    if await probe.call("members", storage.members(_unknown(), probe.principal)) is not None:
        notes.fault(
            "An unknown group has members.", "Return None for a group that there is not, an empty set for one without members."
        )
    held = (await probe.sound()).get("Group", Reading())
    found = [*probe.bounds.groups, *held.ids[:_FEW]]
    if not found:
        notes.gap("No group is known by name.", "Name one with --group ID.")
    for id_ in found:
        members = await probe.call("members", storage.members(id_, probe.principal))
        notes.saw("groups")
        if members is None:
            notes.fault(f"Group/{id_} is unknown to members().", "Return its members; an empty set if it has none.")
            continue
        strange = [
            each for each in references(members, "members") if each.partition("/")[0] not in {"Patient", "Practitioner", "Device"}
        ]
        if strange:
            notes.fault(f"A member of Group/{id_} is no reference such as Patient/123.", "Return references, not bare ids.")
        if await storage.members(id_, probe.principal) != members:
            notes.fault(f"Group/{id_} was asked for twice and has two sets of members.", "Read the members anew with each call.")


async def joining(probe: Probe, notes: Notes) -> None:
    """Members at this moment are the members of now."""
    storage = cast("SupportsJoining", probe.adapter)
    source = cast("SupportsGroups", probe.adapter)
    for id_ in [*probe.bounds.groups, *(await probe.sound()).get("Group", Reading()).ids[:_FEW]]:
        members = await source.members(id_, probe.principal) or frozenset()
        then = await probe.call("members_at", storage.members_at(id_, probe.principal, system_clock()))
        notes.saw("groups")
        if references(then, "members_at") != members:
            notes.fault(
                f"members_at(now) of Group/{id_} are not its members().", "Read the membership that is valid at the instant."
            )
        if await storage.members_at(id_, probe.principal, Instant(1)):
            notes.fault(f"Group/{id_} had members in 1970, by members_at.", "Nobody is a member before the group was written.")
    if not notes.seen:
        notes.gap("No group is known by name.", "Name one with --group ID.")


async def patients(probe: Probe, notes: Notes) -> None:
    """Known patients are found, and nobody else."""
    known = (
        frozenset(f"Patient/{id_}" for id_ in (await probe.walk("Patient")).ids[:_SOME])
        if "Patient" in probe.types
        else frozenset()
    )
    asked = known | {f"Patient/{_unknown()}"}
    found = references(
        await probe.call("patients", cast("SupportsPatients", probe.adapter).patients(asked, probe.principal)), "patients"
    )
    notes.saw("patients", len(known))
    if found != known:
        what = f"does not find {min(known - found)}" if known - found else "finds a patient whom there is not"
        notes.fault(f"patients() {what}.", "Return those of the references that name a patient whom the client may see.")


async def named(probe: Probe, notes: Notes) -> None:
    """Named resources are those of the walk, in the order of the ids; unknown ids are left out."""
    storage = cast("SupportsContext", probe.adapter)
    for type_, walk in (await probe.sound()).items():
        digests = {record.id: record.digest for record in walk.records[:_SOME]}
        ids = sorted(digests)
        query = probe.query(type_)
        found = await probe.take(storage.named(query, sorted([*ids, _unknown()])), query, name="named")
        notes.saw("resources", len(found.records))
        if found.fault is not None:
            notes.fault(found.fault.what, found.fault.do)
        elif found.digests != [digests[id_] for id_ in ids]:
            notes.fault(
                f"named() of {len(ids)} ids of {type_} gives {len(found.records)} resources, or others, or in another order.",
                "Return the resources with these ids, each once, as of `Query.as_of`, in the order of the ids.",
            )


async def naming(probe: Probe, notes: Notes) -> None:
    """What a walk shows to name a resource is found by the resource."""
    walks = await probe.sound()
    wanted: dict[str, set[str]] = {}
    for walk in walks.values():
        for record in walk.records:
            for each in record.named:
                if each.partition("/")[0] != "Patient" and (each in wanted or len(wanted) < _FEW):
                    wanted.setdefault(each, set()).add(record.reference)
    for reference, expected in wanted.items():
        found, complete = await _naming(probe, [probe.query(type_) for type_ in walks], reference)
        notes.saw("references")
        if complete and expected - found:
            notes.fault(
                f"{min(expected - found)} names {reference}, and naming() does not find it.", "Look at every literal reference."
            )


async def _naming(probe: Probe, queries: list[Query], reference: str) -> tuple[set[str], bool]:
    """What the adapter finds to name a resource, and whether that is all of it."""
    found: set[str] = set()
    async with closing(cast("SupportsNaming", probe.adapter).naming(queries, reference)) as pages:
        async for page in pages:
            for line in page.lines.split(b"\n")[:-1]:
                type_ = line.partition(b'"resourceType":"')[2].partition(b'"')[0].decode()
                found.add(probe.lines.read(line, type_).reference)
            if len(found) >= probe.bounds.resources:
                return found, False
    return found, True


async def blocks(probe: Probe, notes: Notes) -> None:
    """The blocks of a patient hold the patient's compartment, the patients in one order."""
    walks = await probe.sound()
    chosen = patients_to_read(walks, _FEW)
    types = [type_ for type_ in walks if type_ in probe.lines.paths or type_ == "Patient"]
    if not chosen or not types:
        return
    found, order = await _blocks(probe, [probe.query(type_, Compartments(frozenset(chosen))) for type_ in types])
    notes.saw("patients", len(order))
    if len(order) != len(set(order)):
        notes.fault(
            "The blocks of a patient are interrupted by another's.", "Give all blocks of a patient before the next patient's."
        )
    for patient in chosen if len(order) == len(found) else ():
        held: set[str] = set()
        for type_ in types:
            reading = await probe.read(probe.query(type_, Compartments(frozenset({patient}))))
            held |= {record.reference for record in reading.records if type_ != "Patient" or record.reference == patient}
            if not reading.complete:
                return
        others = {each for each in found.get(patient, set()) if each.startswith("Patient/") and each != patient}
        if found.get(patient, set()) - others != held:
            notes.fault(f"The blocks of {patient} do not hold what its compartment holds.", "Use one condition for both.")


async def _blocks(probe: Probe, queries: list[Query]) -> tuple[dict[str, set[str]], list[str]]:
    """The references of each patient's blocks, and the patients in their order; without the last if it was cut short."""
    found: dict[str, set[str]] = {}
    order: list[str] = []
    form = PageForm("blocks", probe.bounds.page_bytes, None)
    async with closing(cast("SupportsOrganising", probe.adapter).blocks(queries, None)) as source:
        async for block in source:
            form.check_block(block)
            order += [block.reference] if not order or order[-1] != block.reference else []
            records = [probe.lines.read(line, block.type) for line in block.page.lines.split(b"\n")[:-1]]
            found.setdefault(block.reference, set()).update(record.reference for record in records)
            if sum(map(len, found.values())) >= probe.bounds.resources:
                found.pop(order[-1])
                break
    return found, order


async def provenance(probe: Probe, notes: Notes) -> None:
    """The Provenance of a type is what a walk of Provenance shows to be about that type."""
    walks = await probe.sound()
    if _PROVENANCE not in walks:
        return
    for type_, walk in walks.items():
        about = {record.reference for record in walk.records}
        expected = {each.id for each in walks[_PROVENANCE].records if about & each.named}
        if not expected or not walk.complete:
            continue
        query = probe.query(_PROVENANCE)
        stream = cast("SupportsProvenance", probe.adapter).provenance(
            query, [ProvenanceTarget(probe.query(type_))], None, latest=False
        )
        found = await probe.take(stream, query, name="provenance")
        notes.saw("resources", len(found.records))
        targeted = {record.id for record in found.records}
        if strange := sorted(targeted - expected):
            notes.fault(
                f"Provenance/{strange[0]} comes for {type_} and names none.", "Give the Provenance whose target is one of them."
            )
        about_patients = {each.id for each in walks[_PROVENANCE].records if _targets(each) & about}
        if found.complete and (lost := sorted(about_patients - targeted)):
            notes.fault(f"Provenance/{lost[0]} is about a {type_}, and does not come for it.", "Look at each target.")
        if found.repeated:
            notes.fault(
                f"Provenance/{found.repeated[0]} comes twice for {type_}.", "Give each Provenance once, by whatever target."
            )


def _targets(record: Record) -> frozenset[str]:
    """The patients that a Provenance is about; other references in it may be to whoever made it."""
    return frozenset().union(*(patients for path, patients in record.links.items() if path.startswith("target")))


async def current(probe: Probe, notes: Notes) -> None:
    """The current version is the one that the pages give."""
    storage = cast("SupportsRead", probe.adapter)
    for type_, walk in (await probe.sound()).items():
        if await probe.call("current", storage.current(type_, _unknown())) is not None:
            notes.fault(f"current() of an id of {type_} that there is not gives something.", "Return None.")
        for record in walk.records[:_FEW]:
            found = await probe.call("current", storage.current(type_, record.id))
            notes.saw("resources")
            if found is None or found.deleted:
                notes.fault(f"current() does not find {record.reference}.", "Read what `pages` reads.")
            elif record.instant is not None and found.last_updated != record.instant:
                notes.fault(
                    f"current() of {record.reference} has another lastUpdated than the page.", "Read one column for both."
                )
