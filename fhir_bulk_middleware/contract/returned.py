"""Checks that an adapter returns the types that its protocols promise (law 43)."""

from collections.abc import Set as AbstractSet
from typing import TypeVar

from fhir_bulk_middleware.contract.query import Authorisation

__all__ = ["answered", "authorised", "references"]

T = TypeVar("T")


def answered(value: object, kind: type[T], method: str) -> T:
    """The value, checked to be of a type.

    Raises:
        TypeError: it is of another type; the message names the adapter's method.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"the adapter's {method} returned a {type(value).__name__} and must return {kind.__name__}: see"
            " fhir_bulk_middleware.contract"
        )
    return value


def authorised(value: object, method: str = "authorise") -> Authorisation:
    """The return value of `authorise` or `deletable`, checked.

    Raises:
        TypeError: it is no `Authorisation`, or has fields of other types.
    """
    found = answered(value, Authorisation, method)
    references(found.types, f"{method} (Authorisation.types)")
    answered(found.rights, str, f"{method} (Authorisation.rights)")
    return found


def references(value: object, method: str) -> frozenset[str]:
    """A set of references, or of other names, checked.

    Raises:
        TypeError: it is no set of `str`.
    """
    if not isinstance(value, AbstractSet):
        value = answered(value, frozenset, method)
    return frozenset(answered(each, str, f"{method} (an entry)") for each in value)
