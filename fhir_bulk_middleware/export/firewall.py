"""The last look at a page before it is written: nothing of another type, nothing of a patient who was not asked for (law 17).

The adapter decides what is in an export; this catches the day when it decides wrongly. It scans bytes and parses nothing but the
rare line whose own id must be known and does not stand where it usually does.
"""

import json

from fhir_bulk_middleware.contract.job import Failure
from fhir_bulk_middleware.contract.query import Compartments, Everything, Page, Selection
from fhir_bulk_middleware.export.page_form import MalformedPage, line_fault
from fhir_bulk_middleware.jobs.kind import TaskFailed
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["Firewall", "FirewallBreach"]

_REFERENCE_LONGEST = 128  # a type's name, a slash, an id of 64 characters and the quote after it
_BRACE = ord("}")
_SLASH = ord("/")
_BEFORE = b'"/'  # a string that is a reference, or the path of a URL


class FirewallBreach(TaskFailed):
    """A page holds what must not leave. The message names the type and the rule, never anything of the page.

    Attributes:
        type: the resource type that was being exported.
    """

    failure = Failure(
        Reason.FAULT, "The export was stopped because it would have held data that was not asked for. None of it was published."
    )

    def __init__(self, resource_type: str, rule: str) -> None:
        super().__init__(f"a page of {resource_type} was stopped: {rule}")
        self.type = resource_type


class Firewall:
    """What the pages of one slice must be like.

    At system level each line is a resource of the type. At Patient and Group level it also names one of the job's patients: it is
    that patient, or has a string in it that is a reference to one (`Patient/1`, `Patient/1/_history/2`, or a URL that ends so).
    A reference can stand in an element that is none; the scan takes it for what it looks like.

    Args:
        type: the resource type.
        selection: whose resources.
    """

    def __init__(self, type: str, selection: Selection) -> None:  # noqa: A002 - FHIR's word for it
        self._type = type
        self._begin = f'{{"resourceType":"{type}",'.encode()
        self._own = self._begin + b'"id":"'
        self._named = not isinstance(selection, Everything)
        # None: any patient will do.
        self._references: frozenset[bytes] | None = None
        owners = {"Patient"}
        if isinstance(selection, Compartments):
            self._references = frozenset(reference.encode() for reference in selection.references)
            owners = {reference.partition("/")[0] for reference in selection.references}
        # Patients first: they own nearly all there is.
        first = sorted(owners or {"Patient"}, key=lambda owner: (owner != "Patient", owner))
        self._owners = tuple(f"{owner}/".encode() for owner in first)
        self._itself = type in owners

    def check(self, page: Page) -> None:
        """Let the page pass.

        Raises:
            FirewallBreach: it holds what must not leave: a resource of another type, or of somebody who was not asked for.
            MalformedPage: its lines are not resources in canonical form, or are miscounted.
        """
        lines, begin, named, references = page.lines, self._begin, self._named, self._references
        find, begins, reference = lines.find, lines.startswith, b'"' + self._owners[0]
        behind = len(reference)
        start, count, end = 0, 0, len(lines)
        while start < end:  # some calls into C for each line, and no object that outlives it
            newline = find(b"\n", start)
            if not begins(begin, start) or newline < 0 or lines[newline - 1] != _BRACE:
                raise line_fault(lines, start, self._type) or FirewallBreach(self._type, "a line is a resource of another type")
            if named:  # mostly the first reference does, and nothing else needs to be looked at
                at = find(reference, start, newline)
                close = find(b'"', at + behind, at + _REFERENCE_LONGEST) if at >= 0 else -1
                if (
                    close < 0 or (lines[close - 1] == _SLASH if references is None else lines[at + 1 : close] not in references)
                ) and not self._names_somewhere(lines[start:newline]):
                    raise FirewallBreach(self._type, "a line names none of the job's patients")
            start, count = newline + 1, count + 1
        if count != page.count:
            raise MalformedPage(f"a page of {self._type}", f"it has {count} lines and says that there are {page.count}")

    def _wanted(self, reference: bytes) -> bool:
        if self._references is None:
            return not reference.endswith(b"/")
        return reference in self._references

    def _names_somewhere(self, line: bytes) -> bool:
        """The slow way, for lines whose first reference did not do."""
        if self._itself and self._is_one(line):
            return True
        line = line.replace(b"\\/", b"/")  # an escape that JSON allows and some encoders write
        for owner in self._owners:
            at = line.find(owner)
            while at >= 0:
                string = line[at : line.find(b'"', at)]
                if line[at - 1] in _BEFORE and self._wanted(string.partition(b"/_history/")[0]):
                    return True
                at = line.find(owner, at + 1)
        return False

    def _is_one(self, line: bytes) -> bool:
        """Whether the resource itself is one of ours."""
        if line.startswith(self._own):
            begin = len(self._own)
            own = line[begin : line.find(b'"', begin)]
        else:  # some element stands between type and id; only a parse tells the resource's id from an element's
            try:
                own = str(json.loads(line).get("id", "")).encode()
            except (ValueError, RecursionError):
                return False
        return bool(own) and self._wanted(self._type.encode() + b"/" + own)
