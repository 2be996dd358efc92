"""Leaves out Patients, Groups and Lists of others that lie in the compartments of the selected patients (law 41).

HL7 puts a Patient into the compartment of each patient that its `link` names, a Group into that of each member, and a List into
that of its subject and its source. So an export of some patients would hold the whole record of another person, the members of
other groups, or what a list says of others; and the Provenance of these. The firewall accepts such lines, since an adapter
follows HL7's compartments.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from fhir_bulk_middleware.contract.query import Compartments, Rows
from fhir_bulk_middleware.fhir.line import id_of
from fhir_bulk_middleware.fhir.provenance import targets
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.settings import Settings

__all__ = ["Cohort", "enters_by_content", "opened_types"]

_PATIENT, _GROUP, _LIST, _PROVENANCE = "Patient", "Group", "List", "Provenance"

_NAMES_PATIENT = re.compile(r"(?:.*/)?Patient/[^/?#\s]+(?:/_history/[^/]*)?", re.DOTALL)
"""A reference to a patient of any server."""

_MENTION = re.compile(rb"(Patient|Group)/([A-Za-z0-9.-]+)")


def opened_types(settings: Settings) -> frozenset[str]:
    """The types whose resources are exported although they are those of others, for `Rows.opened`."""
    opened = {_PATIENT: settings.linked_patients, _GROUP: settings.other_groups, _LIST: settings.shared_lists}
    return frozenset(type_ for type_, is_open in opened.items() if is_open)


def enters_by_content(type_: str, rows: Rows) -> bool:
    """Whether older resources of the type can enter an export because of what they hold, when a member joins (`of_entered`)."""
    return type_ == _LIST and type_ not in rows.opened


class Cohort:
    """Tells which resources of one type go out, of those that the selection holds. False if all do.

    Not all do where only some patients are selected, for three types, each unless `Rows.opened` names it:

    - a Patient only if it is selected;
    - a Group only if it is one of `Rows.groups`;
    - a List only if a subject of it is selected, and no reference in it names a Patient who is not.

    A Provenance goes out unless all its targets are Patients or Groups that do not.

    Args:
        type: the resource type.
        rows: the rows of a planned job.
        base_urls: the bases below which an absolute reference is local.
    """

    def __init__(self, type: str, rows: Rows, base_urls: Iterable[str] = ()) -> None:  # noqa: A002 - FHIR's word for it
        self._type = type
        self._groups = rows.groups
        self._opened = rows.opened
        self._parse = References(base_urls).parse
        self._selected: frozenset[str] = frozenset()
        self._rule: Callable[[bytes], bool] | None = None
        if isinstance(rows.selection, Compartments) and type not in rows.opened:
            self._selected = rows.selection.references
            rules = {_PATIENT: self._own, _GROUP: self._own, _LIST: self._about_selected, _PROVENANCE: self._of_exported}
            self._rule = rules.get(type)

    @classmethod
    def of_entered(cls, type_: str, rows: Rows, base_urls: Iterable[str] = ()) -> "Cohort":
        """Of the older resources, tells which go out because of members who joined: not those that went out before.

        A List goes out when the last patient it names has joined, although it lay in a member's compartment all along.
        """
        cohort = cls(type_, rows, base_urls)
        if type_ == _LIST and cohort and isinstance(rows.selection, Compartments):
            former = replace(rows, selection=Compartments(rows.selection.references - rows.joined))
            admits, admitted = cls(type_, rows, base_urls).admits, cls(type_, former, base_urls).admits
            cohort._rule = lambda line: admits(line) and not admitted(line)
        return cohort

    def __bool__(self) -> bool:
        """Whether some lines of the type are left out."""
        return self._rule is not None

    def admits(self, line: bytes) -> bool:
        """Whether a resource of the type, as canonical text, goes out."""
        return self._rule is None or self._rule(line)

    def may_name(self, reference: str) -> bool:
        """Whether a report may name a resource of the type that could not be read. The content of a List is not known here."""
        return self._rule is None or self._goes_out(reference)

    def tells_deletion(self, reference: str) -> bool:
        """Whether a deletion is told: that of a Patient only if it is selected.

        Others are told, since the deleted Group or List may have been exported before.
        """
        return self._rule is None or self._type != _PATIENT or reference in self._selected

    def _goes_out(self, reference: str) -> bool:
        """Whether a resource goes out, as far as its reference tells."""
        type_ = reference.partition("/")[0]
        if type_ == _PATIENT:
            return type_ in self._opened or reference in self._selected
        return type_ != _GROUP or type_ in self._opened or reference in self._groups

    def _own(self, line: bytes) -> bool:
        id_ = id_of(line, self._type)
        return id_ is not None and self._goes_out(f"{self._type}/{id_}")

    def _of_exported(self, line: bytes) -> bool:
        mentioned = (f"{type_.decode()}/{id_.decode()}" for type_, id_ in _MENTION.findall(line))
        if b"\\" not in line and all(map(self._goes_out, mentioned)):
            return True  # most lines; no need to know which references are targets
        content = _parsed(line)
        found = frozenset() if content is None else targets(content, self._parse)
        return not found or any(self._goes_out(f"{type_}/{id_}") for type_, id_ in found)

    def _about_selected(self, line: bytes) -> bool:
        content = _parsed(line)
        if content is None:
            return False
        subject = content.get("subject")
        subjects = subject if isinstance(subject, list) else [subject]  # a list since R5
        if not any(self._is_selected(each.get("reference")) for each in subjects if isinstance(each, dict)):
            return False
        return all(self._is_selected(text) for text in _texts(content) if _NAMES_PATIENT.fullmatch(text))

    def _is_selected(self, text: object) -> bool:
        reference = self._parse(text) if isinstance(text, str) else None
        return reference is not None and str(reference) in self._selected


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _texts(content: Any) -> Iterator[str]:
    """All strings in a JSON value, without names."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
