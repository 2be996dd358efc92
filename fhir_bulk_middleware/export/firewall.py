"""The check of each page before it is written: no resource of another type, none of a patient who is not the job's (law 17).

The adapter decides what is in an export; the firewall stops the export if the adapter is wrong. It scans bytes. It parses a line
only if it needs the resource's own id and `id` does not follow `resourceType`.
"""

from fhir_bulk_middleware.contract.job import Failure
from fhir_bulk_middleware.contract.query import Compartments, Everything, Page, Selection
from fhir_bulk_middleware.export.page_form import MalformedPage, line_fault
from fhir_bulk_middleware.fhir.line import id_of
from fhir_bulk_middleware.jobs.kind import TaskFailed
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["Firewall", "FirewallBreach"]

_REFERENCE_LONGEST = 128  # a type's name, a slash, an id of 64 characters and the quote after it
_BRACE = ord("}")
_SLASH = ord("/")
_BEFORE = b'"/'  # a string that is a reference, or the path of a URL


class FirewallBreach(TaskFailed):
    """A page holds data that must not be exported. The message names the type and the rule, nothing of the page.

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
    """Checks the pages of one slice.

    At system level each line must be a resource of the slice's type. At Patient and Group level it must also name a patient of
    the job: it is that patient, or holds a string that is a reference to one (`Patient/1`, `Patient/1/_history/2`, or a URL that
    ends so). The scan does not know elements: such a string counts wherever it stands.

    Args:
        type: the resource type.
        selection: whose resources may pass.
    """

    def __init__(self, type: str, selection: Selection) -> None:  # noqa: A002 - FHIR's word for it
        self._type = type
        self._begin = f'{{"resourceType":"{type}",'.encode()
        self._named = not isinstance(selection, Everything)
        # None: a reference to any patient passes.
        self._references: frozenset[bytes] | None = None
        self._quoted: frozenset[bytes] | None = None
        owners = {"Patient"}
        if isinstance(selection, Compartments):
            self._references = frozenset(reference.encode() for reference in selection.references)
            self._quoted = frozenset(b'"' + reference + b'"' for reference in self._references)
            owners = {reference.partition("/")[0] for reference in selection.references}
        # Patient first: most lines name one.
        first = sorted(owners or {"Patient"}, key=lambda owner: (owner != "Patient", owner))
        self._owners = tuple(f"{owner}/".encode() for owner in first)
        self._itself = type in owners

    def check(self, page: Page) -> None:
        """Check all lines of a page.

        Raises:
            FirewallBreach: a line is a resource of another type, or names none of the job's patients.
            MalformedPage: a line is not a resource in canonical form, or `count` is wrong.
        """
        lines, begin, named, quoted = page.lines, self._begin, self._named, self._quoted
        find, begins, reference = lines.find, lines.startswith, b'"' + self._owners[0]
        behind = len(reference)
        start, count, end, length = 0, 0, len(lines), 0
        while start < end:  # some calls into C for each line, and no object that outlives it
            newline = find(b"\n", start)
            if not begins(begin, start) or newline < 0 or lines[newline - 1] != _BRACE:
                raise line_fault(lines, start, self._type) or FirewallBreach(self._type, "a line is a resource of another type")
            if named:  # in most lines the first reference is to one of the patients, and ends the search
                at = find(reference, start, newline)
                # A server's ids are mostly of one length: the string is first taken to be as long as the one before.
                if at < 0 or quoted is None or lines[at : at + length] not in quoted:
                    close = find(b'"', at + behind, at + _REFERENCE_LONGEST) if at >= 0 else -1
                    length = close + 1 - at
                    if (
                        close < 0 or (lines[close - 1] == _SLASH if quoted is None else lines[at : close + 1] not in quoted)
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
        """Whether any reference in the line names a patient of the job; slow, for lines whose first reference does not."""
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
        """Whether the resource itself is a patient of the job."""
        own = id_of(line, self._type)
        return own is not None and self._wanted(f"{self._type}/{own}".encode())
