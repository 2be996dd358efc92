"""What a remove-all job keeps of each resource, one line each, until it is asked what came of it."""

import json
from dataclasses import dataclass

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.removal import Version
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One resource of a remove-all.

    Attributes:
        version: which, as it was frozen.
        outcome: what came of it.
    """

    version: Version
    outcome: DeleteOutcome

    def line(self) -> bytes:
        """As a line of a part."""
        return compact_json([self.version.id, self.version.version, self.outcome.name]).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> "Record":
        """From a line of a part."""
        id_, version, outcome = json.loads(line)
        return cls(Version(id_, version), DeleteOutcome[outcome])
