r"""Escapes in search values: `\,` `\$` `\|` and `\\` stand for the characters that are separators otherwise."""

import re

_PIECE = re.compile(r"\\[,$|\\]|[,$|]|[^\\,$|]+", re.DOTALL)


def split(text: str, separator: str) -> list[str]:
    """Split at the separators that are not escaped; the parts keep their escapes.

    Raises:
        ValueError: If a backslash stands before anything but `,`, `$`, `|` or a backslash.
    """
    if "\\" not in text:
        return text.split(separator)
    parts: list[str] = []
    begun: list[str] = []  # joined once per part: adding strings one by one would take quadratic time
    for piece in _pieces(text):
        if piece == separator:
            parts.append("".join(begun))
            begun.clear()
        else:
            begun.append(piece)
    parts.append("".join(begun))
    return parts


def unescape(text: str) -> str:
    """The text without escapes.

    Raises:
        ValueError: If a backslash stands before anything but `,`, `$`, `|` or a backslash.
    """
    return "".join(piece[1:] if piece[0] == "\\" else piece for piece in _pieces(text)) if "\\" in text else text


def escape(text: str) -> str:
    """The text with all separators and backslashes escaped."""
    return re.sub(r"[,$|\\]", r"\\\g<0>", text)


def _pieces(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError("a backslash that escapes nothing")
    return pieces
