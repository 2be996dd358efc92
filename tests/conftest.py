"""What all tests share."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio is the supported loop: aiofiles knows no other."""
    return "asyncio"
