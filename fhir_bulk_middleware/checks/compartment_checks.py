"""Checks of selections: the compartments of some patients, of every patient, and of nobody."""

from collections import defaultdict
from collections.abc import Iterable

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe, Reading
from fhir_bulk_middleware.checks.record import Record
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient

__all__ = ["compartments", "every_patient", "near_misses", "patients_to_read", "shared"]

_FEW = 5
_ADD_PATH = "Add this element to the condition of `Compartments` (and of `EveryPatient`): a resource lies in the compartment of"
_KIT = "Run `CompartmentPathsSuite` of the conformance kit on a test database: it writes one resource for each path."


async def compartments(probe: Probe, notes: Notes) -> None:
    """What the compartment of a patient gives is what a walk of the type finds there, path by path."""
    walks = await probe.sound()
    covered: set[tuple[str, str]] = set()
    for patient in patients_to_read(walks, probe.bounds.patients):
        if probe.left <= 0:
            break
        notes.saw("patients")
        for type_ in probe.types:
            reading = await probe.read(probe.query(type_, Compartments(frozenset({patient}))))
            covered |= _compare(notes, walks.get(type_, Reading()), reading, patient, type_)
            notes.saw("resources", len(reading.records))
    _say_uncovered(probe, notes, walks, covered)


def patients_to_read(walks: dict[str, Reading], most: int) -> list[str]:
    """Patients such that each path that alone leads to a patient somewhere is among those read; then others."""
    by_path: dict[tuple[str, str], str] = {}
    linked: dict[str, None] = {}
    for type_, reading in walks.items():
        for record in reading.records:
            for patient in sorted(record.patients):
                path = record.only_path(patient)
                if path is not None:
                    by_path.setdefault((type_, path), patient)
                linked.setdefault(patient)
    found = [*dict.fromkeys([*by_path.values(), *linked])]
    return found[:most]


def _compare(notes: Notes, walk: Reading, reading: Reading, patient: str, type_: str) -> set[tuple[str, str]]:
    """Note what a compartment lacks or has too much; returns the paths that are shown to be read."""
    if reading.fault is not None:
        notes.fault(f"The compartment of {patient}: {reading.fault.what}", reading.fault.do)
        return set()
    found, covered = set(reading.ids), set()
    for id_ in reading.repeated:
        notes.fault(
            f"{type_}/{id_} comes more than once in the compartment of {patient}.",
            "Read each resource once, by whatever links it is found: EXISTS (...) or DISTINCT in the place of a join.",
        )
    for record in walk.records:
        if patient not in record.patients:
            continue
        path = record.only_path(patient)
        if record.id in found:
            covered |= {(type_, path)} if path else set()
        elif reading.complete and not (type_ == "Patient" and record.reference != patient):  # law 41
            _say_missing(notes, record, patient, path)
    for record in reading.records:
        if patient not in record.patients:
            _say_extra(notes, record, patient)
    return covered


def _say_missing(notes: Notes, record: Record, patient: str, path: str | None) -> None:
    if record.reference == patient:
        notes.fault(f"The compartment of {patient} does not hold the patient.", "Give the Patient resource itself, too.")
        return
    paths = [path] if path else [each for each, patients in record.links.items() if patient in patients]
    alone = "alone " if path else ""
    notes.fault(
        f"{record.type}.{' and '.join(paths)} {alone}does not put a resource into the compartment: {record.reference} refers to"
        f" {patient} there, and the compartment of {patient} does not hold it.",
        f"{_ADD_PATH} each patient whom {record.type}.{paths[0]} names.",
    )


def _say_extra(notes: Notes, record: Record, patient: str) -> None:
    base = next((base for base, patients in record.foreign.items() if patient in patients), None)
    if base is not None:
        notes.gap(
            f"{record.reference} refers to {patient} by an absolute URL below {base}, which is not known as this server's own.",
            f"Say so with --base-url {base}, and with `Settings.public_base_url` or `fhir_base_url`.",
        )
        return
    notes.fault(
        f"The compartment of {patient} holds {record.reference}, which refers to that patient at no path of the compartment.",
        "Compare whole ids, by case: no LIKE, no collation that ignores case, and each OR within brackets.",
    )


def _say_uncovered(probe: Probe, notes: Notes, walks: dict[str, Reading], covered: set[tuple[str, str]]) -> None:
    paths = [
        f"{type_}.{path}"
        for type_ in walks
        for path in probe.lines.paths.get(type_, ())
        if type_ != "Patient" and (type_, path) not in covered
    ]
    if paths:
        shown = ", ".join(paths[:_FEW]) + (f" and {len(paths) - _FEW} more" if len(paths) > _FEW else "")
        notes.gap(f"No resource that was read lies in a compartment by one of these paths alone: {shown}.", _KIT)


async def shared(probe: Probe, notes: Notes) -> None:
    """Several compartments together give each resource of theirs once."""
    walks = await probe.sound()
    several = [record for reading in walks.values() for record in reading.records if len(record.patients) > 1]
    chosen = [*dict.fromkeys(patient for record in several[:_FEW] for patient in sorted(record.patients))]
    chosen += [patient for patient in patients_to_read(walks, probe.bounds.patients) if patient not in chosen]
    owners = frozenset(chosen[: max(probe.bounds.patients, 2)])
    if not owners:
        return
    for type_ in walks:
        reading = await probe.read(probe.query(type_, Compartments(owners)))
        notes.saw("resources", len(reading.records))
        found = set(reading.ids)
        for id_ in reading.repeated:
            notes.fault(
                f"{type_}/{id_} comes more than once when {len(owners)} compartments are read together.",
                "Read each resource once, by whatever patients it is found: EXISTS (...) or DISTINCT in the place of a join.",
            )
        for record in walks[type_].records if reading.complete and type_ != "Patient" else ():
            if record.patients & owners and record.id not in found:
                notes.fault(
                    f"{record.reference} lies in the compartment of {min(record.patients & owners)} and does not come when"
                    f" {len(owners)} compartments are read together.",
                    "Compare with each owner of `Compartments.references`.",
                )


async def every_patient(probe: Probe, notes: Notes) -> None:
    """`EveryPatient` gives what lies in the compartment of a patient, and nothing else."""
    for type_, walk in (await probe.sound()).items():
        reading = await probe.walk(type_, EveryPatient())
        notes.saw("resources", len(walk.records))
        if reading.fault is not None:
            notes.fault(reading.fault.what, reading.fault.do)
            continue
        for id_ in reading.repeated:
            notes.fault(
                f"{type_}/{id_} comes more than once when every patient's resources are read.",
                "Read each resource once: EXISTS (...) or DISTINCT in the place of a join.",
            )
        for record in reading.records:
            if not record.patients and not record.foreign:
                notes.fault(
                    f"{record.reference} refers to no patient, and comes when every patient's resources are read.",
                    "Leave out what lies in no patient's compartment when the selection is `EveryPatient`.",
                )
        found = set(reading.ids)
        for record in _within(walk, reading):
            if record.patients and record.id not in found:
                paths = " and ".join(record.links) or "itself"
                notes.fault(
                    f"{record.reference} lies in a patient's compartment by {type_}.{paths}, and does not come when every"
                    " patient's resources are read.",
                    "Take the same paths for `EveryPatient` as for `Compartments`.",
                )


def _within(walk: Reading, reading: Reading) -> Iterable[Record]:
    """The records of a walk that a reading in the same order, which may have been cut short, must hold."""
    if reading.complete:
        return walk.records
    last = reading.records[-1].id if reading.records else None
    place = next((n for n, record in enumerate(walk.records) if record.id == last), 0)
    return walk.records[:place]


async def near_misses(probe: Probe, notes: Notes) -> None:
    """No members give nothing; an unknown patient gives nothing, however much the id is like a known one."""
    walks = await probe.sound()
    known = patients_to_read(walks, _FEW)
    near: defaultdict[str, str] = defaultdict(str)
    for patient in known:
        id_ = patient.partition("/")[2]
        for other in (id_.swapcase(), id_[:-1], f"{id_}0"[:64], id_.lstrip("0")):
            if other and other != id_:
                near[f"Patient/{other}"] = patient
    for type_ in walks:
        reading = await probe.read(probe.query(type_, Compartments(frozenset())), most=_FEW)
        notes.saw("selections")
        if reading.records:
            notes.fault(
                f"{reading.records[0].reference} comes when the selection is empty.",
                "Compartments(frozenset()) selects nothing: it must not be read as `no condition`.",
            )
    for unknown, like in near.items():
        for type_ in walks:
            reading = await probe.read(probe.query(type_, Compartments(frozenset({unknown}))), most=_FEW)
            notes.saw("selections")
            for record in reading.records:
                if unknown not in record.patients and not record.foreign:
                    notes.fault(
                        f"{record.reference} comes for {unknown}, and is of {min(record.patients, default=like)}.",
                        "Compare whole ids, by case: no LIKE, no collation that ignores case.",
                    )
