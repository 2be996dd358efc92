"""The README as a package index shows it: relative links become links to the repository. A metadata hook of hatchling."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def absolute(text: str, repository: str) -> str:
    """The text with each relative link, and each relative picture, at its place in the repository."""
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")

    def replaced(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        return f"{picture}[{label}]({f'{raw}/main' if picture else f'{repository}/blob/main'}/{path})"

    return _RELATIVE.sub(replaced, text)


class PackageReadme(MetadataHookInterface):
    """Fills in the dynamic field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to the metadata of the package."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Repository"])}
