"""Literal references: which resource of this server a `Reference.reference` names, if it names one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN


@dataclass(frozen=True, slots=True)
class Reference:
    """A resource of this server: type, logical id, and the version where one was named."""

    type: str
    id: str
    version: str | None = None

    def __str__(self) -> str:
        """The relative reference without a version, `Patient/1`: what resources and jobs are keyed by."""
        return f"{self.type}/{self.id}"


class References:
    """Parses literal references as seen by a server with these base URLs.

    Relative references, and absolute ones below one of the base URLs, are ours. A reference below any other URL is a
    resource of somebody else, however much its end looks like one of ours. `#contained` and `urn:` ones name nothing
    that can be read here. Base URLs are compared as they are written, but for a slash at the end.
    """

    def __init__(self, base_urls: Iterable[str] = ()) -> None:
        bases = "|".join(re.escape(url.rstrip("/")) for url in base_urls)
        prefix = f"(?:(?:{bases})/)?" if bases else ""
        self._match = re.compile(
            f"{prefix}([A-Z][A-Za-z]*)/({RESOURCE_ID_PATTERN})(?:/_history/({RESOURCE_ID_PATTERN}))?"
        ).fullmatch

    def parse(self, text: str) -> Reference | None:
        """The resource that the text names, or None if it is none of this server's."""
        found = self._match(text)
        return None if found is None else Reference(*found.groups())
