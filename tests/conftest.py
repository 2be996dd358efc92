"""Fixtures of all tests."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import pytest
from house import AUDIENCE, BASE, ISSUER, House, populate

from fhir_bulk_middleware.dialects import STANDARD, Dialect
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

# Laws are about results; how long an example takes, or takes to be made, on a busy machine is for the benchmarks.
hypothesis.settings.register_profile("laws", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("laws")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell without job control starts what runs in its background. Servers that inherit it would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if sys.dont_write_bytecode and "PYTHONPYCACHEPREFIX" not in os.environ:
    # As container images set it. Each of some hundred processes of the tests would compile the package again.
    _bytecode = tempfile.mkdtemp(prefix="bytecode-")
    atexit.register(shutil.rmtree, _bytecode, ignore_errors=True)
    os.environ["PYTHONPYCACHEPREFIX"] = _bytecode
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one process more than there are cores, since tests wait for the processes that they start."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio is the supported loop: aiofiles knows no other."""
    return "asyncio"


@pytest.fixture(scope="session")
def mint() -> TokenMint:
    """Who issues tokens; making a key takes a while."""
    return TokenMint(ISSUER, AUDIENCE)


@pytest.fixture
def make_house(mint: TokenMint) -> Any:
    """Makes houses: `async with make_house(dialect=..., parts=..., **settings) as house`."""

    @asynccontextmanager
    async def make(
        dialect: Dialect = STANDARD,
        store: type[MemoryResourceStore] = MemoryResourceStore,
        parts: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncIterator[House]:
        pace = {"kick_offs_per_minute": 1_000_000, "refusals_per_minute": 1_000_000}  # a clock that stands still refills nothing
        pace |= {"first_poll_wait": 0}  # jobs work when the test tells them to, so that no poll would see one end
        house = House(mint, dialect, Settings(**({"public_base_url": BASE} | pace | settings)), store, **(parts or {}))
        async with house.bulk.running(), house.http:
            yield house

    return make


@pytest.fixture
async def house(make_house: Any) -> AsyncIterator[House]:
    """A house that speaks STANDARD and holds a few people's data."""
    async with make_house() as house:
        await populate(house)
        yield house
