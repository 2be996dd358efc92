"""The `If-Match` header of a delete, also for a resource that is gone (law 25, CD-26)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.contract.removal import AlreadyDeleted, NeverExisted, Removal, VersionMismatch
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

__all__ = ["IfMatch"]

# A version is a FHIR id: as a weak tag (FHIR), as a strong tag (HTTP), or bare, as some clients send it.
_TAG = rf'(?:(?:W/)?"{RESOURCE_ID_PATTERN}"|{RESOURCE_ID_PATTERN})'
_LIST = re.compile(rf"[ \t]*{_TAG}[ \t]*(?:,[ \t]*{_TAG}[ \t]*)*", re.ASCII)
_EACH = re.compile(rf'(?:W/)?"?({RESOURCE_ID_PATTERN})"?', re.ASCII)


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The versions that a client names.

    Attributes:
        versions: the versions; None is `*`, any version of a living resource.
    """

    versions: frozenset[str] | None

    @classmethod
    def parse(cls, headers: Sequence[str]) -> "IfMatch | None":
        """Parse all `If-Match` headers of a request together; None without any.

        Raises:
            ValueError: they are neither a list of versions nor a single `*`.
        """
        if not headers:
            return None
        text = ",".join(headers)
        if text.strip(" \t") == "*":
            return cls(None)
        if _LIST.fullmatch(text) is None:
            raise ValueError('a version as W/"3", several with commas between them, or * is required')
        return cls(frozenset(_EACH.findall(text)))

    def allows(self, version: str) -> bool:
        """Whether the header matches a living resource at this version."""
        return self.versions is None or version in self.versions

    def judge(self, removal: Removal) -> Removal:
        """The removal as the client is told of it, from what the storage answered to `versions`.

        For a resource that is gone, the version that was removed matches and is answered as before; any other does not match.
        """
        match removal:
            case NeverExisted():
                return VersionMismatch()
            case AlreadyDeleted(version) if self.versions is None or version not in self.versions:
                return VersionMismatch()
        return removal
