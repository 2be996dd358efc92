"""Checks the form of what an adapter hands over: pages, blocks, deletions and cursors (law 43).

A malformed page fails its job. The operator's log says which line it is, what is wrong, and which documentation to read. The
firewall checks what may be exported.
"""

import json
import re
from collections.abc import Sequence

from fhir_bulk_middleware.contract.job import Failure
from fhir_bulk_middleware.contract.query import Block, Deletions, Page
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN
from fhir_bulk_middleware.jobs.kind import TaskFailed
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["DELETIONS_AT_MOST", "LONGEST_CURSOR", "TOLERATED", "MalformedPage", "PageForm", "line_fault"]

TOLERATED = 1024 * 1024
"""Bytes that a page of several resources may have; or four times `Query.page_bytes` if that is more."""

LONGEST_CURSOR = 4096
"""Characters of a cursor, which is stored with each part."""

DELETIONS_AT_MOST = 10_000
"""References on one page of deletions."""

_EMPTY_AT_MOST = 100_000

_READ = {
    "page": "see Page in fhir_bulk_middleware.contract.query",
    "line": "see Page in fhir_bulk_middleware.contract.query; canonical in fhir_bulk_middleware.fhir.canonical writes such lines",
    "block": "see Block in fhir_bulk_middleware.contract.query",
    "deletions": "see Deletions in fhir_bulk_middleware.contract.query",
}
_BOM = b"\xef\xbb\xbf"
_REFERENCE = re.compile(rf"[A-Z][A-Za-z]{{0,63}}/{RESOURCE_ID_PATTERN}", re.ASCII)


class MalformedPage(TaskFailed):
    """The adapter handed over a value that breaks its protocol. The message contains nothing of any resource."""

    failure = Failure(
        Reason.FAULT,
        "The export was stopped because this server's storage handed over data that is malformed; its operator is told how.",
    )

    def __init__(self, what: str, fault: str, about: str = "page") -> None:
        super().__init__(f"{what} is malformed: {fault}; {_READ[about]}")


class PageForm:
    """Checks the pages of one slice in their order, as far as that is cheap.

    Finds values of a wrong type, pages that are too large, a repeated cursor (a cycle of any length), and a resource that ends
    one page and begins the next. Other repeated resources are only found by the suites of `fhir_bulk_middleware.testing`.

    Args:
        resource_type: the type of the slice, for messages.
        page_bytes: the requested size of pages (law 16).
        after: the cursor at which reading began.
        cursors: whether the pages have cursors.
    """

    def __init__(self, resource_type: str, page_bytes: int, after: str | None, *, cursors: bool = True) -> None:
        self._type = resource_type
        self._most = max(4 * page_bytes, TOLERATED)
        self._cursors = cursors
        self._number = 0
        self._moves, self._empty = 0, 0
        self._landmark = after
        self._last_line: bytes | None = None
        self._block: str | None = None

    def check(self, page: object) -> None:
        """Check the next page.

        Raises:
            MalformedPage: the page breaks the rules of `Page`.
        """
        self._number += 1
        if not isinstance(page, Page):
            raise self._malformed(f"it is a {type(page).__name__} and no Page")
        self._check_page(page)
        if self._cursors:
            self._check_cursor(page.cursor, moves=bool(page.lines))

    def check_block(self, block: object) -> None:
        """Check the next block.

        Raises:
            MalformedPage: the block breaks the rules of `Block`.
        """
        self._number += 1
        if not isinstance(block, Block) or not isinstance(block.page, Page):
            raise self._malformed(f"it is a {type(block).__name__} and no Block with a Page", "block")
        if not isinstance(block.reference, str) or not isinstance(block.type, str):
            raise self._malformed("reference and type must be str", "block")
        if block.reference != self._block:  # two patients may share a resource
            self._block, self._last_line = block.reference, None
        self._check_page(block.page)
        self._check_cursor(block.cursor, moves=bool(block.page.lines))

    def check_deletions(self, page: object) -> None:
        """Check the next page of deletions.

        Raises:
            MalformedPage: the page breaks the rules of `Deletions`.
        """
        self._number += 1
        if not isinstance(page, Deletions):
            raise self._malformed(f"it is a {type(page).__name__} and no Deletions", "deletions")
        references: object = page.references
        if isinstance(references, str) or not isinstance(references, Sequence):
            raise self._malformed(f"references must be a tuple of str, not a {type(references).__name__}", "deletions")
        if len(references) > DELETIONS_AT_MOST:
            raise self._malformed(f"it has {len(references)} references, and may have {DELETIONS_AT_MOST}", "deletions")
        for place, reference in enumerate(references, 1):
            if not isinstance(reference, str) or _REFERENCE.fullmatch(reference) is None:
                raise self._malformed(f"reference {place} is not Type/id", "deletions")
        if len(frozenset(references)) != len(references):
            raise self._malformed("a reference stands in it twice", "deletions")
        self._check_cursor(page.cursor, moves=bool(references))

    def _check_page(self, page: Page) -> None:
        lines: object = page.lines
        count: object = page.count
        if not isinstance(lines, bytes):
            raise self._malformed(f"lines must be bytes, not a {type(lines).__name__}")
        if type(count) is not int:
            raise self._malformed(f"count must be an int, not a {type(count).__name__}")
        unreadable: object = page.unreadable
        if not isinstance(unreadable, tuple) or not all(isinstance(each, str) for each in unreadable):
            raise self._malformed("unreadable must be a tuple of str")
        if len(lines) > self._most and len(lines) - max(map(len, lines.split(b"\n"))) > self._most:
            raise self._malformed(
                f"it has {len(lines)} bytes in {count} resources; a page of several resources may have Query.page_bytes,"
                f" and is refused above {self._most}"
            )
        if not lines:
            if count:
                raise self._malformed(f"it has no lines and says that there are {count}")
            return
        end = lines.find(b"\n")
        if self._last_line is not None and end >= 0 and lines[: end + 1] == self._last_line:
            raise self._malformed("it begins with the resource that the page before ends with: its cursor must leave that out")
        self._last_line = lines[lines.rfind(b"\n", 0, -1) + 1 :]

    def _check_cursor(self, cursor: object, *, moves: bool) -> None:
        """Find cycles of cursors with Brent's algorithm: the landmark moves at each power of two."""
        if not isinstance(cursor, str):
            raise self._malformed(f"cursor must be a str, not a {type(cursor).__name__}")
        if len(cursor) > LONGEST_CURSOR:
            raise self._malformed(f"its cursor has {len(cursor)} characters, and may have {LONGEST_CURSOR}")
        if not moves:  # an empty page may repeat the cursor of the page before
            self._empty += 1
            if self._empty > _EMPTY_AT_MOST:
                raise self._malformed(f"{_EMPTY_AT_MOST} pages before it were empty, too")
            return
        self._empty, self._moves = 0, self._moves + 1
        if cursor == self._landmark:
            raise self._malformed("its cursor is one that an earlier page had, so that reading would never end")
        if self._moves & (self._moves - 1) == 0:
            self._landmark = cursor

    def _malformed(self, fault: str, about: str = "page") -> MalformedPage:
        return MalformedPage(f"page {self._number} of {self._type}", fault, about)


def line_fault(lines: bytes, start: int, resource_type: str) -> MalformedPage | None:
    """The fault of the line that begins at `start`; None if it is a well-formed resource of another type."""
    number = lines.count(b"\n", 0, start) + 1
    newline = lines.find(b"\n", start)
    line = lines[start : newline if newline >= 0 else len(lines)]
    fault = _fault(line, resource_type, ended=newline >= 0)
    return None if fault is None else MalformedPage(f"line {number} of a page of {resource_type}", fault, "line")


def _fault(line: bytes, resource_type: str, *, ended: bool) -> str | None:
    if line.startswith(_BOM):
        return "it begins with a byte order mark"
    if line.endswith(b"\r"):
        return "it ends with a carriage return (CRLF); a line ends with \\n alone"
    try:
        content = json.loads(line.decode())
    except (ValueError, RecursionError):
        return "it is not JSON: is it empty, a part of a resource that was written on several lines, or not in UTF-8?"
    return _fault_of(content, resource_type, ended=ended)


def _fault_of(content: object, resource_type: str, *, ended: bool) -> str | None:
    """Why a JSON document is not a canonical line of this type; None if it is of another type."""
    if not isinstance(content, dict) or not isinstance(content.get("resourceType"), str):
        return "it is no JSON object with a resourceType"
    if content["resourceType"] != resource_type:
        return None
    if not ended:
        return "it does not end with a newline"
    if next(iter(content)) != "resourceType":
        return "its first member is not resourceType"
    return (
        f'it does not begin with {{"resourceType":"{resource_type}", or not end with }}: it must be compact, without blanks'
        ' (json.dumps needs separators=(",", ":"))'
    )
