"""Texts made comparable, as FHIR's string search compares them."""

import unicodedata

_PUNCTUATION = {number: None for number in range(128) if unicodedata.category(chr(number))[0] == "P"}


def fold(text: str) -> str:
    """The text without case, accents and punctuation, and with single spaces; it may be empty."""
    if text.isascii():
        return " ".join(text.lower().translate(_PUNCTUATION).split())
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (character for character in plain if unicodedata.category(character)[0] not in {"M", "P"})
    return " ".join("".join(kept).split())
