"""Which bearer tokens open the mount: none that needs a proof we do not check, and none that lacks what an operator requires."""

import logging
import math
from dataclasses import dataclass, fields
from typing import Any

import pytest
from house import AUDIENCE, ISSUER, KICK_OFF, HandClock

from fhir_bulk_middleware.contract.access import Caller, Owner, Principal
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"

BOUND: dict[str, object] = {
    "to a DPoP key (RFC 9449)": {"jkt": THUMBPRINT},
    "to a TLS certificate (RFC 8705)": {"x5t#S256": THUMBPRINT},
    "to a key in the token (RFC 7800)": {"jwk": {"kty": "EC"}},
    "to a key that it names": {"kid": "a"},
    "to nothing that we know": {},
    "to null": None,
    "to text": "a",
}


@pytest.mark.parametrize("confirmation", BOUND.values(), ids=BOUND)
@pytest.mark.parametrize("scheme", ["Bearer", "DPoP", "bearer"])
async def test_a_token_that_is_bound_to_a_key_is_no_bearer_token(
    make_house: Any, mint: TokenMint, caplog: pytest.LogCaptureFixture, confirmation: object, scheme: str
) -> None:
    caplog.set_level(logging.INFO, "fhir_bulk_middleware")
    async with make_house() as house:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "scope": "system/*.rs", "exp": house.clock() // 1_000_000 + 300}
        bound, nonsense = mint.sign(claims | {"cnf": confirmation}), "nonsense"
        proof = {"DPoP": mint.sign({"htm": "GET"}, {"typ": "dpop+jwt"})}
        answers = [
            await house.http.get("/$export", headers=KICK_OFF | proof | {"Authorization": f"{scheme} {token}"})
            for token in (bound, nonsense)
        ]

    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert answers[0].content == answers[1].content, "the client is not told which check refused it"
    assert ("bound to a key (cnf)" if scheme != "DPoP" else "`Bearer` and a token") in caplog.text
    assert THUMBPRINT not in caplog.text


def verifier(mint: TokenMint, clock: HandClock, **options: Any) -> JoseTokenVerifier:
    return JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE, clock=clock, **options)


# Of a token as most issuers make it: what an operator may require, and the reason in the log where it is not so.
Case = tuple[dict[str, Any], dict[str, Any], dict[str, Any], str | None]
REQUIRED: dict[str, Case] = {
    "typ says access token": ({"require_at_jwt": True}, {"typ": "at+jwt"}, {}, None),
    "typ in its long form": ({"require_at_jwt": True}, {"typ": "application/AT+JWT"}, {}, None),
    "typ says JWT": ({"require_at_jwt": True}, {"typ": "JWT"}, {}, "its typ is that of another kind of token"),
    "typ says JWT, and that will do": ({}, {"typ": "JWT"}, {}, None),
    "client_id": ({"required_claims": ["client_id"]}, {}, {"client_id": "c"}, None),
    "no client_id": ({"required_claims": ["client_id"]}, {}, {}, "it has no client_id"),
    "client_id by another name": ({"required_claims": ["client_id"]}, {}, {"azp": "c"}, "it has no client_id"),
    "client_id is null": ({"required_claims": ["client_id"]}, {}, {"client_id": None}, "it has no client_id"),
    "two of three": ({"required_claims": ["client_id", "iat", "jti"]}, {}, {"iat": 0}, "it has no client_id, jti"),
    "one claim, as text": ({"required_claims": "iat"}, {}, {}, "it has no iat"),
    "a short life": ({"longest_life": 300}, {}, {"iat": 0}, None),
    "a long life": ({"longest_life": 299}, {}, {"iat": 0}, "its exp lies more than 299 seconds after its iat"),
    "a life without a beginning": ({"longest_life": 300}, {}, {}, "it has no iat"),
}


@pytest.mark.parametrize("case", REQUIRED.values(), ids=REQUIRED)
async def test_what_an_operator_requires_of_tokens_is_required(
    make_house: Any, mint: TokenMint, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    options, header, claims, reason = case
    caplog.set_level(logging.INFO, "fhir_bulk_middleware")
    clock = HandClock()
    async with make_house(parts={"verifier": verifier(mint, clock, **options)}) as house:
        issued_at = clock() // 1_000_000
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "scope": "system/*.rs", "exp": issued_at + 300}
        said = usual | claims | ({"iat": issued_at} if "iat" in claims else {})
        answer = await house.ask("GET", "/$export", headers=KICK_OFF, token=mint.sign(said, header))

    if reason is None:
        assert answer.status_code == 202, caplog.text
    else:
        assert answer.status_code == 401
        assert f"token rejected: {reason}" in caplog.text
        assert reason not in answer.text


@pytest.mark.parametrize("life", [0, -1, math.inf, math.nan])
def test_a_longest_life_that_is_none_is_refused_at_once(mint: TokenMint, life: float) -> None:
    with pytest.raises(ValueError, match="longest_life"):
        verifier(mint, HandClock(), longest_life=life)


@dataclass(frozen=True, slots=True, kw_only=True)
class WardPrincipal(Principal):
    """What a host's own verifier may return."""

    ward: str


PRINCIPAL: dict[str, Any] = {
    "owner": Owner("issuer", "alice"),
    "scopes": ("system/*.rs",),
    "expires_at": Instant(5),
    "client_id": "c",
    "claims": {"a": 1},
}


@pytest.mark.parametrize(
    "principal", [Principal(**PRINCIPAL), WardPrincipal(**PRINCIPAL, ward="north")], ids=["ours", "the host's"]
)
def test_a_principal_keeps_all_that_its_token_says_in_each_request(principal: Principal) -> None:
    caller = Caller(request_id="1")
    called = principal.called(caller)

    assert {field.name: getattr(called, field.name) for field in fields(called)} == {
        **{field.name: getattr(principal, field.name) for field in fields(principal)},
        "caller": caller,
    }
    assert type(called) is type(principal)
