"""Who is in a Group resource."""

from collections.abc import Iterable, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.instant import Instant, Precision, render

__all__ = ["MEMBER_TYPES", "members"]

MEMBER_TYPES = frozenset({"Patient", "Practitioner", "Device"})
"""The types that a member of a Group can have and that have a compartment."""


def members(group: Mapping[str, Any], now: Instant, base_urls: Iterable[str] = ()) -> frozenset[str]:
    """References of the resources that are in the group now, such as `Patient/123`.

    Left out are members that are `inactive` or marked as `exclude`, whose `period` has ended or not begun (by the day, UTC),
    references to other servers, and groups within the group.
    """
    parse = References(base_urls).parse
    today = render(now, Precision.SECONDS)[:10]
    found = set()
    for member in _objects(group.get("member")):
        text = _object(member.get("entity")).get("reference")
        reference = parse(text) if isinstance(text, str) else None
        if reference is not None and reference.type in MEMBER_TYPES and _counts(member, today):
            found.add(str(reference))
    return frozenset(found)


def _counts(member: Mapping[str, Any], today: str) -> bool:
    period = _object(member.get("period"))
    start, end = period.get("start"), period.get("end")
    return (
        member.get("inactive") is not True
        and member.get("exclude") is not True
        and not (isinstance(start, str) and start[:10] > today[: len(start)])
        and not (isinstance(end, str) and end[:10] < today[: len(end)])
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> Iterable[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()
