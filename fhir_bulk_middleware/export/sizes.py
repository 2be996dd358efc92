"""The sizes of a job's pages, parts and slices: from the client's parameters, within the operator's settings."""

from fhir_bulk_middleware.contract.job import Sizes
from fhir_bulk_middleware.settings import Settings

__all__ = ["sizes_of"]

GROWTH = 16
"""The factor by which `Transform` can enlarge a page: `_elements` adds a tag to each resource, attachment URLs get longer."""


def sizes_of(settings: Settings, smallest_file: int | None, largest_file: int | None) -> Sizes:
    """The sizes for a job, in plain bytes (KO-30, laws 15 and 16).

    Args:
        settings: the operator's.
        smallest_file: `_minimumFileSize`, None without it.
        largest_file: `_maximumFileSize`, None without it.
    """
    ceiling = min(largest_file or settings.part_bytes, settings.part_bytes)
    lowest = max(min(smallest_file or 0, ceiling), min(settings.smallest_part_bytes, ceiling // 2))
    page = min(settings.page_bytes, max(ceiling // GROWTH, 1) if largest_file else ceiling)
    if smallest_file:
        page = min(page, max(ceiling - lowest, 1))
    return Sizes(ceiling, lowest, page, max(settings.slice_bytes, 2 * lowest))
