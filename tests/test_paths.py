"""Which paths are ours, whatever stands in them, and what is said of the methods on those that we share (laws 7, 14 and 42)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from house import BASE, KICK_OFF, House, populate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from fhir_bulk_middleware import BulkData, BulkDataMiddleware
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects import DIALECTS, Dialect
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

pytestmark = pytest.mark.anyio

IN_PATHS = {
    name: dialect for name, dialect in DIALECTS.items() if dialect.status_path.startswith("/$") and "?" not in dialect.status_path
}
NEVER = "01234567-89ab-cdef-0123-456789abcdef"
ODD = [
    "a%0Ab",
    "%0A",
    "%0Ab",
    f"{NEVER}%0A",
    "a%0D%0Ab",
    "%00",
    "%2E%2E",
    "%2E%2E%2E",
    "a%2Fb",
    "a/b/c",
    "a/",
    "%E2%80%A8",
    "%C2%85",
    "x" * 1500,
]


def host(seen: list[str]) -> Starlette:
    """A host that takes every path and every method, and says that it did."""

    async def anything(request: Request) -> PlainTextResponse:
        seen.append(f"{request.method} {request.url.path}")
        return PlainTextResponse("host")

    return Starlette(
        routes=[Route("/{rest:path}", anything, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])],
        exception_handlers={404: anything_else(seen)},
    )


def anything_else(seen: list[str]) -> Any:
    """What the router itself lets through, such as a path with a line break, has come to the host too."""

    async def handle(request: Request, _: Exception) -> PlainTextResponse:
        seen.append(f"{request.method} {request.url.path}")
        return PlainTextResponse("host")

    return handle


def wrapped(app: Starlette, bulk: BulkData) -> Any:
    return BulkDataMiddleware(app, bulk)


def installed(app: Starlette, bulk: BulkData) -> Any:
    bulk.install(app)
    return app


WAYS: list[Callable[[Starlette, BulkData], Any]] = [wrapped, installed]


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as client:
        yield client


@pytest.mark.parametrize("attach", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("dialect", IN_PATHS.values(), ids=IN_PATHS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
async def test_whatever_stands_where_an_id_belongs_is_as_one_that_never_was(
    make_house: Any, dialect: Dialect, method: str, attach: Any
) -> None:
    """Laws 7 and 14: none of it reaches the host, and none of it tells more than an id of ours does."""
    async with make_house(dialect) as house:
        seen: list[str] = []
        headers = {"Authorization": f"Bearer {house.token()}", **KICK_OFF}
        async with client_of(attach(host(seen), house.bulk)) as client:
            prefix = dialect.status_path.removesuffix("{job}")
            never = await client.request(method, f"/fhir{prefix}{NEVER}", headers=headers)
            for odd in ODD:
                answer = await client.request(method, f"/fhir{prefix}{odd}", headers=headers)
                assert (answer.status_code, answer.content) == (never.status_code, never.content), odd
                assert (await client.request(method, f"/fhir{prefix}{odd}")).status_code == 401
            if method != "DELETE":
                files = dialect.file_path.removesuffix("{file}")
                if "$" in files:
                    unknown = await client.request(method, f"/fhir{files}bulk.{'0' * 32}.0-0", headers=headers)
                    for odd in ODD:
                        answer = await client.request(method, f"/fhir{files}{odd}", headers=headers)
                        assert (answer.status_code, answer.content) == (unknown.status_code, unknown.content), odd
        assert seen == []


@pytest.mark.parametrize("attach", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("dialect", [each for each in DIALECTS.values() if "$" in each.status_path], ids=lambda each: each.name)
async def test_a_poll_path_without_a_job_id_is_ours_too(make_house: Any, dialect: Dialect, method: str, attach: Any) -> None:
    """Law 14: it is never a conditional delete."""
    async with make_house(dialect) as house:
        seen: list[str] = []
        headers = {"Authorization": f"Bearer {house.token(scope='system/*.cruds')}", **KICK_OFF}
        async with client_of(attach(host(seen), house.bulk)) as client:
            path = f"/fhir{dialect.status_path.partition('?')[0].removesuffix('/{job}')}"
            below = [f"{path}/x", f"{path}/%0A", f"{path}/a/b", f"{path}/x?_jobId={NEVER}"]
            bare = [] if method == "GET" and path == f"/fhir{dialect.jobs_path}" else [path]  # which lists the caller's jobs
            for each in (*bare, f"{path}/", *([] if dialect.name in IN_PATHS else below)):
                answer = await client.request(method, each, headers=headers)
                assert answer.status_code == 400
                assert answer.json()["issue"][0]["code"] == "required"
        assert seen == []


@pytest.mark.parametrize("path", ["$export%0A", "Patient/$export%0A", "Group/both/$export%0A", "$export%0A/x"])
async def test_a_path_that_only_looks_like_a_kick_off_begins_nothing(house: House, path: str) -> None:
    answer = await house.ask("GET", f"/{path}", headers=KICK_OFF)
    assert answer.status_code == 404
    assert not await house.runner.step()


@pytest.mark.parametrize(
    "name", ["$export-statusx", "$export-status-of-mine/1", "$export-cda", "Patient/$export-mine", "metadata%0A"]
)
async def test_operations_of_the_host_with_similar_names_stay_the_hosts(house: House, name: str) -> None:
    seen: list[str] = []
    async with client_of(installed(host(seen), house.bulk)) as client:
        assert (await client.get(f"/fhir/{name}")).text == "host"
    assert len(seen) == 1


# --- Ids of dots (law 42) ------------------------------------------------------------------------------------------------


class Watched(MemoryResourceStore):
    """A store that may not be asked for ids of dots."""

    async def members(self, group_id: str, principal: Any) -> frozenset[str] | None:
        assert group_id.strip(".")
        return await super().members(group_id, principal)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Any:
        assert id_.strip(".")
        return await super().remove(type_, id_, if_version, rights)

    async def patients(self, references: frozenset[str], principal: Any) -> frozenset[str]:
        assert all(reference.partition("/")[2].strip(".") for reference in references)
        return await super().patients(references, principal)


@pytest.mark.parametrize("dots", [".", "..", "...", "." * 64])
async def test_no_id_that_consists_of_dots_reaches_an_adapter(make_house: Any, dots: str) -> None:
    """Law 42."""
    async with make_house(store=Watched) as house:
        await populate(house)
        encoded = dots.replace(".", "%2E")
        assert (await house.ask("GET", f"/Group/{encoded}/$export", headers=KICK_OFF)).status_code == 404
        assert (await house.ask("DELETE", f"/Patient/{encoded}", scope="system/*.cruds")).status_code == 404
        body = {
            "resourceType": "Parameters",
            "parameter": [{"name": "patient", "valueReference": {"reference": f"Patient/{dots}"}}],
        }
        assert (await house.ask("POST", "/Patient/$export", headers=KICK_OFF, json=body)).status_code == 400
        assert (await house.ask("DELETE", f"/Patient?_id={encoded}", scope="system/*.cruds")).status_code == 400


# --- What is not HTTP -----------------------------------------------------------------------------------------------------


async def test_a_websocket_is_closed_by_the_mount_and_otherwise_the_hosts(house: House) -> None:
    sent: list[Any] = []

    async def connect() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(3000)

    for path in ("/$export", "/Patient/p1", "/Patient", "/nothing"):
        await house.bulk.app({"type": "websocket", "path": path, "query_string": b"", "headers": []}, connect, send)
        assert [message["type"] for message in sent] == ["websocket.close"]
        sent.clear()
    app = installed(Starlette(routes=[WebSocketRoute("/fhir/Patient/p1", greet)]), house.bulk)
    for around in (app, BulkDataMiddleware(app, house.bulk)):
        await around({"type": "websocket", "path": "/fhir/Patient/p1", "query_string": b"", "headers": []}, connect, send)
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
        sent.clear()


# --- Methods on shared paths ----------------------------------------------------------------------------------------------


def reading_host() -> Starlette:
    """A host that reads, creates and updates, and cannot delete."""

    async def answer(request: Request) -> PlainTextResponse:
        headers = {"Allow": "GET, OPTIONS"} if request.method == "OPTIONS" else {}
        return PlainTextResponse("host", headers=headers)

    return Starlette(
        routes=[
            Route("/fhir/{type}", answer, methods=["GET", "POST", "OPTIONS"]),
            Route("/fhir/{type}/{id}", answer, methods=["GET", "PUT"]),
            Route("/fhir/{type}/{id}/_history", answer, methods=["GET"]),
        ]
    )


def allowed(response: httpx2.Response) -> set[str]:
    return {method.strip() for method in response.headers["Allow"].split(",")}


@pytest.mark.parametrize("attach", WAYS, ids=lambda way: way.__name__)
async def test_a_hosts_405_and_its_options_name_our_delete(house: House, attach: Any) -> None:
    """RFC 9110, sections 10.2.1 and 15.5.6: `Allow` lists what the path takes, whoever takes it."""
    async with client_of(attach(reading_host(), house.bulk)) as client:
        for method in ("PATCH", "POST", "OPTIONS"):
            answer = await client.request(method, "/fhir/Patient/p1")
            assert answer.status_code == 405
            assert allowed(answer) == {"GET", "HEAD", "PUT", "DELETE"}
        assert allowed(await client.options("/fhir/Patient")) == {"GET", "OPTIONS", "DELETE"}
        assert (await client.put("/fhir/Patient/p1")).text == "host"
        assert "allow" not in (await client.put("/fhir/Patient/p1")).headers
        for path in ("/fhir/Nonsense/p1", "/fhir/Patient/p1/_history", "/fhir/Patient/a%20b"):
            assert "DELETE" not in (await client.patch(path)).headers.get("Allow", "")


@pytest.mark.parametrize("attach", WAYS, ids=lambda way: way.__name__)
async def test_a_host_that_keeps_its_deletes_says_what_it_always_said(mint: Any, attach: Any) -> None:
    house = House(mint, DIALECTS["standard"], Settings(public_base_url=BASE), deletes=None)
    async with client_of(attach(reading_host(), house.bulk)) as client:
        assert allowed(await client.patch("/fhir/Patient/p1")) == {"GET", "HEAD", "PUT"}


# --- Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/klinik-ö", "/клиника/fhir", "/a b", "/☃", '/"x"'])
@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
async def test_a_mount_at_any_path_hands_out_urls_that_come_back_to_it(mint: Any, root: str, level: Level) -> None:
    """KO-110: a path that is not ASCII once broke the answer after the job was made."""
    house = House(mint, DIALECTS["standard"], Settings())
    await populate(house)
    host = Starlette(routes=[Mount(root, house.bulk.app)])
    async with house.bulk.running(), client_of(host) as client:
        headers = {"Authorization": f"Bearer {house.token()}", **KICK_OFF}
        path = "/$export" if level is Level.SYSTEM else "/Patient/$export"
        accepted = await client.get(f"{root}{path}?_type=Patient", headers=headers)
        assert accepted.status_code == 202
        location = accepted.headers["Content-Location"]
        assert location.isascii()
        assert " " not in location
        await house.runner.finish()
        poll = await client.get(location, headers=headers)
        assert poll.status_code == 200
        assert poll.json()["request"] == location.partition("/$export-status")[0] + f"{path}?_type=Patient"
        (file,) = poll.json()["output"]
        assert (await client.get(file["url"], headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "url", ["https://ehr.example/klinik-ö", "https://ehr.example/a b", "https://ehr.example/a\nb", "https://klinik-ö.example"]
)
def test_a_public_url_must_be_one_that_fits_a_header(url: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Settings(public_base_url=url)
