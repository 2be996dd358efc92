"""Key sets, and the selection of the public key for a token's header.

python-jose tries all keys of a set, fails on unknown key types, and ignores `kid` and `use`. So this module selects one key and
builds it from its public members only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError

from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.jose.encoding import from_base64url, json_object

__all__ = ["ALGORITHMS", "KeySet", "VerificationKey"]

_RSA = ("RS256", "RS384", "RS512")
_BY_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

ALGORITHMS = (*_RSA, *_BY_CURVE.values())
"""The supported signature algorithms; all are asymmetric."""

_RSA_BITS = range(2048, 16384 + 1)
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class _Unusable(Exception):  # noqa: N818 - an unusable key is not an error of the set
    """A key that cannot verify tokens; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key.

    Attributes:
        kid: its `kid`, or None.
        public: its public members, which identify the key.
        by_algorithm: prepared verifiers by algorithm.
    """

    kid: str | None
    public: tuple[tuple[str, str], ...] = field(repr=False)
    by_algorithm: Mapping[str, Key] = field(repr=False, hash=False, compare=False)
    algorithms: frozenset[str]

    @classmethod
    def parse(cls, entry: object) -> Self:
        """Parse a JWK (RFC 7517, section 4).

        Raises:
            _Unusable: the key is not for signatures, too weak, of an unsupported type, or malformed.
        """
        if not isinstance(entry, Mapping):
            raise _Unusable("not an object")
        if _PRIVATE_MEMBERS & entry.keys():
            raise _Unusable("holds secret members, so anybody could have signed with it")
        if entry.get("use", "sig") != "sig":
            raise _Unusable("its use is not sig")
        operations = entry.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise _Unusable("its key_ops lack verify")
        kid = entry.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise _Unusable("its kid is not a string")
        algorithms = _algorithms(entry)
        named = entry.get("alg")
        if named is not None:
            algorithms = tuple(algorithm for algorithm in algorithms if algorithm == named)
        if not algorithms:
            raise _Unusable("its alg is not one of its type that we know")
        public = _public(entry)
        return cls(kid, tuple(public.items()), _built(public, algorithms), frozenset(algorithms))

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether the signature is valid for this key and algorithm, which must be in `by_algorithm`."""
        try:
            return self.by_algorithm[algorithm].verify(signed, signature)
        except Exception:  # noqa: BLE001 - hostile input to a lax library: any exception means an invalid signature
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """An immutable set of an issuer's keys.

    Attributes:
        keys: the keys that can verify tokens.
        kids: each `kid` in the set, including unusable keys.
        passed_over: the reasons why other keys are unusable, for the log.
    """

    keys: tuple[VerificationKey, ...]
    kids: frozenset[str]
    passed_over: tuple[str, ...] = ()

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Parse a JWK Set (RFC 7517, section 5), skipping unusable keys.

        Raises:
            ValueError: the set has no list of keys.
        """
        entries = document.get("keys")
        if not isinstance(entries, list | tuple):
            raise ValueError("a key set needs a list `keys`")  # noqa: TRY004 - the document is malformed
        keys: dict[VerificationKey, None] = {}  # a duplicate entry is one key
        kids: set[str] = set()
        passed_over: list[str] = []
        for number, entry in enumerate(entries):
            if isinstance(entry, Mapping) and isinstance(entry.get("kid"), str):
                kids.add(entry["kid"])
            try:
                keys[VerificationKey.parse(entry)] = None
            except _Unusable as why:
                passed_over.append(f"key {number}: {why}")
        return cls(tuple(keys), frozenset(kids), tuple(passed_over))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse a JWK Set from JSON text.

        Raises:
            ValueError: the text is not a JWK Set.
        """
        return cls.parse(json_object(data))

    def choose(self, algorithm: str, kid: str | None) -> VerificationKey:
        """The only key for a token with this `alg` and `kid`.

        Without a `kid` exactly one key must support the algorithm.

        Raises:
            TokenRejected: no key or several keys match.
        """
        fitting = [key for key in self.keys if algorithm in key.algorithms and kid in (None, key.kid)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise TokenRejected(f"{len(fitting)} keys of the set fit its {'alg' if kid is None else 'kid and alg'}")
        if kid is not None and kid not in self.kids:
            raise TokenRejected("its kid is not in the key set")
        raise TokenRejected("; ".join(("no key of the set fits its alg and kid", *self.passed_over)))


def _algorithms(entry: Mapping[str, Any]) -> tuple[str, ...]:
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            return _RSA
        case "EC", str(curve) if curve in _BY_CURVE:
            return (_BY_CURVE[curve],)
        case _:
            raise _Unusable("its type or curve is not known")


def _public(entry: Mapping[str, Any]) -> dict[str, str]:
    public = {"kty": entry["kty"]} | {name: entry.get(name) for name in _PUBLIC_MEMBERS[entry["kty"]]}
    if not all(isinstance(value, str) for value in public.values()):
        raise _Unusable("a member is missing or not a string")
    public = {name: value.rstrip("=") for name, value in public.items()}
    try:
        numbers = {name: int.from_bytes(from_base64url(public[name])) for name in public.keys() - {"kty", "crv"}}
    except ValueError as error:
        raise _Unusable(str(error)) from None
    if "n" in numbers and numbers["n"].bit_length() not in _RSA_BITS:
        raise _Unusable(f"an RSA key must have {_RSA_BITS.start} to {_RSA_BITS[-1]} bits")
    return public


def _built(public: dict[str, str], algorithms: tuple[str, ...]) -> dict[str, Key]:
    try:
        return {algorithm: jwk.construct(public, algorithm) for algorithm in algorithms}
    except (JOSEError, ValueError, TypeError, OverflowError) as error:
        raise _Unusable(f"not a key: {type(error).__name__}") from None
