"""Whether a resource is meant by a conditional delete; for storages that look at the resources themselves."""

import json
from collections.abc import Iterable
from decimal import Decimal

from fhir_bulk_middleware.contract.removal import Target
from fhir_bulk_middleware.fhir.search.matching import Matcher

__all__ = ["TargetMatcher"]


class TargetMatcher:
    """A target, compiled for one server.

    Args:
        target: what is meant.
        base_urls: the base URLs under which absolute references are this server's own.
    """

    def __init__(self, target: Target, base_urls: Iterable[str] = ()) -> None:
        bases = tuple(base_urls)
        self._asked = Matcher(target.criteria, bases)
        self._granted = [[Matcher(criteria, bases) for criteria in each.alternatives] for each in target.granted]

    def matches(self, text: bytes) -> bool:
        """Whether a resource, as canonical JSON, meets the criteria and lies within what is granted."""
        needles = self._asked.needles
        if needles is not None and not any(needle in text for needle in needles):
            return False
        resource = json.loads(text, parse_float=Decimal)
        return self._asked.matches(resource) and all(
            any(matcher.matches(resource) for matcher in alternatives) for alternatives in self._granted
        )
