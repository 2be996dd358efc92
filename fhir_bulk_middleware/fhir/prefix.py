"""Comparison prefixes of search values for dates, numbers and quantities."""

from enum import StrEnum

_LENGTH = 2


class Prefix(StrEnum):
    """FHIR's nine search prefixes; a value without a prefix means `eq`."""

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    LT = "lt"
    GE = "ge"
    LE = "le"
    SA = "sa"
    EB = "eb"
    AP = "ap"


def split_prefix(text: str) -> tuple[Prefix, str]:
    """Split a search value into its prefix (`eq` if it has none) and the rest."""
    head = text[:_LENGTH]
    return (Prefix(head), text[_LENGTH:]) if head in Prefix._value2member_map_ else (Prefix.EQ, text)
