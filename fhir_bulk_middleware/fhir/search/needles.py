"""Byte strings that occur in the text of each matching resource, so that a store need not parse texts without them."""

import re
from collections.abc import Iterable

from fhir_bulk_middleware.fhir.definitions import SearchParameter
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.search.criteria import Criterion
from fhir_bulk_middleware.fhir.search.values import ReferenceValue, TokenValue, Value

_MOST = 16
"""Maximum number of needles; searching for more costs more than parsing."""

_PLAIN = re.compile(r"[A-Za-z0-9 ._:()-]+", re.ASCII)  # neither our JSON encoder nor a host's escapes these


def needles(pairs: Iterable[tuple[Criterion, SearchParameter]], references: References) -> tuple[bytes, ...] | None:
    """The needles of the most selective criterion (whose shortest needle is longest); None if no criterion has needles."""
    known = [found for found in (_of(criterion, parameter, references) for criterion, parameter in pairs) if found]
    return max(known, key=lambda found: min(map(len, found)), default=None)


def _of(criterion: Criterion, parameter: SearchParameter, references: References) -> tuple[bytes, ...] | None:
    """The needles of one criterion, one per value; None unless every value has one."""
    if criterion.modifier in {"not", "missing", "text", "of-type", "identifier"} or parameter.holds:
        return None
    if any(path.type in {"boolean", "string"} for path in parameter.paths):
        return None  # a boolean has no quotes, and strings are compared without case
    if len(criterion.values) > _MOST:
        return None
    found = [_needle(value, references) for value in criterion.values]
    known = [needle for needle in found if needle is not None]
    return tuple(dict.fromkeys(known)) if known and len(known) == len(found) else None


def _needle(value: Value, references: References) -> bytes | None:
    match value:
        case TokenValue(code=str(code)) if _PLAIN.fullmatch(code):
            return f'"{code}"'.encode()
        case TokenValue(system=str(system), code=None) if _PLAIN.fullmatch(system):
            return f'"{system}"'.encode()
        case ReferenceValue(id=str(id_)):
            return id_.encode()
        case ReferenceValue(url=str(url)):
            own = references.parse(url)
            return None if own is None else own.id.encode()
        case _:
            return None
