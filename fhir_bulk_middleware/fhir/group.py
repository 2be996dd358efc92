"""The members of a Group resource."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.instant import Instant, Precision, render

__all__ = ["MEMBER_KINDS", "MEMBER_TYPES", "members"]

MEMBER_TYPES = frozenset({"Patient", "Practitioner", "Device"})
"""The types of group members that have a compartment."""

MEMBER_KINDS = tuple(sorted(MEMBER_TYPES))
"""`MEMBER_TYPES` in a fixed order, for computing compartments."""

_GROUP = "Group"


def members(
    group: Mapping[str, Any],
    now: Instant,
    base_urls: Iterable[str] = (),
    read: Callable[[str], Mapping[str, Any] | None] = lambda _: None,
) -> frozenset[str]:
    """References to the members of the group at an instant, such as `Patient/123`.

    Members of nested groups are members. An entry with `exclude` removes its entity, or the members of its nested group, even
    if other entries name them. Entries that are `inactive`, or whose `period` has ended or not begun (by the day, UTC), are
    ignored; so are references to other servers.

    Args:
        group: the Group resource.
        now: the instant that periods are compared with.
        base_urls: base URLs under which absolute references are this server's own.
        read: returns a Group by its id, as of the same instant, or None. A group inside itself is not read again.
    """
    return _Members(References(base_urls), render(now, Precision.SECONDS)[:10], read).of(group, frozenset({group.get("id")}))


class _Members:
    def __init__(self, references: References, today: str, read: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._parse = references.parse
        self._today = today
        self._read = read

    def of(self, group: Mapping[str, Any], above: frozenset[object]) -> frozenset[str]:
        """The members of a group; `above` has the ids of the groups around it and its own."""
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for member in _objects(group.get("member")):
            if _counts(member, self._today):
                excluded = member.get("exclude") is True
                found[excluded] |= self._named(_object(member.get("entity")).get("reference"), above)
        return frozenset(found[False] - found[True])

    def _named(self, text: object, above: frozenset[object]) -> frozenset[str]:
        reference = self._parse(text) if isinstance(text, str) else None
        if reference is None:
            return frozenset()
        if reference.type in MEMBER_TYPES:
            return frozenset({str(reference)})
        inner = self._read(reference.id) if reference.type == _GROUP and reference.id not in above else None
        return frozenset() if inner is None else self.of(inner, above | {reference.id})


def _counts(member: Mapping[str, Any], today: str) -> bool:
    period = _object(member.get("period"))
    start, end = period.get("start"), period.get("end")
    return (
        member.get("inactive") is not True
        and not (isinstance(start, str) and start[:10] > today[: len(start)])
        and not (isinstance(end, str) and end[:10] < today[: len(end)])
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> Iterable[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()
