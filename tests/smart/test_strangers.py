"""The token endpoint does the same work for a stranger's assertion as for a client's, so that its time tells nothing."""

import secrets
from collections import Counter
from typing import Any

import httpx2
import pytest
from registered import AUDIENCE, KEYS, NOW, OTHER, SERVER, URL, assertion, form

from fhir_bulk_middleware.jose.keys import KeySet, VerificationKey
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import MemoryReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer

pytestmark = pytest.mark.anyio


class CountedKeys:
    """A key source that counts what it is asked."""

    def __init__(self, key: SigningKey, work: Counter[str]) -> None:
        self._keys = KeySet.parse(key.jwks)
        self._work = work

    async def keys(self) -> KeySet:
        self._work["keys looked up"] += 1
        return self._keys

    async def keys_with(self, kid: str) -> KeySet:  # noqa: ARG002
        self._work["keys looked for"] += 1
        return self._keys


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    verifies = VerificationKey.verifies

    def counting(self: VerificationKey, algorithm: str, *rest: Any) -> bool:
        counted[f"{algorithm} verified"] += 1
        return verifies(self, algorithm, *rest)

    monkeypatch.setattr(VerificationKey, "verifies", counting)
    return counted


def endpoint(work: Counter[str], clients: int) -> AuthorizationServer:
    registered = [Client.registered(f"client-{number}", CountedKeys(KEYS["ES384"], work)) for number in range(clients)]
    return AuthorizationServer(URL, AUDIENCE, registered, key=SERVER, replay=MemoryReplayLog(), clock=lambda: NOW)


async def post(server: AuthorizationServer, token: str) -> tuple[int, bytes]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(server.app), base_url="https://ehr.example") as http:
        answer = await http.post("/token", data=form(token))
        return answer.status_code, answer.content


# What somebody without the client's private key can send, with a client's id and with a made-up one.
FORGED: dict[str, dict[str, Any]] = {
    "a good kid, another key": {"key": OTHER, "header": {"kid": KEYS["ES384"].kid}},
    "an unknown kid": {"key": OTHER},
    "an unknown kid, RS384": {"key": KEYS["RS384"]},
    "a kid of another algorithm": {"key": KEYS["RS384"], "header": {"kid": KEYS["ES384"].kid}},
    "a jku of its own": {"key": OTHER, "header": {"jku": "https://evil.example/jwks.json"}},
    "no kid": {"key": OTHER, "header": {"kid": None}},
    "an algorithm that is not allowed": {"key": KEYS["ES256"]},
    "expired": {"key": OTHER, "exp": 1},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_strangers_assertion_takes_the_same_work_as_a_clients(forged: dict[str, Any], work: Counter[str]) -> None:
    server = endpoint(work, clients=3)
    done: list[tuple[tuple[int, bytes], Counter[str]]] = []
    for name in ("client-0", "client-1", "client-2", *(secrets.token_hex(4) for _ in range(9))):
        work.clear()
        done.append((await post(server, assertion(iss=name, sub=name, **forged)), work.copy()))

    assert all(each == done[0] for each in done), done
    if forged["key"] is not KEYS["ES256"] and forged.get("header", {}).get("kid", "") is not None:
        assert sum(count for name, count in done[0][1].items() if name.endswith("verified")) == 1


async def test_a_server_without_clients_does_the_work_too(work: Counter[str]) -> None:
    assert (await post(endpoint(work, clients=0), assertion(OTHER)))[0] == 400
    assert work == {"ES384 verified": 1}


async def test_no_stranger_gets_in_by_a_clients_key(work: Counter[str]) -> None:
    server = endpoint(work, clients=1)
    assert (await post(server, assertion(iss="stranger", sub="stranger")))[0] == 400
    assert (await post(server, assertion(iss="stranger", sub="client-0")))[0] == 400
    assert (await post(server, assertion(iss="client-0", sub="client-0")))[0] == 200
