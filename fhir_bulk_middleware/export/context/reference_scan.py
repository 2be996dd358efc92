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
        bases = b"|".join(_escapable(url.rstrip("/")) for url in base_urls)
        base = b"(?:(?:" + bases + rb")\\?/)?" if bases else b""
        names = b"|".join(type_.encode() for type_ in sorted(types))
        named = b"(?:" + (names or b"(?!)") + b")"  # without types, `(?!)` matches nothing
        # `re` looks for the literal text at the beginning byte by byte. It begins with a rare letter here, which takes half the
        # time of a quote; what stands before it is looked at only where the rest was found.
        self._find = re.compile(b'ference":"(?<="reference":")(' + base + named + rb'\\?/[^"]+)"').findall
        self._reference = re.compile(base + b"(" + named + b"/" + _ID + b")(?:/_history/" + _ID + b")?").fullmatch

    def of(self, lines: bytes) -> set[bytes]:
        """The distinct references in the lines, relative and without versions: `Organization/1`."""
        # Each line costs the search alone: thousands of lines name few resources, and only these are looked at closely. The
        # escape `\/`, which some encoders write, is part of the search: to look for it beforehand would take as long again.
        texts = {text.replace(b"\\/", b"/") for text in set(self._find(lines))}
        return {found[1] for text in texts if (found := self._reference(text))}


def _escapable(url: str) -> bytes:
    """A pattern for a URL in which each slash may be escaped."""
    return re.escape(url).encode().replace(b"/", rb"\\?/")
