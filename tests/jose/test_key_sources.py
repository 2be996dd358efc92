"""Where the keys come from: files that change, and a real server that is asked as rarely as can be."""

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from waiting import PATIENCE

from fhir_bulk_middleware.contract.access import Owner, Principal, TokenRejected
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jose import FileKeys, FixedKeys, JoseTokenVerifier, KeySet, UrlKeys
from fhir_bulk_middleware.jose.missing import MissingKids
from fhir_bulk_middleware.jose.verified import VerifiedTokens, digest
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.testing import TokenMint

ISSUER = "https://as.example"
AUDIENCE = "https://ehr.example/fhir"

pytestmark = pytest.mark.anyio

OLD = TokenMint(ISSUER, AUDIENCE, "ES256", kid="old")
NEW = TokenMint(ISSUER, AUDIENCE, "ES256", kid="new")


class Times:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = Instant(1_800_000_000_000_000)

    def __call__(self) -> Instant:
        return self.now

    def go(self, seconds: float) -> None:
        self.now = after(self.now, seconds)


class Issuer:
    """A server on loopback that publishes a key set and counts who asks."""

    def __init__(self) -> None:
        self.fetches = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                issuer.asked.set()
                issuer.may_answer.wait(PATIENCE)
                self.send_response(issuer.status if self.path == "/jwks" else 200)
                for name, value in issuer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(issuer.body)
                except ConnectionError:  # the client had seen enough
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"

    def publish(self, *mints: TokenMint) -> None:
        self.body = json.dumps({"keys": [key for mint in mints for key in mint.jwks["keys"]]}).encode()


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.publish(OLD)
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield issuer
    issuer.may_answer.set()
    issuer.server.shutdown()
    thread.join()
    issuer.server.server_close()


def verifier(jwks: Any, times: Times) -> JoseTokenVerifier:
    return JoseTokenVerifier(jwks=jwks, issuer=ISSUER, audience=AUDIENCE, clock=times)


def token(mint: TokenMint, times: Times, subject: str = "me") -> str:
    return mint.token(subject, "system/*.rs", now=times.now)


def with_kid(kid: str, times: Times) -> str:
    return TokenMint(ISSUER, AUDIENCE, "ES256", kid=kid).token("me", "", now=times.now)


async def busy(one: JoseTokenVerifier, token_: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await one.verify(token_)
    assert caught.value.reason is Reason.BUSY
    assert caught.value.retry_after is not None
    return caught.value


# --- From a URL ------------------------------------------------------------------------------------------------------


async def test_a_key_set_is_fetched_once_for_many_tokens(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    for number in range(10):
        await one.verify(token(OLD, times, f"subject-{number}"))
    assert issuer.fetches == 1


async def test_garbage_does_not_make_it_fetched(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    for text in ("", "a.b.c", "x" * 20_000, OLD.sign({}, {"alg": "HS256"}), OLD.sign({}, {"crit": []})):
        with pytest.raises(TokenRejected):
            await one.verify(text)
    assert issuer.fetches == 0


async def test_a_new_key_counts_as_soon_as_it_is_used(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.publish(OLD, NEW)
    await one.verify(token(NEW, times))
    await one.verify(token(OLD, times))
    assert issuer.fetches == 2


async def test_a_key_that_was_withdrawn_is_forgotten_after_the_lifetime_and_with_it_the_tokens_it_made(
    issuer: Issuer, times: Times
) -> None:
    one = verifier(issuer.url, times)
    times.go(290)
    await one.verify(token(OLD, times))  # the first fetch
    issuer.publish(NEW)
    times.go(290)
    old = token(OLD, times)
    await one.verify(old)
    times.go(11)
    with pytest.raises(TokenRejected):
        await one.verify(old)


async def test_a_flood_of_made_up_kids_costs_one_fetch_per_interval(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    for number in range(200):
        with pytest.raises(TokenRejected):
            await one.verify(OLD.sign({}, {"kid": f"made-up-{number}"}))
    assert issuer.fetches == 2
    times.go(5)
    with pytest.raises(TokenRejected):
        await one.verify(OLD.sign({}, {"kid": "made-up-again"}))
    assert issuer.fetches == 3


async def test_a_kid_that_was_looked_for_in_vain_is_not_looked_for_again_within_a_minute(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    fetches = []
    for _ in range(4):
        with pytest.raises(TokenRejected):
            await one.verify(with_kid("gone", times))
        fetches.append(issuer.fetches)
        times.go(25)
    assert fetches == [2, 2, 2, 3]


async def test_a_search_that_failed_does_not_count_as_one_in_vain(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.status = 500
    with pytest.raises(TokenRejected):
        await one.verify(token(NEW, times))
    issuer.status = 200
    issuer.publish(OLD, NEW)
    times.go(5)
    await one.verify(token(NEW, times))


async def test_a_flood_does_not_hide_a_new_key_for_longer_than_the_interval(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    with pytest.raises(TokenRejected):
        await one.verify(with_kid("made-up", times))
    issuer.publish(OLD, NEW)
    with pytest.raises(TokenRejected):
        await one.verify(token(NEW, times))
    times.go(5)
    await one.verify(token(NEW, times))


def test_made_up_kids_do_not_fill_the_memory(times: Times) -> None:
    missing = MissingKids(lifetime=60, size=3)
    for number in range(100):
        missing.add(f"made-up-{number}", times.now)
    assert len(missing) == 3
    assert missing.has("made-up-99", times.now)
    assert not missing.has("made-up-0", times.now)


def test_verified_tokens_do_not_fill_the_memory(times: Times) -> None:
    keys = KeySet((), frozenset())
    verified = VerifiedTokens(size=3)
    principal = Principal(owner=Owner(ISSUER, "me"), scopes=(), expires_at=after(times.now, 300))
    for number in range(100):
        verified.add(digest(str(number)), principal, keys, times.now)
    assert sum(digest(str(number)) in verified for number in range(100)) == 3
    assert verified.find(digest("99"), keys, times.now) is principal


async def test_all_who_come_at_once_share_one_fetch(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    issuer.may_answer.clear()
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one.verify, token(OLD, times, f"subject-{number}"))
        await anyio.to_thread.run_sync(issuer.asked.wait)
        issuer.may_answer.set()
    assert issuer.fetches == 1


async def test_all_who_bring_a_new_kid_at_once_share_one_fetch(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.publish(NEW)
    issuer.asked.clear()
    issuer.may_answer.clear()
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one.verify, token(NEW, times, f"subject-{number}"))
        await anyio.to_thread.run_sync(issuer.asked.wait)
        issuer.may_answer.set()
    assert issuer.fetches == 2


async def test_all_who_come_at_once_share_a_failure(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    issuer.status = 500
    issuer.may_answer.clear()
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(busy, one, token(OLD, times))
        await anyio.to_thread.run_sync(issuer.asked.wait)
        issuer.may_answer.set()
    assert issuer.fetches == 1


async def test_a_client_that_goes_away_does_not_take_the_fetch_along(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    issuer.may_answer.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(one.verify, token(OLD, times))
        await anyio.to_thread.run_sync(issuer.asked.wait)
        group.cancel_scope.cancel()
        issuer.may_answer.set()
    await one.verify(token(OLD, times))
    assert issuer.fetches == 1


async def test_while_an_old_set_is_fetched_anew_others_go_on_with_it(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.publish(OLD, NEW)
    times.go(301)
    issuer.asked.clear()
    issuer.may_answer.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(one.verify, token(OLD, times))
        await anyio.to_thread.run_sync(issuer.asked.wait)
        await one.verify(token(OLD, times, "somebody else"))
        issuer.may_answer.set()
    await one.verify(token(NEW, times))
    assert issuer.fetches == 2


async def test_without_a_key_set_it_is_our_fault_and_is_tried_again_after_the_interval(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    issuer.status = 503
    for _ in range(5):
        assert (await busy(one, token(OLD, times))).retry_after == 5
    assert issuer.fetches == 1
    issuer.status = 200
    times.go(5)
    await one.verify(token(OLD, times))


async def test_the_last_good_set_counts_on_while_none_can_be_had_but_not_for_ever(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.status = 500
    for _ in range(3):
        times.go(400)
        await one.verify(token(OLD, times))
    with pytest.raises(TokenRejected):
        await one.verify(token(NEW, times))
    assert issuer.fetches == 4
    times.go(86_400)
    await busy(one, token(OLD, times))


async def test_an_issuer_that_cannot_be_reached_is_our_fault(times: Times) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        await busy(verifier(f"http://127.0.0.1:{bound.getsockname()[1]}/jwks", times), token(OLD, times))


async def test_an_issuer_that_never_answers_is_given_up(issuer: Issuer, times: Times) -> None:
    issuer.may_answer.clear()
    await busy(verifier(UrlKeys(issuer.url, timeout=0.05, clock=times), times), token(OLD, times))


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b"<html>please log in</html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b'{"keys": [], "keys": []}'),
        (200, {}, b'{"keys": [], "x": "' + b"x" * 300_000 + b'"}'),
        (200, {"Content-Encoding": "gzip"}, b'{"keys": []}'),
        (200, {"Content-Length": "1000"}, b'{"keys": []}'),
        (302, {"Location": "/elsewhere"}, b'{"keys": []}'),
        (204, {}, b""),
        (404, {}, b'{"keys": []}'),
    ],
    ids=[
        "HTML",
        "list",
        "no list of keys",
        "keys twice",
        "too large",
        "compressed",
        "cut short",
        "redirect",
        "empty",
        "not found",
    ],
)
async def test_an_answer_that_is_no_key_set_leaves_the_last_good_one_in_force(
    issuer: Issuer, times: Times, status: int, headers: dict[str, str], body: bytes
) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    issuer.status, issuer.headers, issuer.body = status, headers, body
    times.go(301)
    await one.verify(token(OLD, times))
    assert issuer.fetches == 2


async def test_a_set_that_was_fetched_anew_but_did_not_change_keeps_verified_tokens(issuer: Issuer, times: Times) -> None:
    source = UrlKeys(issuer.url, clock=times)
    keys = await source.keys()
    times.go(301)
    assert await source.keys() is keys
    assert issuer.fetches == 2


async def test_a_clock_that_was_set_back_makes_the_set_fetched_anew(issuer: Issuer, times: Times) -> None:
    one = verifier(issuer.url, times)
    await one.verify(token(OLD, times))
    times.go(-3600)
    await one.verify(token(OLD, times))
    assert issuer.fetches == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://as.example/jwks",
        "http://10.0.0.1/jwks",
        "http://localhost.evil.example/jwks",
        "http://127.0.0.1.evil.example/jwks",
        "ftp://as.example/jwks",
        "file:///etc/jwks.json",
        "https:///jwks",
        "https://user:password@as.example/jwks",
        "https://as.example/jwks#keys",
    ],
)
def test_a_url_that_keys_cannot_be_trusted_from_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="key set's URL"):
        JoseTokenVerifier(jwks=url, issuer=ISSUER, audience=AUDIENCE)


@pytest.mark.parametrize(
    "url", ["https://as.example/jwks", "HTTPS://as.example/jwks?tenant=1", "http://[::1]:8/jwks", "http://localhost/jwks"]
)
def test_https_is_allowed_and_http_on_loopback(url: str) -> None:
    UrlKeys(url)


def test_http_elsewhere_takes_an_explicit_word() -> None:
    UrlKeys("http://as.internal/jwks", allow_http=True)


def test_a_missing_httpx2_is_reported_at_once_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ImportError, match=r"fhir-bulk-middleware\[smart\]"):
        UrlKeys("https://as.example/jwks")


# --- From a file -----------------------------------------------------------------------------------------------------


def write(path: Path, *mints: TokenMint) -> None:
    path.write_text(json.dumps({"keys": [key for mint in mints for key in mint.jwks["keys"]]}))


@pytest.mark.parametrize("form", [str, Path])
async def test_a_file_is_read_anew_when_it_has_changed(tmp_path: Path, times: Times, form: type[str | Path]) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    one = verifier(form(path), times)
    old = token(OLD, times)
    await one.verify(old)
    write(path, NEW)
    await one.verify(token(NEW, times))  # an unknown kid is a reason to look at once
    with pytest.raises(TokenRejected):
        await one.verify(old)


async def test_a_withdrawn_key_in_a_file_is_noticed_within_the_interval(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD, NEW)
    one = verifier(path, times)
    old = token(OLD, times)
    await one.verify(old)
    write(path, NEW)
    times.go(1)
    with pytest.raises(TokenRejected):
        await one.verify(old)


LONG_AGO = 1_000_000_000


async def test_a_file_that_is_put_in_place_with_the_same_size_and_time_is_noticed(tmp_path: Path, times: Times) -> None:
    path, other = tmp_path / "jwks.json", tmp_path / "other"
    write(path, OLD)
    write(other, NEW)
    assert other.stat().st_size == path.stat().st_size
    os.utime(path, (LONG_AGO, LONG_AGO))
    os.utime(other, (LONG_AGO, LONG_AGO))
    one = verifier(path, times)
    await one.verify(token(OLD, times))
    other.replace(path)
    await one.verify(token(NEW, times))


async def test_a_file_that_has_not_changed_is_not_read_again(
    tmp_path: Path, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    os.utime(path, (LONG_AGO, LONG_AGO))
    one = verifier(path, times)
    await one.verify(token(OLD, times))
    path.write_bytes(b"!" * path.stat().st_size)
    os.utime(path, (LONG_AGO, LONG_AGO))
    times.go(2)
    await one.verify(token(OLD, times))
    assert not caplog.records


async def test_a_file_that_is_written_twice_within_a_tick_of_its_clock_is_noticed(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    status = path.stat()
    one = verifier(path, times)
    await one.verify(token(OLD, times))
    write(path, NEW)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    await one.verify(token(NEW, times))


async def test_a_file_that_was_written_anew_but_says_the_same_keeps_verified_tokens(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    source = FileKeys(path, clock=times)
    keys = await source.keys()
    write(path, OLD)
    times.go(1)
    assert await source.keys() is keys


@pytest.mark.parametrize("harm", [lambda path: path.write_text("{"), lambda path: path.write_bytes(b" " * 300_000), Path.unlink])
async def test_a_file_that_is_broken_or_gone_leaves_the_last_good_set_in_force(
    tmp_path: Path, times: Times, harm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    one = verifier(path, times)
    await one.verify(token(OLD, times))
    harm(path)
    for _ in range(3):
        times.go(2)
        await one.verify(token(OLD, times))
    assert len(caplog.records) == 1
    write(path, NEW)
    times.go(2)
    await one.verify(token(NEW, times))


async def test_a_file_that_was_never_there_is_our_fault(tmp_path: Path, times: Times) -> None:
    one = verifier(tmp_path / "jwks.json", times)
    await busy(one, token(OLD, times))
    write(tmp_path / "jwks.json", OLD)
    await one.verify(token(OLD, times))


async def test_an_empty_set_in_a_file_revokes_all_keys(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "jwks.json"
    write(path, OLD)
    source = FileKeys(path, clock=times)
    one = verifier(source, times)
    old = token(OLD, times)
    await one.verify(old)
    write(path)
    times.go(1)
    with pytest.raises(TokenRejected):
        await one.verify(old)


# --- A mint's own key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
async def test_a_mint_that_was_saved_and_loaded_makes_tokens_for_the_same_key_set(
    tmp_path: Path, times: Times, algorithm: str
) -> None:
    path = tmp_path / "key.json"
    mint = TokenMint(ISSUER, AUDIENCE, algorithm)
    mint.save(path)
    loaded = TokenMint.load(path, ISSUER, AUDIENCE)
    assert loaded.jwks == mint.jwks
    await verifier(FixedKeys(mint.jwks), times).verify(token(loaded, times))


def test_a_saved_key_is_only_its_owners_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("something older, and open to all")
    path.chmod(0o644)
    OLD.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "key.json").mkdir()
    with pytest.raises(OSError, match=r"key\.json"):
        OLD.save(tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "key.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '"text"', '{"d": "AA"}', '{"d":"AA","alg":"ES256","kid":"k","kty":"EC"}'])
def test_a_file_without_a_key_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"key\.json|Expecting"):
        TokenMint.load(path, ISSUER, AUDIENCE)


def test_a_mints_key_set_tells_nothing_secret() -> None:
    for algorithm in ("ES256", "RS256"):
        (key,) = TokenMint(ISSUER, AUDIENCE, algorithm).jwks["keys"]
        assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys()


def test_a_mint_does_not_sign_with_a_shared_secret() -> None:
    with pytest.raises(ValueError, match="ES256"):
        TokenMint(ISSUER, AUDIENCE, "HS256")
