"""The documentation texts in a CapabilityStatement (CS-10)."""

from collections.abc import Iterator

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Lists
from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.discovery.operation_definitions import definition_path
from fhir_bulk_middleware.export.cohort import opened_types
from fhir_bulk_middleware.files.format import MEDIA_TYPE

__all__ = ["of_mount", "of_operation"]

_WHAT = {
    Level.SYSTEM: "Exports everything, tied to a patient or not.",
    Level.PATIENT: "Exports what lies in the compartment of any patient.",
    Level.GROUP: "Exports what lies in the compartments of the group's members.",
}
_LEFT_OUT = {
    "Patient": "other Patients that link to one of them",
    "Group": "other Groups",
    "List": "Lists that are not about one of them or name another patient",
}
_LISTS = {
    Lists.COMMA: "Several values of a parameter are given by comma or by repetition.",
    Lists.REPETITION: "Several values of a parameter are given by repetition only.",
}


def of_operation(offer: Offer, level: Level) -> str:
    """The text of one kick-off operation."""
    methods = " or ".join(offer.kick_off[level])
    names = ", ".join(f"`{parameter.name}`" for parameter in offer.parameters(level))
    reference = definition_path(level).removeprefix("/")
    instance = " At `Patient/[id]/$export` it exports one patient, without `patient`."
    one = instance if level is Level.PATIENT and offer.one_patient else ""
    return f"{_WHAT[level]} {methods}.{one} Parameters: {names}; see {reference}."


def of_mount(offer: Offer) -> str:
    """The text of the mount: limits, formats, guarantees."""
    return " ".join(_sentences(offer))


def _sentences(offer: Offer) -> Iterator[str]:
    settings, dialect = offer.settings, offer.dialect
    headers = sorted(header.value for header in dialect.required_headers)
    yield f"Bulk data export: files are NDJSON (`{MEDIA_TYPE}`), gzipped for who accepts that."
    if headers:
        yield f"A kick-off must carry {' and '.join(headers)}."
    yield _LISTS[dialect.lists]
    yield f"A file is ended at about {settings.part_bytes:,} bytes and goes on in the next."
    yield f"Finished exports are kept for {offer.retention / 3600:,.0f} hours."
    yield f"A client may have {settings.jobs_per_owner} exports at work at once."
    if dialect.jobs_path is not None:
        yield f"`{dialect.jobs_path.removeprefix('/')}` without an id lists the client's own exports as Tasks."
    if offer.snapshots:
        yield "An export shows the data as of its `transactionTime`."
    else:
        yield "An export may hold changes that came after its `transactionTime`."
    if offer.deletions:
        yield "With `_since`, what was deleted is listed."
    else:
        yield "Deleted resources are not listed, or not all."
    if offer.context:
        yield "At Patient and Group level an export also holds what exported resources refer to and what lies in no compartment."
    if Level.GROUP in offer.kick_off:
        yield from _of_groups(offer)
    yield "A parameter that cannot be applied is refused; with `Prefer: handling=lenient` it is ignored and reported."


def _of_groups(offer: Offer) -> Iterator[str]:
    opened = opened_types(offer.settings)
    if closed := [text for type_, text in _LEFT_OUT.items() if type_ not in opened]:
        yield f"An export of a group, or of some patients, leaves out {' and '.join(closed)}."
    if offer.settings.group_scope:
        yield "An export of a group takes a scope to read Group."
    if offer.older_data_of_new_members:
        yield "At Group level `_since` does not hold for members who joined since: their older data is exported too."
    else:
        yield "At Group level `_since` also holds for members who joined since: their older data is not exported."
