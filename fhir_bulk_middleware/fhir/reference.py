"""Literal references: parses `Reference.reference` into type and id of a resource of this server."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ID = r"[A-Za-z0-9.-]{1,64}"


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
    """Parser of literal references for a server with these base URLs.

    Relative references, and absolute ones below one of the base URLs, name resources of this server. Absolute references
    below other URLs, `#contained` and `urn:` references do not. Base URLs are compared as text, without a final slash.
    """

    def __init__(self, base_urls: Iterable[str] = ()) -> None:
        bases = "|".join(re.escape(url.rstrip("/")) for url in base_urls)
        prefix = f"(?:(?:{bases})/)?" if bases else ""
        self._match = re.compile(f"{prefix}([A-Z][A-Za-z]*)/({_ID})(?:/_history/({_ID}))?").fullmatch

    def parse(self, text: str) -> Reference | None:
        """The resource that the text names, or None if it is not a resource of this server."""
        found = self._match(text)
        return None if found is None else Reference(*found.groups())
