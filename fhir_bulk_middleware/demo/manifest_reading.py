"""Parses a manifest for the client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Manifest", "ManifestFile"]

_LISTS = ("output", "deleted", "error", "outcome")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a manifest.

    Attributes:
        list: the manifest's list that names it: `output`, `deleted`, `error` or `outcome`.
        type: the type of its resources; empty if the manifest has none.
        url: its URL.
        count: number of lines; None if the manifest has none.
        size: length in bytes without content encoding; None if the manifest has none.
        sha256: digest of the same bytes; None if the manifest has none.
    """

    list: str
    type: str
    url: str
    count: int | None
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a complete export.

    Attributes:
        transaction_time: the cut of the export, as the server formats it.
        requires_access_token: whether downloads need the token.
        files: all files, those of `output` first.
        next: URL of the next page; None on the last page (ST-44).
        document: the JSON document.
    """

    transaction_time: str
    requires_access_token: bool
    files: tuple[ManifestFile, ...]
    next: str | None
    document: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Manifest":
        """Parse a manifest.

        Raises:
            KeyError: a field that all versions of the IG require is missing.
        """
        links = {link["relation"]: link["url"] for link in document.get("link", ())}
        return cls(
            transaction_time=document["transactionTime"],
            requires_access_token=document["requiresAccessToken"],
            files=tuple(_file(name, item) for name in _LISTS for item in document.get(name, ())),
            next=links.get("next"),
            document=document,
        )


def _file(name: str, item: Mapping[str, Any]) -> ManifestFile:
    # No version of the IG defines a digest, and only the latest a size: servers use `extension` (MF-09, MF-15).
    facts = {**_extension(item.get("extension", {})), **item}
    return ManifestFile(
        list=name,
        type=facts.get("type", ""),
        url=facts["url"],
        count=facts.get("count"),
        size=facts.get("fileSize", facts.get("size")),
        sha256=facts.get("sha256"),
    )


def _extension(extension: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The members of an extension: an object up to STU3, later an array of FHIR extensions whose URLs end in the name."""
    if isinstance(extension, Mapping):
        return extension
    return {
        entry["url"].rpartition("/")[2]: value for entry in extension for key, value in entry.items() if key.startswith("value")
    }
