"""`fhir-bulk openapi`: prints the OpenAPI document of a dialect."""

import argparse
import json
import sys

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Principal, TokenRejected
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="standard", help="HTTP dialect (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    # All routes of the dialect, with an adapter that implements all protocols; it serves no request.
    mount = BulkData(
        resources=MemoryResourceStore(),
        verifier=_Nobody(),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        dialect=DIALECTS[given.dialect],
        deletes=AIDBOX,
    )
    json.dump(mount.openapi(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


class _Nobody:
    """A verifier that rejects all tokens."""

    async def verify(self, token: str) -> Principal:
        """Reject the token.

        Raises:
            TokenRejected: always.
        """
        del token
        raise TokenRejected("nobody is let in")
