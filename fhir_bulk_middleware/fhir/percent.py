"""Strict percent-decoding: broken encoding is an error and never decodes to other text (law 39)."""

import re
from urllib.parse import unquote

__all__ = ["check_encoded", "decoded"]

_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)


def check_encoded(text: str) -> None:
    """Check that each percent sign begins an encoded byte.

    Raises:
        ValueError: A percent sign does not begin an encoded byte.
    """
    if _BROKEN.search(text):
        raise ValueError("a percent sign without two hexadecimal digits after it; write a percent sign as %25")


def decoded(text: str) -> str:
    """The percent-decoded text. A plus sign stays a plus sign, unlike in forms.

    Raises:
        ValueError: A percent sign does not begin an encoded byte, or the bytes are not UTF-8.
    """
    if "%" not in text:
        return text
    check_encoded(text)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("percent-encoded bytes that are not UTF-8") from None
