"""Parses the `Prefer` header (RFC 7240, KO-43 to KO-49)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["Preferences"]

# Possessive quantifiers (`*+`) prevent backtracking, so both are linear in the text (law 38). An unclosed quoted string ends with
# the header.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^",]++|,')
_PREFERENCE = re.compile(r'\s*+([!#$%&\'*+.^_`|~0-9A-Za-z-]++)\s*+(?:=\s*+("(?:[^"\\]|\\.)*+"|[^\s";,]*+))?')
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that exports and deletes know; others are ignored, as the RFC requires.

    Attributes:
        respond_async: the client asks for the asynchronous pattern.
        handling: whether to refuse unusable parameters (`strict`) or to ignore them; None means `strict`.
        separate_export_status: the client wants the job's status in `X-Export-Status` (KO-45).
        returns: the preferred answer to a delete, in lower case: `minimal`, `representation`, `operationoutcome` (RD-18).
        wait: how many seconds the client gives the server for its answer to a poll; None without a valid value.
    """

    respond_async: bool = False
    handling: Literal["strict", "lenient"] | None = None
    separate_export_status: bool = False
    returns: str | None = None
    wait: int | None = None

    @classmethod
    def parse(cls, headers: Iterable[str]) -> "Preferences":
        """The preferences of all `Prefer` headers of a request.

        Several headers count as one list. Names are case-insensitive. Only the first of a repeated name counts.

        Raises:
            ValueError: `handling` is neither `strict` nor `lenient`, or both.
        """
        found: dict[str, str] = {}
        handlings: set[str] = set()
        for header in headers:
            for item in _items(header):
                match = _PREFERENCE.match(item)
                if match is None:
                    continue
                name, value = match[1].lower(), (match[2] or "").strip('"').lower()
                found.setdefault(name, value)
                if name == "handling":
                    handlings.add(value)
        if not handlings <= {"strict", "lenient"} or len(handlings) > 1:
            raise ValueError("handling must be either strict or lenient")
        handling: Literal["strict", "lenient"] | None = None
        if handlings:
            handling = "lenient" if "lenient" in handlings else "strict"
        return cls(
            respond_async="respond-async" in found,
            handling=handling,
            separate_export_status="separate-export-status" in found,
            returns=found.get("return"),
            wait=int(found["wait"]) if _SECONDS.fullmatch(found.get("wait", "")) else None,
        )


def _items(header: str) -> Iterator[str]:
    """The preferences of one header, split at commas outside quoted strings."""
    pieces: list[str] = []
    for piece in _PIECE.findall(header):
        if piece == ",":
            yield "".join(pieces)
            pieces.clear()
        else:
            pieces.append(piece)
    yield "".join(pieces)
