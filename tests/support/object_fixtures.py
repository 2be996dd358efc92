"""Fixtures: servers of object storage, one for all tests of a process, and stores on them, each below a prefix of its own."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import object_servers
import pytest
from object_servers import ObjectServer

from fhir_bulk_middleware.stores.objects import ObjectOutputStore


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with object_servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with object_servers.azure(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_servers.SECRET_KEY)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", object_servers.AZURE_KEY)


@pytest.fixture
def outputs_on() -> Callable[..., ObjectOutputStore]:
    """Makes a store below a prefix that is this test's own; `port` is that of a proxy in front of the server."""
    prefix = secrets.token_hex(6)

    def made(server: ObjectServer, *, port: int | None = None, config: dict[str, Any] | None = None, **options: Any) -> Any:
        endpoint = server.config["endpoint"]
        if port is not None:
            endpoint = endpoint.replace(server.address, f"127.0.0.1:{port}")
        client = {"allow_http": True, **options.pop("client_options", {})}
        named = {**server.config, "endpoint": endpoint, **(config or {})}
        return ObjectOutputStore(f"{server.url}/{prefix}", config=named, client_options=client, **{"patience": 5, **options})

    return made
