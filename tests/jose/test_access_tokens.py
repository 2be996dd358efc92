"""Which access tokens are good, and what they say (law 9)."""

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwk

from fhir_bulk_middleware.contract.access import Owner, TokenRejected
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jose import ALGORITHMS, JoseTokenVerifier
from fhir_bulk_middleware.testing import TokenMint

ISSUER = "https://as.example"
AUDIENCE = "https://ehr.example/fhir"
NOW = Instant(1_800_000_000_000_000)
SECONDS = NOW // 1_000_000

pytestmark = pytest.mark.anyio


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private_jwk(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str) -> dict[str, str]:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return jwk.construct(pem, algorithm).to_dict()


EC_KEY = ec.generate_private_key(ec.SECP256R1())
MINT = TokenMint(ISSUER, AUDIENCE, "ES256", kid="current", private_jwk=private_jwk(EC_KEY, "ES256"))
RSA_MINT = TokenMint(ISSUER, AUDIENCE, "RS256", kid="current")
STRANGER = TokenMint(ISSUER, AUDIENCE, "ES256", kid="current")
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "client-1", "scope": "system/*.rs", "exp": SECONDS + 300}


def verifier(jwks: Any = MINT.jwks, now: Instant = NOW, **settings_: Any) -> JoseTokenVerifier:
    usual: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "clock": lambda: now}
    return JoseTokenVerifier(jwks=jwks, **(usual | settings_))


def good(**overrides: Any) -> str:
    usual: dict[str, Any] = {"subject": "client-1", "scope": "system/*.rs", "now": NOW}
    return MINT.token(**(usual | overrides))


def public(mint: TokenMint = MINT, **changes: Any) -> dict[str, Any]:
    """The mint's public JWK with members changed, or, with the value None, left out."""
    return {name: value for name, value in (mint.jwks["keys"][0] | changes).items() if value is not None}


def signed(header: str, payload: str) -> str:
    """A token of just these texts, with a signature that is good."""
    signing_input = f"{b64(header.encode())}.{b64(payload.encode())}"
    key = jwk.construct(private_jwk(EC_KEY, "ES256"), "ES256")
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def with_hmac(secret: bytes, algorithm: str = "HS256") -> str:
    signing_input = f"{b64(json.dumps({'alg': algorithm, 'kid': 'current'}).encode())}.{b64(json.dumps(CLAIMS).encode())}"
    return f"{signing_input}.{b64(hmac.new(secret, signing_input.encode(), hashlib.sha256).digest())}"


def unsigned(header: dict[str, Any]) -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(CLAIMS).encode())}."


def public_bytes(encoding: serialization.Encoding, format_: serialization.PublicFormat) -> bytes:
    return EC_KEY.public_key().public_bytes(encoding, format_)


async def rejected(token: str, by: JoseTokenVerifier) -> str:
    """Why the token was rejected; the reason must not give away anything of it."""
    with pytest.raises(TokenRejected) as caught:
        await by.verify(token)
    why = str(caught.value)
    assert not any(part and len(part) > 8 and part in why for part in token.split("."))
    return why


# --- Good tokens -----------------------------------------------------------------------------------------------------


async def test_a_good_token_tells_owner_scopes_client_and_end() -> None:
    token = good(client_id="app", scope="system/Patient.rs  system/Observation.rs?category=lab")
    principal = await verifier().verify(token)
    assert principal.owner == Owner(ISSUER, "client-1")
    assert principal.scopes == ("system/Patient.rs", "system/Observation.rs?category=lab")
    assert principal.client_id == "app"
    assert principal.expires_at == after(NOW, 300)
    assert principal.claims["aud"] == AUDIENCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_each_asymmetric_algorithm_verifies(algorithm: str) -> None:
    mint = TokenMint(ISSUER, AUDIENCE, algorithm)
    principal = await verifier(mint.jwks).verify(mint.token("me", "", now=NOW))
    assert principal.owner.subject == "me"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": SECONDS + 300.5},
        {"exp": SECONDS + 365 * 86_400},  # no five-minute cap on access tokens (law 9)
        {"exp": SECONDS - 59},  # within the leeway
        {"nbf": SECONDS + 59, "iat": SECONDS + 59},
        {"nbf": 0, "iat": 0.5},
        {"iat": None},
        {"aud": [AUDIENCE]},
        {"aud": ["https://other.example", AUDIENCE]},
        {"sub": "s" * 255},
        {"sub": "Zoë at home"},
        {"jti": 7, "unheard-of": {"a": [1]}},
    ],
    ids=str,
)
async def test_what_claims_may_be(claims: dict[str, Any]) -> None:
    await verifier().verify(good(**claims))


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b"}, ("a", "b")),
        ({"scope": " a  b "}, ("a", "b")),
        ({"scope": ""}, ()),
        ({"scope": None}, ()),
        ({"scope": ["a", "b"]}, ("a", "b")),
        ({"scope": None, "scp": ["a", "b"]}, ("a", "b")),
        ({"scope": None, "scp": "a b"}, ("a", "b")),
        ({"scope": "a", "scp": ["b"]}, ("a",)),
    ],
    ids=str,
)
async def test_scopes_are_read_from_text_or_list_under_either_name(claims: dict[str, Any], scopes: tuple[str, ...]) -> None:
    assert (await verifier().verify(good(**claims))).scopes == scopes


@pytest.mark.parametrize(
    ("claims", "client_id"),
    [({}, None), ({"cid": "c"}, "c"), ({"azp": "a", "cid": "c"}, "a"), ({"client_id": "i", "azp": "a"}, "i")],
    ids=str,
)
async def test_the_client_is_named_by_the_first_claim_that_does(claims: dict[str, Any], client_id: str | None) -> None:
    assert (await verifier().verify(good(**claims))).client_id == client_id


@pytest.mark.parametrize("type_", ["JWT", "jwt", "at+jwt", "application/at+JWT"])
async def test_an_access_token_may_call_itself_by_any_of_its_names(type_: str) -> None:
    await verifier().verify(MINT.sign(CLAIMS, {"typ": type_}))


async def test_a_token_need_not_say_what_it_is_nor_name_the_only_key() -> None:
    await verifier().verify(signed('{"alg":"ES256"}', json.dumps(CLAIMS)))


async def test_one_of_several_audiences_suffices() -> None:
    await verifier(audience={"https://other.example", AUDIENCE}).verify(good())


# --- Bad claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": None}, "no exp"),
        ({"exp": SECONDS - 60}, "expired"),
        ({"exp": str(SECONDS + 300)}, "exp is not a number"),
        ({"exp": True}, "exp is not a number"),
        ({"exp": [SECONDS + 300]}, "exp is not a number"),
        ({"exp": {}}, "exp is not a number"),
        ({"exp": 10**400}, "exp is out of range"),
        ({"exp": -1}, "exp is out of range"),
        ({"exp": math.inf}, "not JSON"),
        ({"exp": math.nan}, "not JSON"),
        ({"nbf": SECONDS + 61}, "nbf lies ahead"),
        ({"nbf": "0"}, "nbf is not a number"),
        ({"nbf": False}, "nbf is not a number"),
        ({"iat": SECONDS + 61}, "iat lies ahead"),
        ({"iat": "now"}, "iat is not a number"),
        ({"iss": None}, "iss"),
        ({"iss": "https://as.example/"}, "iss"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": [ISSUER]}, "iss"),
        ({"aud": None}, "aud"),
        ({"aud": "https://other.example"}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": [AUDIENCE, 7]}, "aud"),
        ({"aud": {AUDIENCE: 1}}, "aud"),
        ({"aud": AUDIENCE + "/"}, "aud"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "  "}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "s" * 256}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "half \ud800"}, "sub"),
        ({"client_id": 7}, "client_id"),
        ({"azp": ""}, "azp"),
        ({"scope": 7}, "scopes"),
        ({"scope": [["system/*.rs"]]}, "scopes"),
        ({"scope": {"system/*.rs": 1}}, "scopes"),
        ({"scope": "system/*.rs\nx"}, "scopes"),
    ],
    ids=str,
)
async def test_a_token_with_a_bad_claim_is_rejected(claims: dict[str, Any], why: str) -> None:
    assert why in await rejected(good(**claims), verifier())


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        '"text"',
        "null",
        "{",
        json.dumps(CLAIMS)[:-1] + ',"sub":"client-2"}',
        json.dumps(CLAIMS)[:-1] + ',"x":{"a":1,"a":2}}',
        json.dumps(CLAIMS)[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}",
        json.dumps(CLAIMS)[:-1] + ',"x":' + "9" * 5000 + "}",
    ],
    ids=["empty", "list", "text", "null", "cut", "sub twice", "a member twice inside", "deep", "long number"],
)
async def test_a_signed_payload_that_is_no_plain_json_object_is_rejected(payload: str) -> None:
    assert "malformed" in await rejected(signed('{"alg":"ES256","kid":"current"}', payload), verifier())


# --- Attacks ---------------------------------------------------------------------------------------------------------

ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned({"alg": "none"}), "alg"),
    "alg None with a signature": (lambda: MINT.sign(CLAIMS, {"alg": "None"}), "alg"),
    "alg of another case": (lambda: MINT.sign(CLAIMS, {"alg": "es256"}), "alg"),
    "alg missing": (lambda: signed('{"kid":"current"}', json.dumps(CLAIMS)), "alg"),
    "alg a list": (lambda: MINT.sign(CLAIMS, {"alg": ["ES256"]}), "alg"),
    "alg twice": (lambda: signed('{"alg":"ES256","alg":"none"}', json.dumps(CLAIMS)), "twice"),
    "alg of another curve": (lambda: MINT.sign(CLAIMS, {"alg": "ES384"}), "alg"),
    "alg of another key type": (lambda: MINT.sign(CLAIMS, {"alg": "RS256"}), "alg"),
    "alg that python-jose has and we have not": (lambda: MINT.sign(CLAIMS, {"alg": "RSA-OAEP"}), "alg"),
    "HS256 with the PEM": (
        lambda: with_hmac(public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)),
        "alg",
    ),
    "HS256 with the DER": (
        lambda: with_hmac(public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)),
        "alg",
    ),
    "HS256 with the OpenSSH key": (
        lambda: with_hmac(public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)),
        "alg",
    ),
    "HS256 with the JWK": (lambda: with_hmac(json.dumps(public()).encode()), "alg"),
    "an HMAC that calls itself ES256": (
        lambda: with_hmac(public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo), "ES256"),
        "signature",
    ),
    "signed by a stranger under our kid": (lambda: STRANGER.sign(CLAIMS), "signature"),
    "kid unknown": (lambda: MINT.sign(CLAIMS, {"kid": "other"}), "kid"),
    "kid a number": (lambda: MINT.sign(CLAIMS, {"kid": 1}), "kid"),
    "kid null": (lambda: MINT.sign(CLAIMS, {"kid": None}), "kid"),
    "kid empty": (lambda: MINT.sign(CLAIMS, {"kid": ""}), "kid"),
    "kid endless": (lambda: MINT.sign(CLAIMS, {"kid": "k" * 257}), "kid"),
    "kid a path": (lambda: MINT.sign(CLAIMS, {"kid": "../../dev/null"}), "kid"),
    "kid of another case": (lambda: MINT.sign(CLAIMS, {"kid": "Current"}), "kid"),
    "its own key in the header": (lambda: STRANGER.sign(CLAIMS, {"jwk": public(STRANGER)}), "signature"),
    "a key set of its own by URL": (lambda: STRANGER.sign(CLAIMS, {"jku": "https://evil.example/jwks"}), "signature"),
    "a certificate of its own": (lambda: STRANGER.sign(CLAIMS, {"x5u": "https://evil.example/c", "x5c": ["MA=="]}), "signature"),
    "crit": (lambda: MINT.sign(CLAIMS, {"crit": ["exp"]}), "crit"),
    "crit empty": (lambda: MINT.sign(CLAIMS, {"crit": []}), "crit"),
    "crit null": (lambda: MINT.sign(CLAIMS, {"crit": None}), "crit"),
    "b64": (lambda: MINT.sign(CLAIMS, {"b64": False}), "b64"),
    "zip": (lambda: MINT.sign(CLAIMS, {"zip": "DEF"}), "zip"),
    "JWE in five segments": (lambda: ".".join((b64(b'{"alg":"dir","enc":"A256GCM"}'), "", "aaaa", "aaaa", "aaaa")), "segments"),
    "JWE header in three segments": (lambda: MINT.sign(CLAIMS, {"enc": "A256GCM"}), "enc"),
    "a logout token": (lambda: MINT.sign(CLAIMS, {"typ": "logout+jwt"}), "typ"),
    "typ a number": (lambda: MINT.sign(CLAIMS, {"typ": 7}), "typ"),
    "header a list": (lambda: signed("[]", json.dumps(CLAIMS)), "malformed"),
    "header not UTF-8": (lambda: f"{b64(bytes([255, 254]))}.{b64(b'{}')}.aaaa", "malformed"),
    "signature missing": (lambda: good().rsplit(".", 1)[0] + ".", "signature"),
    "signature too short": (lambda: good().rsplit(".", 1)[0] + "." + b64(bytes(63)), "signature"),
    "signature all zeros": (lambda: good().rsplit(".", 1)[0] + "." + b64(bytes(64)), "signature"),
    "signature in DER": (lambda: good().rsplit(".", 1)[0] + "." + b64(bytes.fromhex("3006020101020101")), "signature"),
    "claims of another token": (
        lambda: ".".join((good().split(".")[0], good(sub="other").split(".")[1], good().split(".")[2])),
        "signature",
    ),
    "padding": (lambda: good() + "==", "base64url"),
    "stray bits at the end": (lambda: f"{good().rsplit('.', 1)[0]}.{b64(bytes(64))[:-1]}B", "stray bits"),
    "standard base64": (lambda: good().rsplit(".", 1)[0] + "." + "+/" * 43, "base64url"),
    "a blank before it": (lambda: " " + good(), "base64url"),
    "a newline after it": (lambda: good() + "\n", "base64url"),
    "not ASCII": (lambda: good() + "é", "ASCII"),
    "half a surrogate pair": (lambda: good() + "\ud800", "ASCII"),
    "one dot too many": (lambda: good() + ".", "segments"),
    "nothing": (lambda: "", "segments"),
    "dots": (lambda: "..", "malformed"),
    "too long": (lambda: good(filler="x" * 16_384), "longer"),
    "a header nested very deep": (lambda: f"{b64(b'[' * 5000)}.e30.aaaa", "malformed"),
}


@pytest.mark.parametrize(("token", "why"), ATTACKS.values(), ids=ATTACKS.keys())
async def test_an_attack_is_rejected(token: Callable[[], str], why: str) -> None:
    assert why in await rejected(token(), verifier())


# --- Key sets --------------------------------------------------------------------------------------------------------


def _keyless(entry: Any) -> str:
    """An entry as a test's name, without the numbers of keys that are new in each run."""
    return str({name: value for name, value in entry.items() if len(str(value)) < 20} if isinstance(entry, dict) else entry)


OKP = {"kty": "OKP", "crv": "Ed25519", "kid": "current", "x": b64(bytes(32)), "alg": "EdDSA"}


@pytest.mark.parametrize(
    "entry",
    [
        OKP,
        {"kty": "oct", "kid": "current", "k": b64(b"secret")},
        {"kty": "unheard-of", "kid": "current"},
        {"kid": "current"},
        {"kty": ["EC"], "kid": "current"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "current"},
        {"kty": "EC", "crv": ["P-256"], "x": "AA", "y": "AA"},
        public(x="AAAA"),
        public(x="%%"),
        public(x=7),
        public(y=None),
        public(kid=7),
        public(use="enc"),
        public(use=["sig"]),
        public(alg="ES384"),
        public(alg=7),
        public(key_ops=["encrypt"]),
        public(key_ops="verify"),
        public() | {"d": "AAAA"},
        public(RSA_MINT),
        "text",
        None,
        [],
    ],
    ids=_keyless,
)
async def test_a_useless_entry_is_passed_over_and_does_not_disturb_the_others(entry: Any) -> None:
    await verifier({"keys": [entry, public()]}).verify(good())
    with pytest.raises(TokenRejected):
        await verifier({"keys": [entry, public(STRANGER, kid="other")]}).verify(good())


@pytest.mark.parametrize(
    "entry",
    [
        public(),
        public(alg=None),
        public(use=None),
        public(use="sig", key_ops=["verify"]),
        public(extra={"x5c": []}),
    ],
    ids=_keyless,
)
async def test_members_that_a_key_leaves_out_do_not_restrict_it(entry: dict[str, Any]) -> None:
    await verifier({"keys": [entry]}).verify(good())


async def test_a_weak_rsa_key_is_passed_over() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - weak on purpose
    mint = TokenMint(ISSUER, AUDIENCE, "RS256", kid="weak", private_jwk=private_jwk(weak, "RS256"))
    jwks = {"keys": [*mint.jwks["keys"], public()]}
    assert "2048" in await rejected(mint.token("me", "", now=NOW), verifier(jwks))
    await verifier(jwks).verify(good())


async def test_two_keys_under_one_kid_that_both_fit_leave_no_choice() -> None:
    jwks = {"keys": [public(), public(STRANGER)]}
    assert "2 keys" in await rejected(good(), verifier(jwks))


async def test_two_keys_under_one_kid_of_which_one_fits_the_algorithm_do_no_harm() -> None:
    jwks = {"keys": [public(RSA_MINT), public()]}
    await verifier(jwks).verify(good())
    await verifier(jwks).verify(RSA_MINT.token("me", "", now=NOW))


async def test_the_same_key_twice_is_one_key() -> None:
    await verifier({"keys": [public(), public()]}).verify(good())


async def test_a_token_without_kid_is_good_only_if_one_key_fits() -> None:
    token = signed('{"alg":"ES256"}', json.dumps(CLAIMS))
    await verifier({"keys": [public(RSA_MINT), OKP, public()]}).verify(token)
    assert "2 keys" in await rejected(token, verifier({"keys": [public(), public(STRANGER, kid="other")]}))
    assert "no key" in await rejected(token, verifier(RSA_MINT.jwks))


async def test_a_key_without_kid_does_not_serve_a_token_with_one() -> None:
    assert "kid" in await rejected(good(), verifier({"keys": [public(kid=None)]}))


async def test_only_the_allowed_algorithms_are_accepted() -> None:
    assert "alg" in await rejected(good(), verifier(algorithms=["ES384"]))
    await verifier(algorithms="ES256").verify(good())


@pytest.mark.parametrize(
    "setting",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": ["ES256", "HS512"]},
        {"algorithms": ["none"]},
        {"algorithms": "none"},
        {"algorithms": []},
        {"algorithms": ["PS256"]},
        {"issuer": ""},
        {"audience": ""},
        {"audience": []},
        {"audience": [AUDIENCE, ""]},
        {"leeway": -1},
        {"leeway": math.inf},
        {"leeway": math.nan},
        {"leeway": 301},
        {"jwks": {}},
        {"jwks": {"keys": "text"}},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [OKP]}},
    ],
    ids=str,
)
def test_a_setting_that_lets_in_the_wrong_or_nothing_is_refused_at_once(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        verifier(**setting)


# --- Tokens that were verified a moment ago --------------------------------------------------------------------------


class Times:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Instant:
        return self.now


async def test_a_token_that_was_good_is_remembered_for_a_minute_and_then_checked_again() -> None:
    times = Times()
    one = verifier(clock=times)
    token = good()
    principal = await one.verify(token)
    times.now = after(NOW, 59)
    assert await one.verify(token) is principal
    times.now = after(NOW, 60)
    assert await one.verify(token) is not principal


async def test_a_remembered_token_is_not_good_past_its_end() -> None:
    times = Times()
    one = verifier(clock=times, leeway=0)
    token = good(expires_in=10)
    await one.verify(token)
    times.now = after(NOW, 10)
    assert "expired" in await rejected(token, one)


async def test_a_token_that_differs_from_a_remembered_one_is_checked() -> None:
    one = verifier()
    token = good()
    await one.verify(token)
    await rejected(token[:-8] + "AAAAAAAA", one)
    await rejected(".".join((*good(sub="other").split(".")[:2], token.split(".")[2])), one)


# --- Anything at all -------------------------------------------------------------------------------------------------


async def tried(token: str, by: JoseTokenVerifier) -> None:
    """Good or rejected, and nothing else."""
    try:
        principal = await by.verify(token)
    except TokenRejected:
        return
    assert principal.owner.subject == "client-1"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FUZZED = verifier({"keys": [public(), public(RSA_MINT, kid="rsa")]})
TOKEN = good()


@given(st.text() | st.text(alphabet="abcAB.-_e0=", max_size=60))
async def test_arbitrary_text_is_rejected(text: str) -> None:
    with pytest.raises(TokenRejected):
        await FUZZED.verify(text)


@given(st.data())
@settings(max_examples=200)
async def test_a_changed_token_is_rejected(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(TOKEN) - 1))
    character = data.draw(st.sampled_from("ABCxyz019-_.=+/ \n\x00é"))
    changed = TOKEN[:position] + character + TOKEN[position + data.draw(st.integers(0, 3)) :]
    if changed != TOKEN:
        with pytest.raises(TokenRejected):
            await FUZZED.verify(changed)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5c", "enc", "zip", "b64", "cty"]),
        st.sampled_from(["ES256", "RS256", "HS256", "none", "current", "rsa", "JWT", ""]) | _JSON,
    )
)
async def test_no_header_makes_anything_but_a_rejection(header: Mapping[str, Any]) -> None:
    await tried(signed(json.dumps(header), json.dumps(CLAIMS)), FUZZED)


@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "scope", "scp", "client_id", "azp", "x"]), _JSON))
async def test_no_claims_make_anything_but_a_rejection(claims: Mapping[str, Any]) -> None:
    await tried(signed('{"alg":"ES256","kid":"current"}', json.dumps(CLAIMS | dict(claims))), FUZZED)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "key_ops", "d"]),
            st.sampled_from(["EC", "RSA", "P-256", "sig", "current", "AQAB", public()["x"], public(RSA_MINT)["n"]]) | _JSON,
        )
        | _JSON,
        max_size=3,
    )
)
async def test_no_entries_of_a_key_set_disturb_a_key_that_is_good(entries: list[Any]) -> None:
    await tried(TOKEN, verifier({"keys": [*entries, public()]}))
