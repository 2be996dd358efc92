"""The records of a remove-all job: one line for each resource, from which its result is made."""

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
        version: the id and version that were frozen.
        outcome: the outcome of its removal.
    """

    version: Version
    outcome: DeleteOutcome

    def line(self) -> bytes:
        """The record as a line of a part."""
        return compact_json([self.version.id, self.version.version, self.outcome.name]).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> "Record":
        """The record of a line of a part."""
        id_, version, outcome = json.loads(line)
        return cls(Version(id_, version), DeleteOutcome[outcome])
