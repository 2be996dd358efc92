"""A job store whose parts lie as the benchmark wants it. In a module of its own, so that workers import nothing else for it."""

from collections.abc import Sequence
from pathlib import Path

from fhir_bulk_middleware.contract.job import Codec, Slice
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Rows, Unfinished
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore

__all__ = ["ChosenCodec"]


class ChosenCodec(SQLiteJobStore):
    """Plans with one codec, which is otherwise the machine's choice."""

    def __init__(self, path: str | Path, codec: str, *, blocking: bool = False) -> None:
        super().__init__(path, blocking=blocking)
        self._codec = Codec(codec)

    def recipe(self) -> Recipe:
        arguments = {**super().recipe().arguments, "codec": self._codec.value}
        return Recipe(f"{__name__}:ChosenCodec", arguments)

    async def plan(
        self,
        lease: Lease,
        cut: Instant,
        codec: Codec,
        slices: Sequence[Slice],
        now: Instant,
        *,
        rows: Rows | None = None,
        more: bool = False,
        unfinished: Unfinished | None = None,
    ) -> bool:
        del codec
        return await super().plan(lease, cut, self._codec, slices, now, rows=rows, more=more, unfinished=unfinished)
