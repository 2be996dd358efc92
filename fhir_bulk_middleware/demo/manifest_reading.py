"""What a client reads of a manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Manifest", "ManifestFile"]

_LISTS = ("output", "deleted", "error", "outcome")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file that the server has for us.

    Attributes:
        list: the manifest's list that it stands in: `output`, `deleted`, `error` or `outcome`.
        type: the type of its resources; empty where the manifest does not say it.
        url: where it lies.
        count: how many lines it has, None if the manifest does not say it.
        size: its length in bytes without content encoding, None if the manifest does not say it.
        sha256: the digest of the same bytes, None if the manifest does not say it.
    """

    list: str
    type: str
    url: str
    count: int | None
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The answer to a poll when the export is done.

    Attributes:
        transaction_time: the instant that the export shows, as the server spells it.
        requires_access_token: whether files want the token.
        files: all files, those in `output` first.
        next: where the manifest goes on, None on its last page (ST-44).
        document: the manifest as it came.
    """

    transaction_time: str
    requires_access_token: bool
    files: tuple[ManifestFile, ...]
    next: str | None
    document: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Manifest":
        """Read a manifest.

        Raises:
            KeyError: one of the fields is missing that each version of the IG requires.
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
    # No published version of the IG has a digest, and only the latest a size: servers put them into `extension` (MF-09, MF-15).
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
    """An object up to STU3; later an array of FHIR extensions, whose URLs end in the name."""
    if isinstance(extension, Mapping):
        return extension
    return {
        entry["url"].rpartition("/")[2]: value for entry in extension for key, value in entry.items() if key.startswith("value")
    }
