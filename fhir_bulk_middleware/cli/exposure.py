"""What a person should know who makes `fhir-bulk serve` reachable for others."""

import argparse
from urllib.parse import urlsplit

from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.loopback import is_loopback, plain_beyond_loopback

__all__ = ["warnings"]


def warnings(given: argparse.Namespace, state: State) -> list[str]:
    """Sentences for the greeting and the log; none for a server that only its own machine can reach.

    Args:
        given: the command line.
        state: has the development key.
    """
    url = given.public_base_url
    listens_beyond = given.fd is None and not is_loopback(given.host)
    known_beyond = url is not None and not is_loopback(urlsplit(url).hostname or "")
    found = []
    if plain_beyond_loopback(url) or (listens_beyond and url is None):
        found.append(
            f"Plain HTTP at {url or given.host}: tokens and patient data can be read on their way. "
            "Put a proxy with TLS in front, and name its https URL with --public-base-url."
        )
    if (listens_beyond or known_beyond) and given.jwks is None and not given.client:
        found.append(
            f"The tokens are signed with the development key {state.key}, and whoever can read that file can be anybody. "
            "Use --jwks or --client for a server that others can reach."
        )
    return found
