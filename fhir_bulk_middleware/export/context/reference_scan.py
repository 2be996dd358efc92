"""Finds references in the lines of files, by a scan of bytes and not by parsing."""

import re
from collections.abc import Iterable

__all__ = ["ReferenceScan"]

_ID = b"[A-Za-z0-9.-]{1,64}"


class ReferenceScan:
    """Finds the literal references to resources of certain types of this server.

    Every string member `reference` of a line counts, wherever it stands: a quote within a JSON string is escaped, so no text can
    look like one. Relative references count, and absolute ones below one of the base URLs, with or without a version. Contained,
    logical and conditional references and fragments have another form and name nothing.

    Args:
        types: the resource types that references must have.
        base_urls: the base URLs below which an absolute reference is local (KO-85).
    """

    def __init__(self, types: Iterable[str], base_urls: Iterable[str] = ()) -> None:
        bases = b"|".join(re.escape(url.rstrip("/")).encode() for url in base_urls)
        base = b"(?:(?:" + bases + b")/)?" if bases else b""
        names = b"|".join(type_.encode() for type_ in sorted(types))
        # Without types, `(?!)` matches nothing.
        named = b"((?:" + (names or b"(?!)") + b")/" + _ID + b")"
        self._find = re.compile(b'"reference":"' + base + named + b"(?:/_history/" + _ID + b')?"').findall

    def of(self, lines: bytes) -> set[bytes]:
        """The distinct references in the lines, relative and without versions: `Organization/1`."""
        if b"\\/" in lines:  # an escape that JSON allows and some encoders write
            lines = lines.replace(b"\\/", b"/")
        return set(self._find(lines))
