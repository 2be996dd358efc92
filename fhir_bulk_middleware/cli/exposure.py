"""Warnings for a `fhir-bulk serve` that other machines can reach."""

import argparse
from urllib.parse import urlsplit

from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.loopback import is_loopback, plain_beyond_loopback

__all__ = ["warnings"]


def warnings(given: argparse.Namespace, state: State) -> list[str]:
    """The warnings for the terminal and the log; none for a server on loopback.

    Args:
        given: the parsed command line.
        state: the STATE folder, for the path of the development key.
    """
    url = given.public_base_url
    listens_beyond = given.fd is None and not is_loopback(given.host)
    known_beyond = url is not None and not is_loopback(urlsplit(url).hostname or "")
    found = []
    if plain_beyond_loopback(url) or (listens_beyond and url is None):
        found.append(
            f"Plain HTTP at {url or given.host}: the network can read tokens and patient data. "
            "Put a proxy with TLS in front, and pass its https URL as --public-base-url."
        )
    if (listens_beyond or known_beyond) and given.jwks is None and not given.client:
        found.append(
            f"The tokens are signed with the development key {state.key}, and whoever reads that file can make any token. "
            "Use --jwks or --client for a server that others can reach."
        )
    return found
