"""A real client with a key, from nothing but the server's URL to its files: SE-20 to SE-23 over real connections."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from exporting import polled
from waiting import PATIENCE

from fhir_bulk_middleware.cli.server_process import server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.jose.signing import SigningKey

PEOPLE = [{"resourceType": "Patient", "id": "a"}, {"resourceType": "Observation", "id": "b", "status": "final", "code": {}}]


class Journey:
    """A client that knows a base URL, its id and its key."""

    def __init__(self, http: httpx2.Client, base: str, client_id: str, key: SigningKey) -> None:
        self.base = base
        self.client_id = client_id
        self.key = key
        self.http = http
        self.configuration: dict[str, Any] = self.http.get(f"{base}/.well-known/smart-configuration", timeout=PATIENCE).json()

    def assertion(self) -> str:
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.configuration["token_endpoint"],
            "exp": int(time.time()) + 240,
            "jti": secrets.token_hex(16),
        }
        return self.key.sign(claims, {"typ": "JWT"})

    def ask_for_token(self, scope: str, assertion: str | None = None) -> httpx2.Response:
        form = {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion or self.assertion(),
        }
        return self.http.post(self.configuration["token_endpoint"], data=form)

    def get(self, url: str, scope: str = "system/*.rs", **headers: str) -> httpx2.Response:
        token = self.ask_for_token(scope).json()["access_token"]
        return self.http.get(url, headers={"Authorization": f"Bearer {token}", **headers})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    folder = tmp_path_factory.mktemp("smart")
    (folder / "data").mkdir()
    (folder / "data" / "all.ndjson").write_text("".join(f"{json.dumps(resource)}\n" for resource in PEOPLE))
    return State(folder / "state")


@pytest.fixture(scope="module", params=["ES384", "RS384"])
def journey(request: pytest.FixtureRequest, state: State) -> Iterator[Journey]:
    key, other = SigningKey(request.param), SigningKey()
    arguments = ["--data", str(state.folder.parent / "data"), "--workers", "0"]
    for name, signing in (("nightly", key), ("other", other)):
        file = state.folder.parent / f"{name}-{request.param}.json"
        file.write_text(json.dumps(signing.jwks))
        arguments += ["--client", f"{name}={file}"]
    with server_process(state, 0, arguments) as server, httpx2.Client(timeout=PATIENCE) as http:
        yield Journey(http, server.url, "nightly", key)


def test_a_client_finds_its_way_from_the_servers_url_to_its_files(journey: Journey) -> None:
    token = journey.ask_for_token("system/*.rs openid").json()
    assert token["scope"] == "system/*.rs"

    accepted = journey.get(f"{journey.base}/$export", Prefer="respond-async")
    assert accepted.status_code == 202, accepted.text
    poll = polled(journey.get, accepted.headers["Content-Location"])  # each with a new token of the same client, so of one owner
    assert poll.status_code == 200, poll.text
    lines = [line for item in poll.json()["output"] for line in journey.get(item["url"]).text.splitlines()]
    assert sorted(json.loads(line)["resourceType"] for line in lines) == ["Observation", "Patient"]


def test_every_sign_points_to_the_same_token_endpoint(journey: Journey) -> None:
    root = httpx2.get(f"{journey.base.removesuffix('/fhir')}/.well-known/smart-configuration", timeout=PATIENCE).json()
    statement = httpx2.get(f"{journey.base}/metadata", timeout=PATIENCE).json()

    assert root == journey.configuration
    (server,) = statement["rest"]
    assert server["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    definitions = [operation["definition"] for operation in server["operation"]]
    assert definitions == ["http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"]
    keys = httpx2.get(journey.configuration["jwks_uri"], timeout=PATIENCE).json()["keys"]
    assert [sorted(key) for key in keys] == [sorted({"kty", "crv", "x", "y", "alg", "use", "kid"})]


def test_narrow_scopes_are_all_that_the_token_has(journey: Journey) -> None:
    refused = journey.get(f"{journey.base}/$export?_type=Observation", "system/Patient.rs", Prefer="respond-async")

    assert refused.status_code == 403


def test_a_stolen_request_gives_no_second_token(journey: Journey) -> None:
    assertion = journey.assertion()

    assert journey.ask_for_token("system/*.rs", assertion).status_code == 200
    again = journey.ask_for_token("system/*.rs", assertion)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_client")


def test_tokens_of_the_development_key_are_not_taken(journey: Journey, state: State) -> None:
    token = state.mint().token("somebody", "system/*.rs")

    assert httpx2.get(f"{journey.base}/Patient/a", headers={"Authorization": f"Bearer {token}"}).status_code == 401
