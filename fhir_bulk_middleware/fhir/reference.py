"""Literal references: parses `Reference.reference`, and scans a resource for the resources of this server that it names."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

_NAMES = b'"reference":"'


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a resource of this server: type, logical id, and the version if it is given."""

    type: str
    id: str
    version: str | None = None

    def __str__(self) -> str:
        """The relative reference without the version, such as `Patient/1`."""
        return f"{self.type}/{self.id}"


class References:
    """Parser and scanner of literal references for a server with these base URLs.

    Relative references, and absolute ones below one of the base URLs, name resources of this server. Absolute references
    below other URLs, `#contained` and `urn:` references do not. Base URLs are compared as text, without a final slash.

    Attributes:
        target: The resource that a text names, such as `Patient/1`, as bytes and without the version; None as in `parse`.
    """

    def __init__(self, base_urls: Iterable[str] = ()) -> None:
        bases = "|".join(re.escape(url.rstrip("/")) for url in base_urls)
        prefix = f"(?:(?:{bases})/)?" if bases else ""
        self._match = re.compile(
            f"{prefix}([A-Z][A-Za-z]*)/({RESOURCE_ID_PATTERN})(?:/_history/({RESOURCE_ID_PATTERN}))?"
        ).fullmatch
        of_bytes = re.compile(f"{prefix}([A-Z][A-Za-z]*/{RESOURCE_ID_PATTERN})(?:/_history/{RESOURCE_ID_PATTERN})?".encode())
        self.target = lru_cache(maxsize=8_192)(partial(_target, of_bytes.fullmatch))  # most of what is named is named often

    def parse(self, text: str) -> Reference | None:
        """The resource that the text names, or None if it is not a resource of this server."""
        found = self._match(text)
        return None if found is None else Reference(*found.groups())

    def named(self, line: bytes) -> frozenset[bytes]:
        """The resources that a line of canonical JSON names, such as `Patient/1`, without versions.

        It finds all literal references, also those in contained resources and in extensions, by their bytes: nothing is parsed.
        """
        return frozenset(filter(None, map(self.target, map(text_at, beginnings_of(line)))))


def beginnings_of(line: bytes) -> list[bytes]:
    """Where the texts of all elements `reference` in a line of canonical JSON begin: each with what follows it."""
    return line.split(_NAMES)[1:]


def text_at(begin: bytes) -> bytes:
    """The text that begins there, up to an escaped quotation mark if there is one."""
    return begin[: begin.find(b'"')]


def _target(match: Callable[[bytes], re.Match[bytes] | None], text: bytes) -> bytes | None:
    found = match(text)
    return None if found is None else found[1]
