"""Makes objects from recipes, and writes recipes as JSON for another process."""

import importlib
from collections.abc import Callable
from functools import reduce

from pydantic import JsonValue

from fhir_bulk_middleware.contract.running import Recipe, SupportsWorkerProcess

__all__ = ["as_json", "factory_of", "from_json", "make", "named", "recipes_of"]


def make(recipe: Recipe) -> object:
    """Call the recipe's factory.

    The caller must trust the recipe, which decides what is imported and called. No recipe ever comes from a client.

    Raises:
        ValueError: the factory is not written as `package.module:callable`.
        ImportError: there is no such module, or it has no such name.
    """
    made: object = factory_of(recipe)(**recipe.arguments)
    return made


def factory_of(recipe: Recipe) -> Callable[..., object]:
    """Import the recipe's factory.

    Raises:
        ValueError: it is not written as `package.module:callable`, or is not callable.
        ImportError: there is no such module, or it has no such name.
    """
    found = named(recipe.factory)
    if not callable(found):
        raise ValueError(f"{recipe.factory} cannot be called; name a function or a class that makes it")  # noqa: TRY004 - the text names the wrong thing
    return found


def named(place: str) -> object:
    """Import what `package.module:name` names.

    Raises:
        ValueError: the place is not written like that.
        ImportError: there is no such module, or it has no such name.
    """
    module_name, colon, name = place.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"a factory is written package.module:callable, not {place!r}")
    found: object = importlib.import_module(module_name)
    try:
        return reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise ImportError(f"{module_name} has no {name}") from error


def recipes_of(**parts: object) -> dict[str, JsonValue] | None:
    """The recipe of each part under its name, as JSON; None unless all parts have one (`SupportsWorkerProcess`)."""
    recipes: dict[str, JsonValue] = {}
    for name, part in parts.items():
        if not isinstance(part, SupportsWorkerProcess):
            return None
        recipes[name] = as_json(part.recipe())
    return recipes


def as_json(recipe: Recipe) -> JsonValue:
    """A recipe as a JSON object."""
    return {"factory": recipe.factory, "arguments": dict(recipe.arguments)}


def from_json(value: JsonValue) -> Recipe:
    """The recipe of the JSON object that `as_json` made.

    Raises:
        ValueError: the object is not a recipe.
    """
    match value:
        case {"factory": str(factory), "arguments": dict(arguments)}:
            return Recipe(factory, arguments)
    raise ValueError("not a recipe")
