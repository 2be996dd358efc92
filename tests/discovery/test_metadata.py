"""The host's `GET metadata` on its way out: amended where it is a CapabilityStatement, else byte for byte as the host sent it."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from mounts import Bare, mount
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fhir_bulk_middleware import BulkData, BulkDataMiddleware

pytestmark = pytest.mark.anyio

STATEMENT = b'{"resourceType": "CapabilityStatement", "status": "active", "software": {"name": "\xc3\x84"}, "x": 1.10, "y": 1e3}'
FHIR = "application/fhir+json"
Answer = Callable[[Request], Response]


def installed(bulk: BulkData, answer: Answer, **more: Any) -> Any:
    app = Starlette(routes=[Route("/fhir/metadata", answer, methods=["GET", "POST"])], **more)
    bulk.install(app)
    return app


def wrapped(bulk: BulkData, answer: Answer, **more: Any) -> Any:
    return BulkDataMiddleware(Starlette(routes=[Route("/fhir/metadata", answer, methods=["GET", "POST"])], **more), bulk)


WAYS = pytest.mark.parametrize("attach", [installed, wrapped])
BULK = mount(resources=Bare())


async def ask(app: Any, method: str = "GET", **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        return await http.request(method, "/fhir/metadata", headers={"Accept-Encoding": "identity", **headers})


def answering(body: bytes = STATEMENT, status: int = 200, media_type: str = FHIR, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Response(body, status, named, media_type)


def is_amended(answer: httpx2.Response) -> bool:
    return b"OperationDefinition/bulk.export" in answer.content


@WAYS
@pytest.mark.parametrize("media_type", [FHIR, "application/json", "application/fhir+json; charset=utf-8"])
async def test_a_statement_is_amended_and_its_length_is_right(attach: Any, media_type: str) -> None:
    answer = await ask(attach(BULK, answering(media_type=media_type, ETag='"1"', Last_Modified="x", X_Own="kept")))

    assert answer.status_code == 200
    assert answer.json() == BULK.capability.amend(json.loads(STATEMENT))
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["X-Own"] == "kept"
    assert not {"etag", "last-modified"} & set(answer.headers.keys())


@WAYS
async def test_numbers_keep_their_digits(attach: Any) -> None:
    answer = await ask(attach(BULK, answering()))

    assert b'"x":1.10,' in answer.content
    assert b'"y":1e3,' in answer.content


@WAYS
async def test_a_head_request_promises_no_length_and_no_validator_that_a_get_would_not_have(attach: Any) -> None:
    answer = await ask(attach(BULK, answering(ETag='"1"', X_Own="kept")), "HEAD")

    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["X-Own"] == "kept"
    assert not {"etag", "content-length"} & set(answer.headers.keys())


UNTOUCHED = {
    "another resource": answering(b'{"resourceType": "TerminologyCapabilities"}'),
    "another status": answering(status=203),
    "an error": answering(status=500),
    "another format": answering(media_type="application/fhir+xml"),
    "another charset": answering(media_type="application/json; charset=utf-16"),
    "no JSON": answering(b"{nonsense"),
    "a list": answering(b"[]"),
    "not UTF-8": answering(b'{"resourceType": "CapabilityStatement", "x": "\xff"}'),
    "NaN": answering(b'{"resourceType": "CapabilityStatement", "x": NaN}'),
    "nested deep": answering(b'{"resourceType": "CapabilityStatement", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "odd shape": answering(b'{"resourceType": "CapabilityStatement", "rest": [1]}'),
    "half a pair": answering(b'{"resourceType": "CapabilityStatement", "x": "\\udc001", "y": 1.5}'),
    "brotli": answering(b"\x00\x01", Content_Encoding="br"),
    "no gzip": answering(STATEMENT, Content_Encoding="gzip"),
    "gzip cut short": answering(gzip.compress(STATEMENT)[:-9], Content_Encoding="gzip"),
    "a bomb": answering(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip"),
    "too large": answering(b'{"resourceType": "CapabilityStatement", "x": "' + b"x" * 9_000_000 + b'"}'),
    "empty": answering(b""),
}


@WAYS
@pytest.mark.parametrize("answering_", UNTOUCHED.values(), ids=UNTOUCHED)
async def test_everything_else_goes_through_byte_for_byte(attach: Any, answering_: Answer) -> None:
    host = Starlette(routes=[Route("/fhir/metadata", answering_)])
    sent: list[list[Any]] = [[], []]
    for app, messages in zip((host, attach(BULK, answering_)), sent, strict=True):
        scope = {"type": "http", "method": "GET", "path": "/fhir/metadata", "query_string": b"", "headers": [], "root_path": ""}

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any, messages: list[Any] = messages) -> None:
            messages.append(message)

        await app(scope, receive, send)
    assert sent[0][0] == sent[1][0]
    assert b"".join(message["body"] for message in sent[0][1:]) == b"".join(message["body"] for message in sent[1][1:])


@WAYS
async def test_other_methods_and_paths_are_the_hosts(attach: Any) -> None:
    app = attach(BULK, answering())

    assert (await ask(app, "POST")).content == STATEMENT
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        assert (await http.get("/metadata")).status_code == 404
        assert (await http.get("/fhir/metadata/", follow_redirects=False)).status_code == 307
        assert (await http.put("/fhir/metadata")).status_code == 405


@WAYS
async def test_a_gzipped_statement_is_amended_and_gzipped_again(attach: Any) -> None:
    answer = await ask(
        attach(BULK, answering(), middleware=[Middleware(GZipMiddleware, minimum_size=1)]), **{"Accept-Encoding": "gzip"}
    )

    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json() == BULK.capability.amend(json.loads(STATEMENT))


@WAYS
async def test_a_statement_that_comes_in_pieces_is_amended(attach: Any) -> None:
    def pieces(_: Request) -> Response:
        return StreamingResponse((STATEMENT[i : i + 7] for i in range(0, len(STATEMENT), 7)), media_type=FHIR)

    assert is_amended(await ask(attach(BULK, pieces)))


@WAYS
async def test_pieces_without_end_are_handed_on_as_they_come(attach: Any) -> None:
    def pieces(_: Request) -> Response:
        return StreamingResponse((b"x" * 1_000_000 for _ in range(12)), media_type=FHIR)

    assert (await ask(attach(BULK, pieces))).content == b"x" * 12_000_000


@pytest.mark.parametrize("switch", ["install", "middleware"])
async def test_the_switch_leaves_the_statement_alone(switch: str) -> None:
    app: Any = Starlette(routes=[Route("/fhir/metadata", answering(ETag='"1"'))])
    if switch == "install":
        BULK.install(app, amend_metadata=False)
    else:
        app = BulkDataMiddleware(app, BULK, amend_metadata=False)
    answer = await ask(app)

    assert answer.content == STATEMENT
    assert answer.headers["ETag"] == '"1"'


@WAYS
async def test_the_hosts_own_errors_are_still_the_hosts(attach: Any) -> None:
    def broken(_: Request) -> Response:
        raise LookupError("host")

    def mended(_: Request, error: Exception) -> Response:
        return Response(f"mended {error}")

    app = attach(BULK, broken, exception_handlers={LookupError: mended})

    assert (await ask(app)).text == "mended host"


@pytest.mark.parametrize("base", ["", "/"])
async def test_the_statement_of_a_host_at_the_root_of_its_server_is_amended(base: str) -> None:
    host = Starlette(routes=[Route("/metadata", answering())])
    app = BulkDataMiddleware(host, mount(resources=Bare()), base=base)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        assert is_amended(await http.get("/metadata", headers={"Accept-Encoding": "identity"}))
