"""The `If-Match` header of a delete, and what it says of a resource that is gone (law 25, CD-26)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.contract.removal import AlreadyDeleted, NeverExisted, Removal, VersionMismatch
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

__all__ = ["IfMatch"]

# A version is a FHIR id. The weak form is FHIR's own, the strong one HTTP's, the bare one what some clients send.
_TAG = rf'(?:(?:W/)?"{RESOURCE_ID_PATTERN}"|{RESOURCE_ID_PATTERN})'
_LIST = re.compile(rf"[ \t]*{_TAG}[ \t]*(?:,[ \t]*{_TAG}[ \t]*)*", re.ASCII)
_EACH = re.compile(rf'(?:W/)?"?({RESOURCE_ID_PATTERN})"?', re.ASCII)


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Which versions a client means.

    Attributes:
        versions: any of these; None is `*`, any version of a resource that lives.
    """

    versions: frozenset[str] | None

    @classmethod
    def parse(cls, headers: Sequence[str]) -> "IfMatch | None":
        """What all `If-Match` headers of a request say together; None without any.

        Raises:
            ValueError: they are not versions, or not only `*`.
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
        """Whether a living resource at this version is meant."""
        return self.versions is None or version in self.versions

    def judge(self, removal: Removal) -> Removal:
        """What the client is to be told, given what the storage said when it was asked for `versions`.

        To name the version that was removed says nothing new, so it may be said again; everything else about a resource that
        is gone does not hold.
        """
        match removal:
            case NeverExisted():
                return VersionMismatch()
            case AlreadyDeleted(version) if self.versions is None or version not in self.versions:
                return VersionMismatch()
        return removal
