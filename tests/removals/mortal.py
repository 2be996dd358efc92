"""A resource store whose process is killed between a commit and whatever comes after it; importable in worker processes."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from fhir_bulk_middleware.contract.removal import Batch, Removal
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["Mortal", "mortal"]


class Mortal(SQLiteResourceStore):
    """Kills its process right after a removal was committed, once, if the file `kill` beside it says after how many.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._order = path.with_name("kill")
        self._path = path

    def recipe(self) -> Recipe:
        return Recipe("mortal:mortal", {"path": str(self._path)})

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        outcomes = await super().remove_batch(batch)
        self._obey()
        return outcomes

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        self._obey()
        return removal

    def _obey(self) -> None:
        if not self._order.exists():
            return
        left = int(self._order.read_text())
        if left > 1:
            self._order.write_text(str(left - 1))
            return
        self._order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def mortal(path: str) -> Mortal:
    """From a recipe."""
    return Mortal(Path(path))
