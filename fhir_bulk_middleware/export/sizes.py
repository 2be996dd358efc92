"""The sizes of a job's pages, parts and slices: from the client's parameters, within the operator's settings."""

import math
from collections.abc import Sequence

from fhir_bulk_middleware.contract.job import Sizes
from fhir_bulk_middleware.contract.query import Range
from fhir_bulk_middleware.settings import Settings

__all__ = ["share", "sizes_of", "smallest_slice"]

GROWTH = 16
"""The factor by which `Transform` can enlarge a page: `_elements` adds a tag to each resource, attachment URLs get longer."""

_SMALLEST_SLICE = 4 * 1024 * 1024
_FEWEST = 1_000
"""Fewer resources than this are not divided: the durable writes of a second slice would cost more than it saves (law 44)."""


def smallest_slice(sizes: Sizes) -> int:
    """The smallest target for a slice of a type that is divided among workers."""
    return min(sizes.slice, max(_SMALLEST_SLICE, 2 * sizes.floor))


def share(ranges: Sequence[Range], total: int, workers: int) -> int:
    """Into how many slices a type has to be divided, so that none holds more than a worker's share of an export; 1 for as it is.

    Args:
        ranges: the type's, of the usual size.
        total: the estimate of the export.
        workers: the number of workers.
    """
    estimate = sum(each.estimate for each in ranges)
    if estimate < _FEWEST or max(each.estimate for each in ranges) * workers <= total:
        return 1
    return math.ceil(estimate * workers / total)


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
