"""The token endpoint gives a token to a client that shows its key, and to nobody else (SE-23)."""

import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jose import jws
from registered import ASSERTION_TYPE, AUDIENCE, KEYS, OTHER, SECONDS, SERVER, URL, Endpoint, assertion, form

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import MemoryReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
async def test_a_client_with_its_key_gets_a_token_that_the_verifier_takes(algorithm: str) -> None:
    endpoint = Endpoint()
    answer = await endpoint.post(form(assertion(KEYS[algorithm])))

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json()
    assert token["token_type"] == "bearer"
    assert token["scope"] == "system/*.rs"
    assert isinstance(token["expires_in"], int)
    assert 0 < token["expires_in"] <= 300
    principal = await endpoint.server.verifier().verify(token["access_token"])
    assert principal.owner == Owner(URL, "backend")
    assert principal.client_id == "backend"
    assert principal.scopes == ("system/*.rs",)
    assert principal.expires_at == (SECONDS + token["expires_in"]) * 1_000_000


GOOD: dict[str, dict[str, str]] = {
    "aud as a list of one": form(assertion(aud=[f"{URL}/token"])),
    "client_id that agrees": form(client_id="backend"),
    "iat and nbf": form(assertion(iat=SECONDS, nbf=SECONDS)),
    "exp at five minutes and our clock behind": form(assertion(exp=SECONDS + 359)),
    "expired, and our clock ahead": form(assertion(exp=SECONDS - 59)),
    "exp with decimals": form(assertion(exp=SECONDS + 100.5)),
    "typ of its own kind": form(assertion(header={"typ": "client-authentication+jwt"})),
    "more scopes than it may have": form(scope="system/*.rs openid fhirUser system/Nonsense.read"),
}


@pytest.mark.parametrize("fields", GOOD.values(), ids=GOOD)
async def test_what_is_allowed_gets_a_token(fields: dict[str, str]) -> None:
    assert (await Endpoint().post(fields)).status_code == 200


def tampered(token: str, **claims: Any) -> str:
    """The same header and signature over other claims."""
    header, _, signature = token.split(".")
    payload = {"iss": "backend", "sub": "backend", "aud": f"{URL}/token", "exp": SECONDS + 300, "jti": "x"} | claims
    return f"{header}.{urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b'=').decode()}.{signature}"


def unsigned(algorithm: str) -> str:
    parts = [{"alg": algorithm, "typ": "JWT", "kid": KEYS["ES384"].kid}, json.loads('{"iss": "backend", "sub": "backend"}')]
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return f"{encoded[0]}.{encoded[1]}."


ATTACKS: dict[str, str] = {
    "another client's key": assertion(OTHER),
    "another client's key under our kid": assertion(OTHER, header={"kid": KEYS["ES384"].kid}),
    "a stranger": assertion(OTHER, iss="stranger", sub="stranger"),
    "one client for another": assertion(OTHER, iss="other", sub="backend"),
    "another's key, iss only": assertion(OTHER, iss="backend", sub="other"),
    "iss and sub differ": assertion(sub="other"),
    "no iss": assertion(without=("iss",)),
    "no sub": assertion(without=("sub",)),
    "no aud": assertion(without=("aud",)),
    "no exp": assertion(without=("exp",)),
    "no jti": assertion(without=("jti",)),
    "jti of another type": assertion(jti=7),
    "empty jti": assertion(jti=""),
    "endless jti": assertion(jti="x" * 300),
    "iss of another type": assertion(iss=["backend"]),
    "aud is the server and not the endpoint": assertion(aud=URL),
    "aud with a slash": assertion(aud=f"{URL}/token/"),
    "aud of another server": assertion(aud="https://evil.example/token"),
    "aud of several": assertion(aud=[f"{URL}/token", "https://evil.example/token"]),
    "aud of another type": assertion(aud={"a": f"{URL}/token"}),
    "aud empty": assertion(aud=[]),
    "expired": assertion(exp=SECONDS - 61),
    "expires now, less the leeway": assertion(exp=SECONDS - 60),
    "good for an hour": assertion(exp=SECONDS + 3600),
    "a second too long": assertion(exp=SECONDS + 361),
    "exp in milliseconds": assertion(exp=SECONDS * 1000),
    "exp as text": assertion(exp=str(SECONDS + 60)),
    "exp is true": assertion(exp=True),
    "not yet": assertion(nbf=SECONDS + 120),
    "issued in the future": assertion(iat=SECONDS + 120),
    "an algorithm that SMART does not name": assertion(KEYS["ES256"]),
    "RS256": assertion(KEYS["RS256"]),
    "none": unsigned("none"),
    "None": unsigned("None"),
    "symmetric": unsigned("HS256"),
    "no signature": unsigned("ES384"),
    "tampered": tampered(assertion(), sub="other"),
    "no kid": assertion(header={"kid": None}),
    "an unknown kid": assertion(header={"kid": "unknown"}),
    "an access token of ours": SERVER.sign({"iss": URL, "sub": "backend"}, {"typ": "at+jwt"}),
    "an access token of the client's": assertion(header={"typ": "at+jwt"}),
    "jku of its own": assertion(OTHER, header={"jku": "https://evil.example/jwks.json"}),
    "jku though keys are registered": assertion(header={"jku": "https://evil.example/jwks.json"}),
    "jku of another type": assertion(header={"jku": ["https://evil.example"]}),
    "jwk in the header": assertion(OTHER, header={"jwk": OTHER.jwks["keys"][0], "kid": KEYS["ES384"].kid}),
    "crit": assertion(header={"crit": ["exp"]}),
    "nonsense": "nonsense",
    "dots": "..",
    "too long": "a" * 20_000,
    "not ASCII": "ä.ö.ü",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_no_other_assertion_does_and_none_is_told_why(attack: str) -> None:
    endpoint = Endpoint()
    answer = await endpoint.post(form(attack))

    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_client", "error_description": "The client assertion is not good here."}
    assert answer.headers["Cache-Control"] == "no-store"


REQUESTS: dict[str, tuple[dict[str, str] | str | bytes, str]] = {
    "no grant_type": (form(grant_type=None), "invalid_request"),
    "an empty grant_type": (form(grant_type=""), "invalid_request"),
    "another grant_type": (form(grant_type="authorization_code"), "unsupported_grant_type"),
    "no assertion type": (form(client_assertion_type=None), "invalid_request"),
    "another assertion type": (form(client_assertion_type="urn:x"), "invalid_request"),
    "no assertion": ({**form(), "client_assertion": ""}, "invalid_request"),
    "another client_id": (form(client_id="other"), "invalid_client"),
    "no scope": (form(scope=None), "invalid_scope"),
    "an empty scope": (form(scope=""), "invalid_scope"),
    "a nonsense scope": (form(scope="nonsense"), "invalid_scope"),
    "an unknown letter": (form(scope="system/*.unknown"), "invalid_scope"),
    "an unknown type": (form(scope="system/Nonsense.rs"), "invalid_scope"),
    "a user's scope": (form(scope="user/*.rs patient/*.rs openid"), "invalid_scope"),
    "what it may not": (form(scope="system/*.d"), "invalid_scope"),
    "endless scopes": (form(scope="system/Patient.rs " * 1000), "invalid_scope"),
    "a field twice": (f"grant_type=client_credentials&{'scope=a&scope=b'}", "invalid_request"),
    "too many fields": ("&".join(f"a{i}=1" for i in range(50)), "invalid_request"),
    "not a form": (b"\xff\xfe", "invalid_request"),
    "bad escapes": ("grant_type=%ff", "invalid_request"),
    "too large": ("grant_type=" + "x" * 100_000, "invalid_request"),
    "nothing": ("", "invalid_request"),
}


@pytest.mark.parametrize(("body", "error"), REQUESTS.values(), ids=REQUESTS)
async def test_every_other_request_is_refused_in_the_words_of_oauth(body: Any, error: str) -> None:
    answer = await Endpoint().post(body)

    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json"


async def test_json_is_not_a_form_and_get_is_not_post() -> None:
    endpoint = Endpoint()
    assert (await endpoint.post(json.dumps(form()), **{"Content-Type": "application/json"})).json()["error"] == "invalid_request"

    import httpx2

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(endpoint.server.app), base_url="https://x") as http:
        assert (await http.get("/token", params=form())).status_code == 405


async def test_an_assertion_must_name_its_key_though_the_client_has_just_one(tmp_path: Path) -> None:
    OTHER.save(tmp_path / "key.json")
    private = json.loads((tmp_path / "key.json").read_text())
    claims = {"iss": "other", "sub": "other", "aud": f"{URL}/token", "exp": SECONDS + 60, "jti": "1"}
    for headers, status in (({"kid": OTHER.kid}, 200), ({}, 400)):
        signed = jws.sign(claims | {"jti": str(status)}, private, headers, "ES384")
        assert (await Endpoint().post(form(signed))).status_code == status


async def test_a_password_is_refused_in_kind() -> None:
    answer = await Endpoint().post({**form(), "client_assertion": ""}, Authorization="Basic YTpi")

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


async def test_an_assertion_is_good_once() -> None:
    endpoint = Endpoint()
    fields = form()

    assert (await endpoint.post(fields)).status_code == 200
    for seconds in (0, 299, 359):
        endpoint.now = type(endpoint.now)((SECONDS + seconds) * 1_000_000)
        assert (await endpoint.post(fields)).json()["error"] == "invalid_client", seconds


async def test_a_jti_is_a_clients_own() -> None:
    endpoint = Endpoint()

    assert (await endpoint.post(form(assertion(jti="1")))).status_code == 200
    assert (await endpoint.post(form(assertion(OTHER, iss="other", sub="other", jti="1")))).status_code == 200
    assert (await endpoint.post(form(assertion(jti="1")))).status_code == 400


async def test_a_forged_assertion_does_not_use_up_the_real_one() -> None:
    endpoint = Endpoint()

    assert (await endpoint.post(form(assertion(OTHER, header={"kid": KEYS["ES384"].kid}, jti="1")))).status_code == 400
    assert (await endpoint.post(form(assertion(jti="1")))).status_code == 200


async def test_who_has_too_many_assertions_in_use_is_told_to_wait() -> None:
    endpoint = Endpoint(MemoryReplayLog(most=1))

    assert (await endpoint.post(form())).status_code == 200
    full = await endpoint.post(form())
    assert (full.status_code, full.json()["error"]) == (503, "temporarily_unavailable")
    assert int(full.headers["Retry-After"]) > 0


class _Away:
    """A key source whose keys are not to be had."""

    async def keys(self) -> Any:
        raise Refused(Reason.BUSY, retry_after=5)

    async def keys_with(self, kid: str) -> Any:
        raise AssertionError(kid)


async def test_while_a_clients_keys_are_not_to_be_had_it_is_told_to_come_again() -> None:
    endpoint = Endpoint()
    endpoint.server = AuthorizationServer(
        URL, AUDIENCE, [Client.registered("backend", _Away())], key=SERVER, replay=MemoryReplayLog(), clock=endpoint.clock
    )

    answer = await endpoint.post(form())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


class _Broken:
    """A log that cannot be written."""

    async def first_use(self, *_: object) -> bool:
        raise OSError("the disk is full")


async def test_a_fault_gives_no_token_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = await Endpoint(_Broken()).post(form())

    assert (answer.status_code, answer.json()["error"]) == (500, "server_error")
    assert "disk" not in answer.text
    assert "the disk is full" in caplog.text


async def test_nothing_that_was_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="fhir_bulk_middleware")
    await Endpoint().post(form(assertion(OTHER, iss="evil\nINFO", sub="secret-sub", jti="secret-jti")))

    assert "rejected" in caplog.text
    for secret in ("evil", "secret-sub", "secret-jti"):
        assert secret not in caplog.text


REASONS: dict[str, tuple[dict[str, str], str]] = {
    "a stranger": (form(assertion(OTHER, iss="stranger")), "its iss is no client of ours"),
    "another's key": (
        form(assertion(OTHER, header={"kid": KEYS["ES384"].kid})),
        "in the name of backend: its signature is not good",
    ),
    "a kid of nobody": (form(assertion(header={"kid": "unknown"})), "in the name of backend: its kid is not in the key set"),
    "another audience": (form(assertion(aud=URL)), "in the name of backend: its aud is not the token endpoint alone"),
    "expired": (form(assertion(exp=SECONDS - 61)), "in the name of backend: it has expired"),
    "no token at all": (form("nonsense"), "not three segments"),
    "another grant": (form(grant_type="password"), "unsupported_grant_type: grant_type must be client_credentials."),
    "scopes that it may not have": (form(scope="system/Nonsense.rs"), "invalid_scope: scope must name"),
}


@pytest.mark.parametrize(("fields", "reason"), REASONS.values(), ids=REASONS)
async def test_the_log_says_why_there_was_no_token(fields: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fhir_bulk_middleware")
    await Endpoint().post(fields)

    assert [record.getMessage() for record in caplog.records if "token request refused" in record.getMessage()]
    assert reason in caplog.text


async def test_an_assertion_that_was_used_before_is_told_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fhir_bulk_middleware")
    endpoint, twice = Endpoint(), form()
    assert [(await endpoint.post(twice)).status_code for _ in range(2)] == [200, 400]
    assert "in the name of backend: it was used before" in caplog.text


async def test_the_key_set_has_public_members_only_and_the_configuration_leads_there() -> None:
    import httpx2

    server = Endpoint().server
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(server.app), base_url="https://x") as http:
        keys = (await http.get("/jwks")).json()
    assert keys == SERVER.jwks
    assert "d" not in keys["keys"][0]
    assert server.configuration.jwks_uri == f"{URL}/jwks"
    assert server.configuration.token_endpoint == f"{URL}/token"
    assert server.configuration.token_endpoint_auth_signing_alg_values_supported == ("RS384", "ES384")
    assert server.configuration.scopes_supported == ("system/*.rs", "system/Patient.rs")


async def test_tokens_of_another_server_or_for_another_audience_are_not_taken() -> None:
    from fhir_bulk_middleware.contract.access import TokenRejected

    endpoint = Endpoint()
    token = (await endpoint.post(form())).json()["access_token"]
    clients = [Client.registered("backend", KEYS["ES384"].jwks)]
    for url, audience, key in [
        ("https://x.example/auth", AUDIENCE, SERVER),
        (URL, "https://x.example", SERVER),
        (URL, AUDIENCE, SigningKey()),
    ]:
        other = AuthorizationServer(url, audience, clients, key=key, replay=MemoryReplayLog(), clock=endpoint.clock)
        with pytest.raises(TokenRejected):
            await other.verifier().verify(token)


@pytest.mark.parametrize(
    ("client_id", "scopes"),
    [("", ["system/*.rs"]), (" a", ["system/*.rs"]), ("a\n", ["system/*.rs"]), ("a", []), ("a", ["user/*.rs"]), ("a", ["x"])],
)
async def test_a_client_that_makes_no_sense_is_not_registered(client_id: str, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="client"):
        Client.registered(client_id, OTHER.jwks, scopes)


@pytest.mark.parametrize("lifetime", [None, 1, 86_400])
async def test_a_token_lives_five_minutes_or_as_long_as_is_asked_for(lifetime: int | None) -> None:
    """SE-05, law 9: the limit of five minutes is for assertions."""
    endpoint = Endpoint()
    chosen: dict[str, Any] = {} if lifetime is None else {"lifetime": lifetime}
    endpoint.server = AuthorizationServer(
        URL,
        AUDIENCE,
        [Client.registered("backend", KEYS["ES384"].jwks)],
        key=SERVER,
        replay=MemoryReplayLog(),
        clock=endpoint.clock,
        **chosen,
    )

    answer = (await endpoint.post(form())).json()

    assert answer["expires_in"] == (lifetime or 300)
    principal = await endpoint.server.verifier().verify(answer["access_token"])
    assert principal.expires_at == (SECONDS + (lifetime or 300)) * 1_000_000


@pytest.mark.parametrize("lifetime", [0, 86_401])
async def test_a_token_lives_a_day_at_most(lifetime: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 86,400 seconds"):
        AuthorizationServer(URL, AUDIENCE, [], key=SERVER, replay=MemoryReplayLog(), lifetime=lifetime)


async def test_two_clients_of_one_name_are_refused() -> None:
    client = Client.registered("a", OTHER.jwks)
    with pytest.raises(ValueError, match="same id"):
        AuthorizationServer(URL, AUDIENCE, [client, client], key=SERVER, replay=MemoryReplayLog())


def test_a_server_without_a_replay_log_is_refused() -> None:
    with pytest.raises(TypeError, match="good twice; give a SQLiteReplayLog"):
        AuthorizationServer(URL, AUDIENCE, [], key=SERVER, replay=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["system/Patinet.rs", "system/Patinet.rs?_id=a"])
def test_a_scope_on_a_type_that_there_is_not_is_refused(scope: str) -> None:
    client = Client.registered("a", OTHER.jwks, ["system/*.rs", scope])
    with pytest.raises(ValueError, match=r"scope of client a names Patinet: FHIR 4\.0\.1 has no such type"):
        AuthorizationServer(URL, AUDIENCE, [client], key=SERVER, replay=MemoryReplayLog())


def test_the_type_of_assertion_is_that_of_the_standard() -> None:
    assert ASSERTION_TYPE == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def asked(method: str, path: str) -> httpx2.Response:
    """The answer to a request that is no request for a token."""
    transport = httpx2.ASGITransport(Endpoint().server.app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as http:
        return await http.request(method, path)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_another_method_is_refused_in_the_words_of_oauth_too(method: str) -> None:
    answer = await asked(method, "/token")

    assert (answer.status_code, answer.headers["Allow"], answer.headers["Content-Type"]) == (405, "POST", "application/json")
    assert answer.json() == {"error": "invalid_request", "error_description": "Method Not Allowed."}
    assert answer.headers["Cache-Control"] == "no-store"


async def test_another_path_is_refused_in_the_words_of_oauth_too() -> None:
    answer = await asked("GET", "/tokens")

    assert (answer.status_code, answer.json()["error"]) == (404, "invalid_request")
