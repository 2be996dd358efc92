r"""The escapes of search values: `\,` `\$` `\|` `\\` stand for the characters that a search gives a meaning to."""

import re

_PIECE = re.compile(r"\\[,$|\\]|[,$|]|[^\\,$|]+", re.DOTALL)


def split(text: str, separator: str) -> list[str]:
    """The parts between the separators that are not escaped; the parts keep their escapes.

    Raises:
        ValueError: If a backslash stands before anything but `,`, `$`, `|` or a backslash.
    """
    if "\\" not in text:
        return text.split(separator)
    parts: list[str] = []
    begun: list[str] = []  # joined once a part: to add each piece to the part would copy the part each time
    for piece in _pieces(text):
        if piece == separator:
            parts.append("".join(begun))
            begun.clear()
        else:
            begun.append(piece)
    parts.append("".join(begun))
    return parts


def unescape(text: str) -> str:
    """The text that was meant.

    Raises:
        ValueError: If a backslash stands before anything but `,`, `$`, `|` or a backslash.
    """
    return "".join(piece[1:] if piece[0] == "\\" else piece for piece in _pieces(text)) if "\\" in text else text


def escape(text: str) -> str:
    """The text with every character escaped that has a meaning in a search value."""
    return re.sub(r"[,$|\\]", r"\\\g<0>", text)


def _pieces(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError("a backslash that escapes nothing")
    return pieces
