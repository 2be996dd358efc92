"""Checks the objects that a host passes in: methods, their kinds and signatures, misspellings, recipes (law 43).

`BulkData` runs all checks when it is constructed, so that an adapter that cannot work fails at start and not in an export.
"""

import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from functools import lru_cache
from typing import Any, get_origin, get_type_hints

from fhir_bulk_middleware.contract import deletes, running, storage
from fhir_bulk_middleware.contract.access import TokenVerifier
from fhir_bulk_middleware.contract.deletes import DeletionLog
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.observer import Observer
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.recipes import factory_of
from fhir_bulk_middleware.contract.running import JobRunner, Recipe, SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsGroups

__all__ = ["capabilities", "check", "check_capabilities", "check_parts", "first_sentence", "without"]

_RECIPE_LARGEST = 16 * 1024
"""Bytes of a recipe's arguments as JSON: each worker gets them through a pipe at its start."""

_IDS = re.compile(r" \((?:law|[A-Z]{2}-)[^)]*\)")
"""Ids of laws and requirements, which mean something to readers of the code only."""

_COMPARED = 5
"""Shortest method name that is checked for misspellings; shorter ones (`cut`, `put`) are alike by chance."""


def capabilities() -> tuple[type, ...]:
    """The protocols that a storage adapter can implement, in the order of the contract's `__all__`."""
    rooms = (storage, deletes, running)
    named = (vars(room)[name] for room in rooms for name in vars(room) if name in room.__all__)
    return tuple(value for value in named if value.__name__.startswith("Supports"))


def check(value: object, protocol: type, name: str) -> None:
    """Refuse an object that does not implement its protocol.

    Args:
        value: the object that the host passed in.
        protocol: the protocol that it must implement.
        name: the argument's name, for the message.

    Raises:
        TypeError: it is a class and no instance, lacks a method, or has one that cannot be called as the protocol's. The
            message names the method and says what to do.
    """
    kind = _name(value)
    if isinstance(value, type):
        raise TypeError(f"{name}: {value.__name__} is a class; give an instance of it: {value.__name__}(...)")
    promised = _methods(protocol)
    missing = sorted(method for method in promised if not callable(getattr(value, method, None)))
    if missing:
        raise TypeError(f"{name}: {kind} is no {protocol.__name__}; it lacks {', '.join(missing)}")
    for method, as_promised in promised.items():
        fault = _fault(getattr(value, method), as_promised)
        if fault is not None:
            raise TypeError(f"{name}: {kind}.{method} {fault} (see help(fhir_bulk_middleware.{protocol.__name__}))")
    if protocol is SupportsWorkerProcess:
        check_recipe(value, name)
    elif isinstance(value, SupportsWorkerProcess):
        check(value, SupportsWorkerProcess, name)


def check_parts(
    resources: object,
    verifier: object,
    jobs: object,
    outputs: object,
    *,
    observers: Iterable[object],
    groups: object,
    log: object,
    runner: object,
) -> tuple[type, ...]:
    """Check all parts of a `BulkData`; returns the protocols that the storage adapter implements.

    Raises:
        TypeError: a part does not implement its protocol.
    """
    check(resources, SupportsExport, "resources")
    abilities = check_capabilities(resources, "resources")
    check(verifier, TokenVerifier, "verifier")
    check(jobs, JobStore, "jobs")
    check(outputs, OutputStore, "outputs")
    for observer in observers:
        check(observer, Observer, "observers")
    optional = {"groups": SupportsGroups, "log": DeletionLog, "runner": JobRunner}
    for (name, kind), value in zip(optional.items(), (groups, log, runner), strict=True):
        if value is not None:
            check(value, kind, name)
    return abilities


def check_capabilities(value: object, name: str) -> tuple[type, ...]:
    """The protocols that a storage adapter implements completely.

    A method counts for a protocol only if it can be called as the protocol's, so an unrelated `find` of the host does not.

    Raises:
        TypeError: a protocol is implemented in part, a method cannot be called as the protocol's, or its name is misspelled.
    """
    found = []
    for protocol in capabilities():
        promised = _methods(protocol)
        if isinstance(value, protocol):
            check(value, protocol, name)
            found.append(protocol)
            continue
        meant = [method for method in promised if _could_be(value, method, promised[method])]
        if meant:
            missing = ", ".join(method for method in promised if method not in meant)
            raise TypeError(
                f"{name}: {_name(value)} has {', '.join(meant)}, a part of {protocol.__name__}, and lacks {missing}: add what is"
                " missing, or rename what is something else"
            )
        _check_spelling(value, name, protocol)
    return tuple(found)


def without(protocol: type) -> str:
    """What is missing without a protocol: the rest of the sentence "Without it ..." of the protocol's docstring."""
    return _text(protocol).partition("Without it ")[2].partition(". ")[0].rstrip(".")


def first_sentence(protocol: type) -> str:
    """What kind of storage a protocol is: the first sentence of its docstring."""
    return _text(protocol).partition(". ")[0].rstrip(".")


def _text(protocol: type) -> str:
    """The docstring of a protocol on one line, without ids."""
    return _IDS.sub("", " ".join((protocol.__doc__ or "").split()))


def _check_spelling(value: object, name: str, protocol: type) -> None:
    """Refuse a method whose name is one typing error away from one that the adapter lacks, and that can be called as that."""
    for wanted, promised in _methods(protocol).items():
        for own in dir(value):
            if not own.startswith("_") and _slip(own, wanted) and _could_be(value, own, promised):
                raise TypeError(
                    f"{name}: {_name(value)} has {own}, and the method of {protocol.__name__} is called {wanted}: rename it,"
                    " or if it is something else, give it a name that is less alike"
                )


def check_recipe(value: object, name: str) -> None:
    """Refuse a recipe from which a worker process could not make the object again.

    Raises:
        TypeError: the recipe is unusable; the message says why.
    """
    kind = _name(value)
    recipe = value.recipe()  # type: ignore[attr-defined]
    if not isinstance(recipe, Recipe):
        raise TypeError(f"{name}: {kind}.recipe() returned a {_name(recipe)} and no Recipe")
    if recipe.factory.partition(":")[0] == "__main__":
        raise TypeError(
            f"{name}: {kind}.recipe() names {recipe.factory}, and in a worker process __main__ is the worker: move what makes"
            " it to a module that can be imported"
        )
    try:
        size = len(json.dumps(dict(recipe.arguments), allow_nan=False))
        inspect.signature(factory_of(recipe)).bind(**recipe.arguments)
    except Exception as error:  # whatever an import or a signature of the host's raises; the message says it
        raise TypeError(f"{name}: the recipe of {kind} does not work: {recipe.factory}: {error}") from error
    if size > _RECIPE_LARGEST:
        raise TypeError(f"{name}: the arguments of {kind}.recipe() are {size} bytes of JSON, and may be {_RECIPE_LARGEST}")


@lru_cache
def _methods(protocol: type) -> dict[str, Callable[..., Any]]:
    """The methods of a protocol, including those inherited from other protocols."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(protocol.__mro__):
        if getattr(base, "_is_protocol", False):
            found |= {name: member for name, member in vars(base).items() if not name.startswith("_") and callable(member)}
    return found


def _could_be(value: object, own: str, promised: Callable[..., Any]) -> bool:
    """Whether the adapter's method can be called as the protocol's."""
    method = inspect.getattr_static(value, own, None)  # reads no property
    method = getattr(value, own) if inspect.isroutine(method) else None
    return callable(method) and _fault(method, promised) is None


def _fault(method: Callable[..., Any], promised: Callable[..., Any]) -> str | None:
    """Why a method cannot be called as the protocol's; None if it can, or if its kind cannot be determined."""
    kind, call = _kind(promised), inspect.unwrap(method)
    if kind == "coroutine" and (inspect.isasyncgenfunction(call) or _plain(call)):
        return "is no coroutine function: write async def, without yield"
    if kind == "iterator" and (inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call)):
        return "is nothing for `async for`: write async def with yield, or a plain def that returns an AsyncIterator"
    if kind == "plain" and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)):
        return "is async and is called without await: write a plain def"
    signature = inspect.signature(promised)
    given = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    named = [parameter.name for parameter in given if parameter.kind is parameter.KEYWORD_ONLY]
    try:
        inspect.signature(method).bind(*given[: len(given) - len(named)], **dict.fromkeys(named))
    except TypeError as error:
        shown = ", ".join([*(each.name for each in given[: len(given) - len(named)]), *(f"{each}=..." for each in named)])
        return f"cannot be called with ({shown}): {error}"
    except ValueError:  # something built in, which has no signature to look at
        return None
    return None


@lru_cache
def _kind(promised: Callable[..., Any]) -> str:
    if inspect.iscoroutinefunction(promised):
        return "coroutine"
    return "iterator" if get_origin(get_type_hints(promised).get("return")) is AsyncIterator else "plain"


def _plain(call: Callable[..., Any]) -> bool:
    """Whether a call returns nothing to await: a Python function, not async, whose annotation names no awaitable."""
    if not (inspect.isfunction(call) or inspect.ismethod(call)) or inspect.iscoroutinefunction(call):
        return False
    said = str(inspect.unwrap(call).__annotations__.get("return"))
    return not any(awaitable in said for awaitable in ("Awaitable", "Coroutine", "Future", "Task"))


def _slip(own: str, wanted: str) -> bool:
    """Whether two names differ by one letter that is added, missing or wrong, or by two neighbours swapped."""
    if own == wanted or abs(len(own) - len(wanted)) > 1 or len(wanted) < _COMPARED:
        return False
    same = next((place for place, (a, b) in enumerate(zip(own, wanted, strict=False)) if a != b), min(len(own), len(wanted)))
    mine, other = own[same:], wanted[same:]
    return mine[1:] == other or mine == other[1:] or mine[1:] == other[1:] or (mine[1::-1] + mine[2:] == other and len(mine) > 1)


def _name(value: object) -> str:
    return type(value).__name__
