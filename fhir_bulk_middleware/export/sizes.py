"""How large pages, parts and slices of a job are: the operator's settings, and within them the client's kick_off."""

from fhir_bulk_middleware.contract.job import Sizes
from fhir_bulk_middleware.settings import Settings

__all__ = ["sizes_of"]

GROWTH = 16
"""By how much shaping makes a page larger at most: a resource of a few members gets a tag, and short URLs become long ones."""


def sizes_of(settings: Settings, smallest_file: int | None, largest_file: int | None) -> Sizes:
    """The sizes that come of the settings and of what a client asked for (KO-30, laws 15 and 16)."""
    ceiling = min(largest_file or settings.part_bytes, settings.part_bytes)
    lowest = max(min(smallest_file or 0, ceiling), min(settings.smallest_part_bytes, ceiling // 2))
    page = min(settings.page_bytes, max(ceiling // GROWTH, 1) if largest_file else ceiling)
    if smallest_file:
        page = min(page, max(ceiling - lowest, 1))
    return Sizes(ceiling, lowest, page, max(settings.slice_bytes, 2 * lowest))
