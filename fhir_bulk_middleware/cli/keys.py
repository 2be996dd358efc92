"""`fhir-bulk keys`: makes a client's key pair, and signs client assertions with it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.smart.assertion_signing import signed_assertion
from fhir_bulk_middleware.smart.assertions import ALGORITHMS, ASSERTION_LIFETIME

__all__ = ["add_options"]

_PUBLIC_MODE: Final = 0o644


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser("make", help="write a new private key, and the JWK Set with its public key for serve --client")
    action.add_argument("--private", type=Path, required=True, metavar="FILE", help="file for the private key (a JWK, mode 0600)")
    action.add_argument("--public", type=Path, required=True, metavar="FILE", help="file for the JWK Set with the public key")
    action.add_argument(
        "--algorithm", choices=sorted(ALGORITHMS), default="ES384", help="the key's signature algorithm (default: %(default)s)"
    )
    action.add_argument("--force", action="store_true", help="overwrite files that exist")
    action.set_defaults(run=_make)
    action = actions.add_parser("assertion", help="print a signed client assertion, which a token endpoint accepts once")
    action.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key, as `keys make` writes it")
    action.add_argument("--client-id", required=True, metavar="ID", help="the client's id, as it is registered")
    action.add_argument("--token-url", required=True, metavar="URL", help="the URL of the token endpoint")
    action.add_argument(
        "--seconds",
        type=int,
        default=ASSERTION_LIFETIME,
        metavar="N",
        help=f"lifetime of the assertion, 1 to {ASSERTION_LIFETIME} (default: %(default)s)",
    )
    action.set_defaults(run=_assertion)


def _make(given: argparse.Namespace) -> int:
    private, public = given.private, given.public
    if private.resolve() == public.resolve():
        raise Complaint("--private and --public: name two files")
    existing = [file for file in (private, public) if file.exists()]
    if existing and not given.force:
        files = " and ".join(map(str, existing))
        raise Complaint(f"{files} exists already; name another file, or overwrite it with --force (its old key is lost)")
    key = SigningKey(given.algorithm)
    try:
        key.save(private)
        public.write_text(f"{json.dumps(key.jwks, indent=2)}\n")
        public.chmod(_PUBLIC_MODE)  # whatever the umask: a server refuses public keys that others can write
    except OSError as error:
        raise Complaint(f"{private} and {public} cannot be written: {error.strerror}") from error
    sys.stdout.write(
        f"{private} holds the private key ({key.algorithm}); keep it secret.\n"
        f"{public} holds the public key; register it: fhir-bulk serve --client ID={public}\n"
    )
    return 0


def _assertion(given: argparse.Namespace) -> int:
    if not 1 <= given.seconds <= ASSERTION_LIFETIME:
        raise Complaint(f"--seconds: authorization servers accept assertions of 1 to {ASSERTION_LIFETIME} seconds")
    try:
        key = SigningKey.load(given.key)
    except OSError as error:
        raise Complaint(f"--key: {given.key}: {error.strerror}") from error
    except ValueError as error:
        raise Complaint(f"--key: {error}") from error
    if key.algorithm not in ALGORITHMS:
        raise Complaint(f"--key: {given.key} signs with {key.algorithm}; assertions need {' or '.join(ALGORITHMS)}")
    assertion = signed_assertion(key, given.client_id, given.token_url, now=system_clock(), seconds=given.seconds)
    sys.stdout.write(f"{assertion}\n")
    return 0
