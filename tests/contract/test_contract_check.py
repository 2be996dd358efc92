"""What a host is told when it makes a `BulkData` of parts that cannot work, and of parts that can (law 43)."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from listed import Complete, Listed, Remade

from fhir_bulk_middleware import AIDBOX, AuditFile, BulkData, JoseTokenVerifier, LogEvents, MemoryDeletionLog, Settings
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Deletions, Page, Query
from fhir_bulk_middleware.contract.removal import Current, Removal
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

# mypy: disable-error-code="override, misc"


class Trusting:
    async def verify(self, token: str) -> Principal:
        raise NotImplementedError(token)


class Plain(Listed):
    def __init__(self) -> None:
        super().__init__({})


class NoCoroutine(Plain):
    def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(frozenset())


class Coroutine(Plain):
    async def pages(self, query: Query, after: str | None) -> list[Page]:
        del query, after
        return []


class PlainGenerator(Plain):
    def pages(self, query: Query, after: str | None) -> Any:
        del query, after
        yield Page(b"", 0, "")


class GeneratorForCoroutine(Plain):
    async def authorise(self, principal: Principal) -> AsyncIterator[Authorisation]:
        del principal
        yield Authorisation(frozenset())


class OneArgument(Plain):
    async def pages(self, query: Query) -> AsyncIterator[Page]:
        del query
        yield Page(b"", 0, "")


class WantsMore(Plain):
    async def authorise(self, principal: Principal, tenant: str) -> Authorisation:
        del principal, tenant
        return Authorisation(frozenset())


class Misspelt(Plain):
    async def deletion(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        del query, after
        yield Deletions((), "")


class Transposed(Plain):
    async def cuurent(self, type_: str, id_: str) -> Current | None:
        del type_, id_
        return None


class Half(Plain):
    async def now(self) -> Instant:
        return Instant(0)


class AsyncTypes(Plain):
    async def exportable_types(self) -> frozenset[str]:
        return frozenset()


class With(Plain):
    """With a recipe."""

    def __init__(self, factory: str = "listed:Listed", **arguments: Any) -> None:
        super().__init__()
        self._recipe: Any = Recipe(factory, arguments)

    def recipe(self) -> Recipe:
        recipe: Recipe = self._recipe
        return recipe


class Dict(With):
    def __init__(self) -> None:
        super().__init__()
        self._recipe = {"factory": "listed:Listed"}


class AsyncRecipe(Plain):
    async def recipe(self) -> Recipe:
        return Recipe("listed:Listed", {"lines": {}})


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a class": (lambda: Plain, "resources: Plain is a class; give an instance of it: Plain(...)"),
    "nothing of it": (object, "resources: object is no SupportsExport; it lacks authorise, pages"),
    "no coroutine": (NoCoroutine, "resources: NoCoroutine.authorise is no coroutine function: write async def, without yield"),
    "a generator for a coroutine": (GeneratorForCoroutine, "GeneratorForCoroutine.authorise is no coroutine function"),
    "a coroutine for a generator": (
        Coroutine,
        "Coroutine.pages is nothing for `async for`: write async def with yield",
    ),
    "a generator that is not async": (PlainGenerator, "PlainGenerator.pages is nothing for `async for`"),
    "an argument too few": (OneArgument, "OneArgument.pages cannot be called with (query, after): too many positional arguments"),
    "an argument too many": (
        WantsMore,
        "cannot be called with (principal): missing a required argument: 'tenant'",
    ),
    "async for plain": (AsyncTypes, "AsyncTypes.exportable_types is async and is called without await: write a plain def"),
    "deletion for deletions": (
        Misspelt,
        "Misspelt has deletion, and the method of SupportsDeletions is called deletions",
    ),
    "cuurent for current": (Transposed, "Transposed has cuurent, and the method of SupportsRead is called current"),
    "a half of a protocol": (Half, "Half has now, a part of SupportsSnapshot, and lacks cut: add what is missing, or rename"),
    "a recipe of __main__": (
        lambda: With("__main__:make"),
        "in a worker process __main__ is the worker: move what makes it",
    ),
    "a recipe of no module": (
        lambda: With("no_such.module:make"),
        "recipe of With does not work: no_such.module:make: No module named",
    ),
    "a recipe of no name": (
        lambda: With("listed:nothing"),
        "recipe of With does not work: listed:nothing: listed has no nothing",
    ),
    "a recipe without colon": (lambda: With("listed"), "a factory is written package.module:callable, not 'listed'"),
    "a recipe of no callable": (lambda: With("listed:NOW"), "listed:NOW cannot be called"),
    "a recipe of other arguments": (lambda: With("listed:Listed", path="x"), "missing a required argument: 'lines'"),
    "a recipe that is no JSON": (lambda: With("listed:Listed", lines=object()), "Object of type object is not JSON serializable"),
    "a recipe of a megabyte": (lambda: With("listed:Listed", lines="x" * 10**6), "are 1000013 bytes of JSON, and may be 16384"),
    "a dict for a recipe": (Dict, "resources: Dict.recipe() returned a dict and no Recipe"),
    "an async recipe": (AsyncRecipe, "AsyncRecipe.recipe is async and is called without await"),
}


def make(resources: Any, **more: Any) -> BulkData:
    parts = {"verifier": Trusting(), "jobs": MemoryJobStore(), "outputs": MemoryOutputStore(), **more}
    return BulkData(resources=resources, **parts)


@pytest.mark.parametrize(("adapter", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_an_adapter_that_cannot_work_is_refused_at_start(adapter: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        make(adapter())
    assert said in str(caught.value)
    assert str(caught.value).startswith("resources: ")


def test_other_parts_are_checked_alike() -> None:
    class Bad:
        def verify(self, token: str) -> None: ...
        def observe(self, event: object) -> None: ...
        def members(self, group_id: str, principal: Principal) -> None: ...
        def wake(self) -> None: ...

    for parts, said in (
        ({"verifier": Bad()}, "verifier: Bad.verify is no coroutine function"),
        ({"observers": [Bad()]}, "observers: Bad.observe is no coroutine function"),
        ({"groups": Bad()}, "groups: Bad.members is no coroutine function"),
        ({"runner": Bad()}, "runner: Bad is no JobRunner; it lacks running"),
        ({"jobs": MemoryJobStore}, "jobs: MemoryJobStore is a class"),
        ({"outputs": object()}, "outputs: object is no OutputStore; it lacks bind, create, discard, jobs, read"),
        ({"log": object()}, "log: object is no DeletionLog; it lacks"),
    ):
        with pytest.raises(TypeError, match=said.replace("(", r"\(").replace(")", r"\)")):
            make(Plain(), **parts)


def logged(call: Callable[..., Awaitable[Authorisation]]) -> Callable[..., Awaitable[Authorisation]]:
    @wraps(call)
    def wrapper(*arguments: Any) -> Awaitable[Authorisation]:
        return call(*arguments)

    return wrapper


class Unusual(Plain):
    """All that looks odd and works."""

    @logged
    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(frozenset())

    def pages(self, query: Query, after: str | None = None, *more: object) -> AsyncIterator[Page]:
        """A plain function that returns an iterator, as an array store's own iterator would be."""
        del more
        return super().pages(query, after)

    def find(self, id_: str) -> str:
        """The host's own, of another meaning than `SupportsConditionalDelete.find`."""
        return id_

    async def put(self, *resources: str) -> None:
        """The host's own; only short names are so near to `cut`."""

    def patient(self, id_: str) -> str:
        """All but `SupportsPatients.patients` by its name, and not by its arguments."""
        return id_

    @property
    def deletion(self) -> str:
        raise AssertionError("a property is not read")


def test_what_looks_odd_and_works_is_let_pass() -> None:
    make(Unusual())


@pytest.mark.anyio
async def test_several_servers_of_one_process_group_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """As long as the first one runs; after a restart it is said again, and another mount says its own."""
    caplog.set_level(logging.INFO, "fhir_bulk_middleware")

    def said() -> int:
        lines = [record for record in caplog.records if record.getMessage().startswith("mount several")]
        caplog.clear()
        return len(lines)

    resources = Complete({})
    for _ in range(2):
        async with make(resources, mount="several").running(), make(resources, mount="several").running():
            assert said() == 5
            async with make(resources, mount="several more").running():
                assert said() == 5


@pytest.mark.anyio
async def test_the_start_says_once_what_was_made_and_what_is_not_promised(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "fhir_bulk_middleware")
    bulk = make(Complete({}))
    assert not caplog.records, "a command that only looks at the jobs does not start"
    async with bulk.running():
        pass
    records = [record for record in caplog.records if record.getMessage().startswith("mount standard: ")]
    identity, abilities, place, told, lacking = [record.getMessage().removeprefix("mount standard: ") for record in records]
    assert identity == "tokens are accepted if Trusting accepts them"
    assert abilities.startswith("the adapter Complete (")
    assert "has SupportsExport, SupportsSnapshot, SupportsSlices, SupportsDeletions" in abilities
    assert place == (
        "exports run in the server's own loop and slow down its requests, since they cannot run in worker processes: resources"
        " (Complete) has no recipe(); jobs (MemoryJobStore) has no recipe(); outputs (MemoryOutputStore) has no recipe()"
        " (help(fhir_bulk_middleware.SupportsWorkerProcess) says how)"
    )
    assert told.startswith("nobody is told of exports, files and deletes")
    assert "no SupportsDelete (there is no DELETE route: the host keeps its own" in lacking
    assert "no SupportsGroups (there is no Group level" in lacking
    assert "no SupportsWorkerProcess (work runs in the server's event loop)" in lacking
    assert not re.search(r"\(\)|law \d|[A-Z]{2}-\d", lacking), "each protocol is explained, in words and not by our ids"
    assert "SupportsOutbox" not in lacking, "it matters only if DELETE of resources is ours"
    assert [record.levelno for record in records] == [logging.INFO, logging.INFO, logging.WARNING, logging.INFO, logging.INFO]
    assert not [record for record in records if "\n" in record.getMessage()]

    caplog.clear()
    jobs, outputs = SQLiteJobStore(tmp_path / "jobs.db"), FileOutputStore(tmp_path / "exports")
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    observers = [AuditFile(tmp_path / "audit.jsonl"), LogEvents()]
    settings = Settings(worker_processes=3, on_audit_failure="refuse")
    parts = {"jobs": jobs, "outputs": outputs, "settings": settings, "verifier": verifier, "observers": observers}
    async with make(Remade(str(tmp_path), 1, 1), **parts).running():
        pass
    jobs.close()
    identity, _, place, told, _ = [record.getMessage().removeprefix("mount standard: ") for record in caplog.records][:5]
    assert identity == (
        "tokens of https://auth.example for https://ehr.example/fhir are accepted, checked with a fixed set of keys (1)"
        " (JoseTokenVerifier)"
    )
    assert place == "exports run in 3 worker processes"
    assert told == "events are told to AuditFile (audit), LogEvents; what an audit cannot record is refused"
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.anyio
async def test_the_start_does_not_name_what_the_log_of_deletes_makes_up_for(caplog: pytest.LogCaptureFixture) -> None:
    class Deleting(Complete):
        async def deletable(self, principal: Principal) -> Authorisation:
            raise NotImplementedError

        async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
            raise NotImplementedError

        async def current(self, type_: str, id_: str) -> Current | None:
            raise NotImplementedError

    caplog.set_level(logging.INFO, "fhir_bulk_middleware")
    async with make(Deleting({}), deletes=AIDBOX, log=MemoryDeletionLog()).running():
        pass
    lacking = caplog.records[4].getMessage()
    assert "no SupportsLockedDelete (a conditional delete finds, then removes" in lacking
    assert not re.search("SupportsDeletions|SupportsOutbox|SupportsBatchDelete", lacking)
