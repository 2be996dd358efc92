"""The text of the statements that SQLite gets."""

import ast
import re
from pathlib import Path

import fhir_bulk_middleware

_PACKAGE = Path(fhir_bulk_middleware.__file__).parent
_STATEMENT = re.compile(r"\b(?:SELECT|INSERT|UPDATE|DELETE)\b")
_NUMBERED = re.compile(r"\?\d")


def test_no_statement_numbers_its_placeholders() -> None:
    """Python 3.12.0 to 3.12.3 take `?1` for a name and warn, which ends the work of a host that turns warnings into errors."""
    statements, numbered = 0, []
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _STATEMENT.search(node.value):
                statements += 1
                if _NUMBERED.search(node.value):
                    numbered.append(f"{path.relative_to(_PACKAGE)}:{node.lineno}")
    assert statements > 100
    assert not numbered
