"""`PageMaker`: collects lines into pages of the size that a query asks for."""

from fhir_bulk_middleware.contract.query import Page

__all__ = ["PageMaker"]


class PageMaker:
    """Makes pages of lines that come one by one.

    Each page holds as many lines as it may, so the cursor of a page decides all pages that follow it, wherever reading begins.

        pages = PageMaker(query.page_bytes)
        for key, line in rows:
            if (page := pages.add(line, key)) is not None:
                yield page
        if (page := pages.last()) is not None:
            yield page

    Args:
        page_bytes: the largest size of a page in bytes, unless it holds a single larger line (`Query.page_bytes`).
    """

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._lines: list[bytes] = []
        self._size = 0
        self._cursor = ""

    def add(self, line: bytes, cursor: str) -> Page | None:
        """Add a line; the page that was full before it, if there is one.

        Args:
            line: canonical text without its newline (`Canonical.text`).
            cursor: the cursor of a page that ends with this line.
        """
        full = None
        if self._lines and self._size + len(line) + 1 > self._page_bytes:
            full = self.last()
        self._lines.append(line)
        self._size += len(line) + 1
        self._cursor = cursor
        return full

    def last(self) -> Page | None:
        """The page of the lines that are left; None if there are none."""
        if not self._lines:
            return None
        page = Page(b"\n".join((*self._lines, b"")), len(self._lines), self._cursor)
        self._lines, self._size = [], 0
        return page
