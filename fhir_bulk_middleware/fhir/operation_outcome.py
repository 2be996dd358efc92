"""OperationOutcomes: how a refusal, or a line of an error file, is written as a FHIR resource."""

from enum import StrEnum
from typing import Any

__all__ = ["TextElement", "one_line", "operation_outcome"]

_LONGEST_PART = 120
_NO_FHIR_TEXT = {code: "\ufffd" for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000)) if chr(code) not in "\t\n\r"}
_CONTROLS = _NO_FHIR_TEXT | dict.fromkeys(map(ord, "\t\n\r"), "\ufffd")


class TextElement(StrEnum):
    """Which element of an issue carries the text."""

    DETAILS = "details"
    DIAGNOSTICS = "diagnostics"
    BOTH = "both"


def operation_outcome(
    element: TextElement, severity: str, code: str, text: str, *, part: str | None = None, id_: str | None = None
) -> dict[str, Any]:
    """An OperationOutcome with one issue.

    Args:
        element: carries `text`.
        severity: `issue.severity`.
        code: `issue.code`.
        text: what was wrong and what would be right; characters that FHIR does not allow are replaced.
        part: the part of the request that the issue is about, cut to 120 characters.
        id_: of the OperationOutcome, None for one without.
    """
    text = text.translate(_NO_FHIR_TEXT)
    issue: dict[str, Any] = {"severity": severity, "code": code}
    if element is not TextElement.DIAGNOSTICS:
        issue["details"] = {"text": text}
    if element is not TextElement.DETAILS:
        issue["diagnostics"] = text
    if part is not None:
        issue["expression"] = [one_line(part)[:_LONGEST_PART]]
    return {"resourceType": "OperationOutcome", **({} if id_ is None else {"id": id_}), "issue": [issue]}


def one_line(text: str) -> str:
    """`text` with its control characters replaced, so that what a client sent cannot steer a terminal or a log viewer."""
    return text.translate(_CONTROLS)
