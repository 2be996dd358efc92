"""Telling observers what happened, so that none of them can harm what it is told about."""

import logging
from collections.abc import Iterable
from typing import cast

import anyio
from pydantic import JsonValue

from fhir_bulk_middleware.events import Event, name
from fhir_bulk_middleware.export.recipes import as_json, from_json, make
from fhir_bulk_middleware.protocols import Observer, SupportsWorkerProcess

__all__ = ["Observers"]

_log = logging.getLogger("fhir_bulk_middleware")

_PATIENCE = 5.0


class Observers:
    """All who want to know.

    Args:
        observers: in the order in which they are told.
        patience: seconds that one of them may take.
    """

    def __init__(self, observers: Iterable[Observer] = (), *, patience: float = _PATIENCE) -> None:
        self._observers = tuple(observers)
        self._patience = patience

    def __bool__(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._observers)

    async def tell(self, event: Event) -> None:
        """Tell everybody; returns when all know, or could not be told.

        It goes on though the teller is being cancelled: what has happened has happened.
        """
        for observer in self._observers:
            try:
                with anyio.fail_after(self._patience, shield=True):
                    await observer.observe(event)
            except Exception:  # noqa: BLE001 - an observer that is out of order must not put anybody else out of order
                _log.exception("%s could not be told of %s", type(observer).__name__, name(event))

    def only_here(self) -> "Observers":
        """Those that no other process has: they hear of this process alone."""
        own = (observer for observer in self._observers if not isinstance(observer, SupportsWorkerProcess))
        return Observers(own, patience=self._patience)

    def recipes(self) -> list[JsonValue]:
        """How to make those again who can be, for a worker process; the others hear of this process only."""
        return [as_json(observer.recipe()) for observer in self._observers if isinstance(observer, SupportsWorkerProcess)]

    @classmethod
    def from_recipes(cls, recipes: JsonValue) -> "Observers":
        """The observers of `recipes`."""
        if not isinstance(recipes, list):
            raise ValueError("not a list of recipes")  # noqa: TRY004 - malformed input, as in from_json
        return cls(cast("Observer", make(from_json(recipe))) for recipe in recipes)
