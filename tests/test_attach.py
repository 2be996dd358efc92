"""Three ways to attach, on four kinds of host; nothing of the host's is shadowed (ecosystem: exact behaviour)."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from house import BASE, KICK_OFF, House
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from fhir_bulk_middleware import BulkData, BulkDataMiddleware
from fhir_bulk_middleware.dialects import HEALTH_CONNECT_AU, STANDARD
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an application whose lifespan runs, as a server would run it."""
    to_app: Any
    to_app_send, to_app = anyio.create_memory_object_stream[dict[str, Any]](4)
    from_app_send, from_app = anyio.create_memory_object_stream[dict[str, Any]](4)
    async with anyio.create_task_group() as tasks, to_app_send, to_app, from_app_send, from_app:
        tasks.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, to_app.receive, from_app_send.send)
        await to_app_send.send({"type": "lifespan.startup"})
        answer = await from_app.receive()
        assert answer["type"] == "lifespan.startup.complete", answer
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as client:
            yield client
        await to_app_send.send({"type": "lifespan.shutdown"})
        assert (await from_app.receive())["type"] == "lifespan.shutdown.complete"


def starlette_host(log: list[str]) -> Starlette:
    async def metadata(_: Any) -> JSONResponse:
        return JSONResponse({"resourceType": "CapabilityStatement"})

    async def patient(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"host patient {request.path_params['id']}")

    async def lost(*_: Any) -> PlainTextResponse:
        return PlainTextResponse("host says 404", 404)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        log.append("host up")
        yield {"host": "state"}
        log.append("host down")

    return Starlette(
        routes=[
            Mount(
                "/fhir",
                routes=[
                    Route("/metadata", metadata),
                    Route("/Patient", patient, methods=["GET"]),
                    Route("/Patient/{id}", patient, methods=["GET", "DELETE"]),
                ],
            )
        ],
        exception_handlers={404: lost},
        lifespan=lifespan,
    )


def fastapi_host(log: list[str]) -> Any:
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        log.append("host up")
        yield
        log.append("host down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/fhir/metadata")
    async def metadata() -> dict[str, str]:
        return {"resourceType": "CapabilityStatement"}

    @app.get("/fhir/Patient/{id}")
    async def patient(id: str) -> PlainTextResponse:  # noqa: A002 - the host's own name
        return PlainTextResponse(f"host patient {id}")

    @app.exception_handler(404)
    async def lost(*_: Any) -> PlainTextResponse:
        return PlainTextResponse("host says 404", 404)

    return app


def litestar_host(log: list[str]) -> Any:
    from litestar import Litestar, MediaType, Request, get

    @get("/fhir/metadata")
    async def metadata() -> dict[str, str]:
        return {"resourceType": "CapabilityStatement"}

    @get("/fhir/Patient/{id:str}", media_type=MediaType.TEXT)
    async def patient(request: Request[Any, Any, Any]) -> str:
        return f"host patient {request.path_params['id']}"

    async def up() -> None:
        log.append("host up")

    async def down() -> None:
        log.append("host down")

    return Litestar([metadata, patient], on_startup=[up], on_shutdown=[down])


def wrapped(app: Any, bulk: BulkData) -> Any:
    return BulkDataMiddleware(app, bulk)


def added(app: Any, bulk: BulkData) -> Any:
    app.add_middleware(BulkDataMiddleware, bulk=bulk)
    return app


def installed(app: Any, bulk: BulkData) -> Any:
    bulk.install(app)
    return app


WAYS: list[tuple[Callable[[list[str]], Any], Callable[[Any, BulkData], Any]]] = [
    (starlette_host, wrapped),
    (starlette_host, added),
    (starlette_host, installed),
    (fastapi_host, wrapped),
    (fastapi_host, added),
    (fastapi_host, installed),
    (litestar_host, wrapped),
]


@pytest.fixture
def unstarted(mint: Any) -> House:
    """A house whose engine nobody has started."""
    return House(mint, STANDARD, Settings(public_base_url=BASE))


@pytest.mark.parametrize(("host", "attach"), WAYS, ids=lambda value: value.__name__)
async def test_ours_is_answered_by_us_and_the_rest_by_the_host(unstarted: House, host: Any, attach: Any) -> None:
    """Law 31."""
    house = unstarted
    log: list[str] = []
    app = attach(host(log), house.bulk)
    async with served(app) as client:
        headers = {**KICK_OFF, "Authorization": f"Bearer {house.token()}"}
        for path in ("/fhir/$export", "/fhir/Patient/$export"):
            for method in ("GET", "POST"):
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 202, (method, path)
                assert answer.headers["Content-Location"].startswith(f"{BASE}/$export-status/")
        assert (await client.put("/fhir/$export", headers=headers)).status_code == 405
        statement = (await client.get("/fhir/metadata")).json()
        assert statement == house.bulk.capability.amend({"resourceType": "CapabilityStatement"})
        assert (await client.get("/fhir/Patient/1")).text == "host patient 1"
        assert house.runner.work is not None, "the engine runs with the host's lifespan"
        if host is not litestar_host:
            assert (await client.get("/fhir/Nope")).text == "host says 404"
        if host is starlette_host:
            assert (await client.put("/fhir/Patient")).status_code == 405
            assert (await client.get("/fhir/metadata/")).status_code == 307
            assert (await client.put("/fhir/Patient/1")).status_code == 405
            assert (await client.delete("/fhir/Basics/1")).text == "host says 404"
    assert log == ["host up", "host down"]


@pytest.mark.parametrize(("host", "attach"), WAYS, ids=lambda value: value.__name__)
async def test_of_a_resource_only_its_delete_is_ours(unstarted: House, host: Any, attach: Any) -> None:
    """Law 14; all other methods, operations and histories stay with the host, its 405 included."""
    house = unstarted
    for id_ in ("1", "2"):
        await house.resources.create("Patient", {"resourceType": "Patient", "active": True}, id_)
    async with served(attach(host([]), house.bulk)) as client:
        headers = {"Authorization": f"Bearer {house.token(scope='system/*.cruds')}"}
        assert (await client.delete("/fhir/Patient/1")).status_code == 401
        deleted = await client.delete("/fhir/Patient/1", headers=headers)
        assert deleted.json()["id"] == "1"
        assert (await client.delete("/fhir/Patient/1", headers=headers)).status_code == 204
        assert (await client.delete("/fhir/Patient?active=true", headers=headers)).json()["id"] == "2"
        assert (await client.get("/fhir/Patient/1")).text == "host patient 1"
        for method in ("PUT", "POST", "PATCH"):
            assert "OperationOutcome" not in (await client.request(method, "/fhir/Patient/1", headers=headers)).text
        file_id = "bulk.0123456789abcdef0123456789abcdef.0-0"
        for path in ("Patient/1/_history/1", "Patient/$purge", "", f"Binary/{file_id}", "Unknown/1"):
            assert "resourceType" not in (await client.delete(f"/fhir/{path}?active=true", headers=headers)).text, path


async def test_a_host_keeps_its_own_deletes_where_ours_are_not_wanted(mint: Any) -> None:
    house = House(mint, STANDARD, Settings(public_base_url=BASE), deletes=None)
    async with served(wrapped(starlette_host([]), house.bulk)) as client:
        assert (await client.delete("/fhir/Patient/1")).text == "host patient 1"
        assert (await client.delete("/fhir/Patient?active=true")).status_code == 405


@pytest.mark.parametrize("attach", [wrapped, installed])
async def test_a_host_that_says_nothing_of_deletes_keeps_its_own_though_the_adapter_could(
    mint: Any, caplog: pytest.LogCaptureFixture, attach: Callable[[Any, BulkData], Any]
) -> None:
    """Law 42."""
    caplog.set_level(logging.DEBUG, "fhir_bulk_middleware")  # where another test's server says the same at INFO
    given = House(mint, STANDARD, Settings(public_base_url=BASE))
    bulk = BulkData(
        resources=given.resources, verifier=given.verifier, jobs=given.jobs, outputs=given.outputs, runner=given.runner
    )
    async with served(attach(starlette_host([]), bulk)) as client:
        assert (await client.delete("/fhir/Patient/1")).text == "host patient 1"

    said = "it can delete, and DELETE of resources stays the host's: deletes=AIDBOX makes it ours"
    assert [record for record in caplog.records if said in record.getMessage()]


@pytest.mark.parametrize(("host", "attach"), WAYS, ids=lambda value: value.__name__)
def test_a_host_that_has_deletes_and_wants_ours_is_told_which_of_its_routes_are_not_reached(
    unstarted: House, caplog: pytest.LogCaptureFixture, host: Callable[[list[str]], Any], attach: Callable[[Any, BulkData], Any]
) -> None:
    """Law 42, where the host has a table of routes that can be seen when we attach."""
    attach(host([]), unstarted.bulk)

    said = [record.getMessage() for record in caplog.records if "DELETE of resources" in record.getMessage()]
    seen = host is starlette_host and attach is not added
    ours = "deletes= makes DELETE of resources below /fhir ours; these routes of the host are no longer reached"
    assert said == seen * [f"{ours}: /fhir/Patient/{{id}}."]


def test_an_adapter_that_cannot_delete_is_refused_where_deletes_are_wanted(mint: Any) -> None:
    from fhir_bulk_middleware.delete.policy import AIDBOX

    class Bare:
        authorise, pages = MemoryResourceStore.authorise, MemoryResourceStore.pages

    with pytest.raises(TypeError, match=r"resources \(for deletes=\): Bare is no SupportsDelete; it lacks deletable, remove"):
        House(mint, STANDARD, Settings(), resources=Bare(), deletes=AIDBOX)


async def test_deletes_work_in_a_plain_mount(unstarted: House) -> None:
    await unstarted.resources.create("Patient", {"resourceType": "Patient"}, "1")
    host = Starlette(routes=[Mount("/bulk", app=unstarted.bulk.app)])
    async with unstarted.bulk.running(), httpx2.AsyncClient(transport=httpx2.ASGITransport(host), base_url="https://x") as client:
        headers = {"Authorization": f"Bearer {unstarted.token(scope='system/*.cruds')}"}
        assert (await client.delete("/bulk/Patient/1", headers=headers)).status_code == 200
        assert (await client.get("/bulk/Patient/1", headers=headers)).status_code == 404


async def test_a_host_without_a_lifespan_gets_ours(unstarted: House) -> None:
    import django
    from django.conf import settings as django_settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    if not django_settings.configured:
        urls = type("urls", (), {"urlpatterns": [path("fhir/metadata", lambda _: HttpResponse("host metadata"))]})
        django_settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="x", MIDDLEWARE=[])
        django.setup()
    app = BulkDataMiddleware(get_asgi_application(), unstarted.bulk)
    async with served(app) as client:
        headers = {**KICK_OFF, "Authorization": f"Bearer {unstarted.token()}"}

        assert (await client.get("/fhir/$export", headers=headers)).status_code == 202
        assert (await client.get("/fhir/metadata")).text == "host metadata"
        assert unstarted.runner.work is not None


async def test_a_host_that_fails_to_start_is_not_kept_alive(unstarted: House) -> None:
    up = False

    @asynccontextmanager
    async def broken(_: Any) -> AsyncIterator[None]:
        if not up:
            raise OSError("no database")
        yield

    app = BulkDataMiddleware(Starlette(lifespan=broken), unstarted.bulk)
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        messages.append(message)

    with pytest.raises(OSError, match="no database"):
        await app({"type": "lifespan", "asgi": {}}, receive, send)
    assert [message["type"] for message in messages] == ["lifespan.startup.failed"]
    assert unstarted.runner.work is None


async def test_a_mounted_app_starts_itself_and_names_the_line_that_is_missing(
    unstarted: House, caplog: pytest.LogCaptureFixture
) -> None:
    host = Starlette(routes=[Mount("/bulk", app=unstarted.bulk.app)])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(host), base_url="https://ehr.example") as client:
        answer = await client.get("/bulk/$export", headers={**KICK_OFF, "Authorization": f"Bearer {unstarted.token()}"})

        assert answer.status_code == 202
    assert unstarted.runner.work is not None
    assert "async with bulk.running()" in caplog.text
    await unstarted.bulk.engine.stop()


async def test_urls_come_back_to_us_behind_a_prefix_and_a_proxy(mint: Any) -> None:
    """KO-114."""
    house = House(mint, STANDARD, Settings())
    host = Starlette()
    house.bulk.install(host, "/fhir/r4")
    proxied = Starlette(routes=[Mount("/tenants/9", app=host)])
    async with house.bulk.running():
        transport = httpx2.ASGITransport(proxied)
        async with httpx2.AsyncClient(transport=transport, base_url="https://front.example:8443/tenants/9") as client:
            headers = {**KICK_OFF, "Authorization": f"Bearer {house.token()}"}
            accepted = await client.get("/fhir/r4/$export?_type=Patient", headers=headers)
            location = accepted.headers["Content-Location"]
            await house.runner.finish()
            manifest = await client.get(location, headers=headers)

            assert location.startswith("https://front.example:8443/tenants/9/fhir/r4/$export-status/")
            assert manifest.json()["request"] == "https://front.example:8443/tenants/9/fhir/r4/$export?_type=Patient"
            for host_header in ("evil.example/x", "a b", "", "x@y", "a\\b"):
                refused = await client.get("/fhir/r4/$export", headers={**headers, "Host": host_header})
                assert refused.status_code == 400


async def test_a_path_that_comes_again_by_another_prefix_is_answered_for_that_prefix(mint: Any) -> None:
    """KO-114: what was found for a path is remembered, but never for more than that path as it came."""
    house = House(mint, STANDARD, Settings())
    host = Starlette()
    house.bulk.install(host, "/fhir")
    headers = {**KICK_OFF, "Authorization": f"Bearer {house.token()}"}
    async with house.bulk.running():
        for prefix in ("", "/one", "/two", "", "/one"):
            transport = httpx2.ASGITransport(host, root_path=prefix)
            async with httpx2.AsyncClient(transport=transport, base_url=f"https://front.example{prefix}") as client:
                accepted = await client.get("/fhir/$export?_type=Patient", headers=headers)
                location = accepted.headers["Content-Location"]
                polls = [(await client.get(location, headers=headers)).status_code for _ in range(2)]
                gone = [(await client.delete(location, headers=headers)).status_code for _ in range(2)]

                assert location.startswith(f"https://front.example{prefix}/fhir/$export-status/")
                assert (polls, gone) == ([202, 202], [202, 404])


@pytest.mark.parametrize("prefix", ["/north", "/north/"])
async def test_a_host_that_is_told_of_a_stripped_prefix_by_its_application_gets_urls_with_it(mint: Any, prefix: str) -> None:
    """KO-114: `FastAPI(root_path=)` says what a proxy has taken from the path."""
    from fastapi import FastAPI

    house = House(mint, STANDARD, Settings())
    await house.resources.create("Patient", {"resourceType": "Patient"}, "1")
    host = FastAPI(root_path=prefix)

    @host.get("/fhir/Patient/{id}")
    async def patient(id: str) -> PlainTextResponse:  # noqa: A002 - the host's own name
        return PlainTextResponse(f"host patient {id}")

    house.bulk.install(host, "/fhir")
    async with (
        house.bulk.running(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(host), base_url="https://front.example") as client,
    ):
        headers = {**KICK_OFF, "Authorization": f"Bearer {house.token(scope='system/*.cruds')}"}
        for _ in range(2):
            accepted = await client.get("/fhir/$export?_type=Patient", headers=headers)
            assert accepted.headers["Content-Location"].startswith("https://front.example/north/fhir/$export-status/")
        await house.runner.finish()
        path = accepted.headers["Content-Location"].replace("/north", "", 1)
        for _ in range(2):
            manifest = (await client.get(path, headers=headers)).json()
            assert manifest["request"] == "https://front.example/north/fhir/$export?_type=Patient"
        assert (await client.get("/fhir/Patient/1")).text == "host patient 1"
        assert "DELETE" in (await client.put("/fhir/Patient/1")).headers["Allow"]
        assert (await client.delete("/fhir/Patient/1", headers=headers)).json()["id"] == "1"


@pytest.mark.parametrize("attached", ["installed", "around"])
async def test_a_layer_that_was_added_to_ours_sees_each_request_of_ours_and_no_other(unstarted: House, attached: str) -> None:
    class Marks:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def marked(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-layer", b"ours")]
                await send(message)

            await self.app(scope, receive, marked)

    unstarted.bulk.app.add_middleware(Marks)
    host = starlette_host([])
    app: Any = BulkDataMiddleware(host, unstarted.bulk)
    if attached == "installed":
        unstarted.bulk.install(host)
        app = host
    headers = {**KICK_OFF, "Authorization": f"Bearer {unstarted.token()}"}
    async with served(app) as client:
        accepted = await client.get("/fhir/$export?_type=Patient", headers=headers)
        polls = [await client.get(accepted.headers["Content-Location"], headers=headers) for _ in range(2)]
        theirs = await client.get("/fhir/Patient/1", headers=headers)

    assert [answer.status_code for answer in (accepted, *polls)] == [202] * 3
    assert [answer.headers.get("x-layer") for answer in (accepted, *polls, theirs)] == ["ours"] * 3 + [None]


class _Verifier:
    async def verify(self, token: str) -> Any:
        """Never asked."""


def test_half_a_configuration_is_refused_with_the_missing_name(unstarted: House) -> None:
    good = {"resources": unstarted.resources, "verifier": _Verifier(), "jobs": unstarted.jobs, "outputs": unstarted.outputs}
    for name, lacks in [("resources", "authorise"), ("verifier", "verify"), ("jobs", "add"), ("outputs", "create")]:
        with pytest.raises(TypeError, match=f"{name}: .*lacks.*{lacks}"):
            BulkData(**{**good, name: object()})  # type: ignore[arg-type]


async def test_a_poll_whose_job_stands_in_the_query_string_leaves_nothing_to_the_next(make_house: Any) -> None:
    """AS-07: what is remembered of a path is the same for all who ask for it."""
    async with make_house(HEALTH_CONNECT_AU) as house:
        app = Starlette()
        house.bulk.install(app, "/fhir")
        job_id = (await house.kick_off()).rpartition("=")[2]
        house.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example/fhir")
        path = "/$export-poll-status"
        answers = [(await house.ask("GET", f"{path}{query}")).status_code for query in ("", f"?_jobId={job_id}", "", "?_jobId=")]

    assert answers == [400, 202, 400, 400]
