"""The comparison that a date, number or quantity is searched with."""

from enum import StrEnum

_LENGTH = 2


class Prefix(StrEnum):
    """FHIR's nine search prefixes; a value without one is compared with `eq`."""

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
    """A prefix, `eq` if there is none, and the value after it."""
    head = text[:_LENGTH]
    return (Prefix(head), text[_LENGTH:]) if head in Prefix._value2member_map_ else (Prefix.EQ, text)
