"""Files over HTTP: representations, ranges, conditions (section 4, law 13)."""

import gzip
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio
import pytest
from house import BASE, House
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from fhir_bulk_middleware.contract.job import Part
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.files.delivery import Delivery
from fhir_bulk_middleware.files.part import FLUSH_INTERVAL
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore

pytestmark = pytest.mark.anyio

GZIP = {"Accept-Encoding": "gzip"}
PLAIN = {"Accept-Encoding": "identity"}


@dataclass
class File:
    """A file of some 2.5 MiB, in both of its forms as they come over the wire."""

    house: House
    location: str
    url: str
    plain: bytes
    packed: bytes
    item: dict[str, Any]

    async def get(self, headers: dict[str, str], method: str = "GET") -> Any:
        request = self.house.http.build_request(
            method, self.url.removeprefix(BASE), headers={"Authorization": f"Bearer {self.house.token()}", **PLAIN, **headers}
        )
        response = await self.house.http.send(request, stream=True)
        raw = b"".join([chunk async for chunk in response.aiter_raw()])
        await response.aclose()
        return response, raw


@pytest.fixture
async def file(make_house: Any) -> AsyncIterator[File]:
    async with make_house() as house:
        for number in range(700):
            digits = hashlib.sha512(str(number).encode()).hexdigest() * 29
            await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"text": digits}]}, f"p{number}")
        house.clock.advance(1)
        location = await house.kick_off()
        await house.runner.finish()
        (item,) = (await house.ask("GET", location)).json()["output"]
        made = File(house, location, item["url"], b"", b"", item)
        made.plain = (await made.get(PLAIN))[1]
        made.packed = (await made.get(GZIP))[1]
        assert len(made.plain) > 2 * FLUSH_INTERVAL
        yield made


async def test_who_accepts_gzip_gets_it_as_it_lies_and_who_does_not_gets_it_plain(file: File) -> None:
    """FR-07. FR-02."""
    for headers in (GZIP, {"Accept-Encoding": "br, gzip;q=0.5"}, {"Accept-Encoding": "*"}, {"Accept-Encoding": "x-gzip"}):
        response, raw = await file.get(headers)
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(raw) == file.plain
    for headers in (PLAIN, {"Accept-Encoding": ""}, {"Accept-Encoding": "gzip;q=0"}, {"Accept-Encoding": "br"}):
        response, raw = await file.get(headers)
        assert "Content-Encoding" not in response.headers
        assert raw == file.plain
    assert hashlib.sha256(file.plain).hexdigest() == file.item["extension"]["sha256"]


async def test_the_two_forms_have_their_own_strong_tags_and_say_what_they_vary_with(file: File) -> None:
    plain, _ = await file.get(PLAIN)
    packed, _ = await file.get(GZIP)

    assert plain.headers["ETag"] != packed.headers["ETag"]
    assert not plain.headers["ETag"].startswith("W/")
    for response, raw in ((plain, file.plain), (packed, file.packed)):
        assert response.headers["Vary"] == "Accept-Encoding"
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["Content-Length"] == str(len(raw))
        assert response.headers["Content-Disposition"] == 'attachment; filename="Patient.0-0.ndjson"'
    digest = b64encode(hashlib.sha256(file.plain).digest()).decode()
    assert plain.headers["Repr-Digest"] == f"sha-256=:{digest}:"


async def test_head_says_what_get_would_say(file: File) -> None:
    for headers in (PLAIN, GZIP, {"Range": "bytes=0-9"}):
        head, nothing = await file.get(headers, "HEAD")
        got, _ = await file.get({key: value for key, value in headers.items() if key != "Range"})

        assert nothing == b""
        assert head.status_code == 200
        same = {"content-length", "etag", "content-type", "last-modified"}
        assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}


@pytest.mark.parametrize("form", [PLAIN, GZIP])
@pytest.mark.parametrize(
    "header", ["bytes=0-0", "bytes=0-99", "bytes=100-", "bytes=-1", "bytes=-500", "bytes=1048570-1048590", "bytes=7-99999999"]
)
async def test_a_range_is_exactly_those_bytes(file: File, form: dict[str, str], header: str) -> None:
    whole = file.packed if form is GZIP else file.plain
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", header).groups()  # type: ignore[union-attr]
    start = int(first) if first else len(whole) - int(last)
    if start >= len(whole):
        return
    end = min(int(last) + 1, len(whole)) if first and last else len(whole)
    response, raw = await file.get({**form, "Range": header})

    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(whole)}"
    assert response.headers["Content-Length"] == str(end - start)
    assert raw == whole[start:end]


async def test_any_range_of_either_form_is_exactly_those_bytes(file: File) -> None:
    bounds = st.tuples(st.integers(0, len(file.plain)), st.integers(0, len(file.plain)))
    cases: list[tuple[int, int]] = []

    @given(bounds)
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None)
    def collect(pair: tuple[int, int]) -> None:
        cases.append(pair)

    collect()
    for one, other in cases:
        start, last = min(one, other), max(one, other)
        for form, whole in ((PLAIN, file.plain), (GZIP, file.packed)):
            if start < len(whole):
                _, raw = await file.get({**form, "Range": f"bytes={start}-{last}"})
                assert raw == whole[start : last + 1]


async def test_several_ranges_come_as_parts_of_one_body(file: File) -> None:
    response, raw = await file.get({"Range": "bytes=0-9, 2000000-2000009,-5"})
    boundary = response.headers["Content-Type"].partition("boundary=")[2].encode()
    pieces = raw.split(b"--" + boundary)[1:-1]
    bodies = [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces]

    assert response.status_code == 206
    assert response.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert len(raw) == int(response.headers["Content-Length"])
    assert bodies == [file.plain[:10], file.plain[2_000_000:2_000_010], file.plain[-5:]]
    assert b"Content-Encoding" not in raw


async def test_of_several_ranges_of_the_gzipped_form_each_says_so_and_their_body_does_not(file: File) -> None:
    """A client that decodes what an answer's Content-Encoding says would take the boundary for the head of a gzip file."""
    response, raw = await file.get({**GZIP, "Range": "bytes=0-9,-5"})
    boundary = response.headers["Content-Type"].partition("boundary=")[2].encode()
    heads, bodies = zip(*(piece.split(b"\r\n\r\n", 1) for piece in raw.split(b"--" + boundary)[1:-1]), strict=True)

    assert response.status_code == 206
    assert "Content-Encoding" not in response.headers
    assert len(raw) == int(response.headers["Content-Length"])
    assert [head.count(b"Content-Encoding: gzip") for head in heads] == [1, 1]
    assert [body.removesuffix(b"\r\n") for body in bodies] == [file.packed[:10], file.packed[-5:]]


@pytest.mark.parametrize(
    "header",
    [
        "bytes=5-3",
        "bytes=",
        "bytes",
        "bytes=a-b",
        "items=0-5",
        "bytes=0-5,x",
        "bytes=--5",
        "bytes=" + ",".join(["0-1"] * 17),
        "bytes=0-,0-",
    ],
)
async def test_a_range_that_is_malformed_or_greedy_is_ignored(file: File, header: str) -> None:
    response, raw = await file.get({"Range": header})

    assert response.status_code == 200
    assert raw == file.plain


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
async def test_a_range_behind_the_end_is_told_where_the_end_is(file: File, header: str) -> None:
    response, raw = await file.get({"Range": header})

    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{len(file.plain)}"
    assert b"OperationOutcome" in raw


async def test_a_range_goes_only_to_who_has_the_rest_of_the_same_form(file: File) -> None:
    """A download that began plain must not go on gzipped (FR-08)."""
    plain_tag = (await file.get(PLAIN))[0].headers["ETag"]
    date = (await file.get(PLAIN))[0].headers["Last-Modified"]
    for form, condition, status in [
        (PLAIN, plain_tag, 206),
        (GZIP, plain_tag, 200),
        (PLAIN, f"W/{plain_tag}", 200),
        (PLAIN, '"other"', 200),
        (PLAIN, date, 200),
    ]:
        response, _ = await file.get({**form, "Range": "bytes=10-19", "If-Range": condition})

        assert response.status_code == status, condition


async def test_who_has_it_already_is_told_so(file: File) -> None:
    """FR-09."""
    response, _ = await file.get(PLAIN)
    tag, date = response.headers["ETag"], response.headers["Last-Modified"]
    for headers, status in [
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f'"a", W/{tag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"a"', "If-Modified-Since": date}, 200),
        ({"If-Modified-Since": date}, 304),
        ({"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": "never"}, 200),
        ({"If-Match": '"a"'}, 412),
        ({"If-Match": tag}, 200),
        ({**GZIP, "If-None-Match": tag}, 200),
    ]:
        answer, _ = await file.get(headers)

        assert answer.status_code == status, headers


async def test_a_file_whose_bytes_are_gone_is_unknown_not_a_fault(file: File) -> None:
    job_id = file.location.rpartition("/")[2]
    await file.house.outputs.discard(job_id)

    assert (await file.get(PLAIN))[0].status_code == 404
    assert (await file.get(GZIP))[0].status_code == 404


async def test_a_download_that_began_before_the_cancel_completes(file: File) -> None:
    """DL-09. FR-13."""
    house = file.house
    (part,) = [part for part in await house.parts(file.location) if file.url.endswith(f"/{part.file_id}")]
    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", b"identity")], "path": "/", "query_string": b""}
    response = await Delivery(house.outputs).response(Request(scope), part)
    assert (await house.ask("DELETE", file.location)).status_code == 202
    await house.sweep()
    received: list[bytes] = []

    async def send(message: Any) -> None:
        received.append(message.get("body", b""))

    async def receive() -> Any:
        await anyio.sleep_forever()

    await response(scope, receive, send)

    assert b"".join(received) == file.plain


async def answered(outputs: OutputStore, part: Part, coding: str, sent: list[Any]) -> None:
    """Answer a request for a file into a list."""
    scope = {
        "type": "http",
        "method": "GET",
        "headers": [(b"accept-encoding", coding.encode())],
        "path": "/",
        "query_string": b"",
    }
    response = await Delivery(outputs).response(Request(scope), part)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await anyio.sleep_forever()

    await response(scope, receive, send)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_the_last_bytes_of_a_file_end_its_answer(file: File, coding: str) -> None:
    """A client that has all that it was promised asks for the next file at once, so nothing is left to send."""
    (part,) = await file.house.parts(file.location)
    sent: list[Any] = []
    await answered(file.house.outputs, part, coding, sent)
    start, *bodies = sent

    assert dict(start["headers"])[b"content-length"] == b"%d" % sum(len(message["body"]) for message in bodies)
    assert all(message["body"] for message in bodies)
    assert [message["more_body"] for message in bodies] == [True] * (len(bodies) - 1) + [False]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_an_answer_that_is_too_short_breaks_and_never_ends(file: File, coding: str) -> None:
    (part,) = await file.house.parts(file.location)
    sent: list[Any] = []
    with pytest.raises(OSError, match="early"):
        await answered(file.house.outputs, replace(part, size=part.size + 1, stored_size=part.stored_size + 1), coding, sent)
    assert all(message.get("more_body", True) for message in sent)


class Watched:
    """Knows whether a part is being read."""

    def __init__(self, outputs: MemoryOutputStore) -> None:
        self._outputs = outputs
        self.reading = False

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        self.reading = True
        try:
            async for chunk in self._outputs.read(key, start, length):
                yield chunk
        finally:
            self.reading = False


async def test_a_file_of_one_chunk_is_not_open_while_it_is_sent(file: File) -> None:
    """A slow client holds no file open that is in memory as a whole."""
    outputs = Watched(file.house.outputs)
    (part,) = await file.house.parts(file.location)
    scope = {"type": "http", "method": "GET", "headers": [(b"range", b"bytes=0-99")], "path": "/", "query_string": b""}
    response = await Delivery(cast("OutputStore", outputs)).response(Request(scope), part)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        assert not outputs.reading
        sent.append(message)

    await response(scope, lambda: pytest.fail("there is nothing to stop"), send)
    assert sent[-1] == {"type": "http.response.body", "body": file.plain[:100], "more_body": False}


@pytest.mark.parametrize("how", ["leaves", "breaks"])
async def test_a_client_that_leaves_ends_the_reading_of_its_file(file: File, how: str) -> None:
    """Also while the server waits for it to take more."""
    (part,) = [part for part in await file.house.parts(file.location) if file.url.endswith(f"/{part.file_id}")]
    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", b"identity")], "path": "/", "query_string": b""}
    outputs, full = Watched(file.house.outputs), anyio.Event()
    response = await Delivery(cast("OutputStore", outputs)).response(Request(scope), part)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            full.set()
            await anyio.sleep_forever()

    asked: dict[str, Any] = {"type": "http.request", "body": b"", "more_body": False}
    messages = iter([asked, {"type": "http.disconnect"}])

    async def receive() -> Any:
        message = next(messages)
        if message["type"] == "http.disconnect":
            await full.wait()
            if how == "breaks":
                raise OSError("the connection is lost")
        return message

    with anyio.fail_after(60):
        await response(scope, receive, send)
    assert len(sent) == 3
    assert not outputs.reading
