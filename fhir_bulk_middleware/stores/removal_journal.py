"""How stores journal removals, a letter for each outcome, and which ids a target allows."""

from collections.abc import Iterable

from fhir_bulk_middleware.contract.removal import Target
from fhir_bulk_middleware.fhir.search.values import TokenValue
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["ids_of", "letters", "outcomes"]

_LETTERS = {DeleteOutcome.DELETED: "D", DeleteOutcome.ALREADY_DELETED: "A", DeleteOutcome.VERSION_MISMATCH: "V"}
_OUTCOMES = {letter: outcome for outcome, letter in _LETTERS.items()}


def letters(found: Iterable[DeleteOutcome]) -> str:
    """The outcomes of a batch as text."""
    return "".join(_LETTERS[outcome] for outcome in found)


def outcomes(text: str) -> list[DeleteOutcome]:
    """The outcomes that `letters` was given."""
    return [_OUTCOMES[letter] for letter in text]


def ids_of(target: Target) -> list[str] | None:
    """The ids that can match if `_id` is a criterion; None for any id."""
    for criterion in target.criteria.criteria:
        if criterion.name == "_id" and criterion.modifier is None:
            return [value.code or "" for value in criterion.values if isinstance(value, TokenValue)]
    return None
