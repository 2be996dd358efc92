"""Which tests prove which law and requirement.

`python tests/requirements/matrix.py` prints each test, and with `--write` renews `proofs.md`. The ids are those of `laws.md` and
`requirements.md` beside this file. A test cites an id in its docstring, or in that of its module or class.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
ROOT = TESTS.parent
KIT = ROOT / "fhir_bulk_middleware" / "testing"
PROOFS = HERE / "proofs.md"

_KINDS = "AS|CD|CS|DL|DR|EL|FR|GR|KO|MF|PT|RD|SD|SE|ST|TF"
_CITED = re.compile(rf"\b({_KINDS})-(\d+)(?: to (?:\1-)?(\d+))?")
_LAW = re.compile(r"\b[Ll]aws? (\d+(?:(?:, | and | to )\d+)*)")
_LISTED = re.compile(rf"^\| ((?:{_KINDS})-\d+) \|", re.MULTILINE)
_LISTED_LAW = re.compile(r"^\| (\d+) \|", re.MULTILINE)
_TEXTS = ("*.py", "*.md", "*.sql")

NOT_OURS: dict[str, str] = {
    "KO-11": "read and search of Group belong to the host",
    "KO-13": "a statement about the IG; dialects offer the single patient's export, or answer 404",
    "KO-71": "NDJSON is the only format",
    "KO-79": "guidance to clients",
    "KO-116": "excluded by KO-110",
    "ST-06": "the server has no sessions; 429 suffices",
    "ST-07": "a rule for clients",
    "ST-23": "links do not expire before the job does",
    "GR-02": "a pattern for clients",
    "GR-04": "the Bulk Cohort API is optional and not offered",
    "FR-06": "a rule for clients; every file of ours wants a token",
    "FR-21": "no manifest of ours says that no token is needed",
    "SE-01": "TLS is terminated by the host's server",
    "SE-02": "a recommendation of an authorisation scheme",
    "SE-15": "an allowance; by setting",
    "SE-24": "tokens are verified by signature, not by introspection",
    "AS-03": "the asynchronous Bundle pattern belongs to deletes",
    "EL-04": "an allowance; only resources of unknown types are returned whole",
    "PT-05": "the parameter is supported",
    "SE-12": "rows out of rights are withheld silently, which is allowed",
    "FR-22": "guidance on large binaries",
    "RD-15": "a delete on the whole system is not offered; the path belongs to the host",
    "RD-16": "deletes of history are an R6 draft and not offered",
    "RD-17": "$purge is not offered",
    "CD-08": "a contradiction without effect",
    "AS-09": "editorial: it says where the pattern is described",
    "AS-10": "another vendor's operation",
    "CS-08": "two versions are two mounts",
}
"""Ids that need no test of ours, and why."""


def known() -> list[str]:
    """All ids, laws first, in the order of their documents."""
    laws = [f"law {number}" for number in _LISTED_LAW.findall((HERE / "laws.md").read_text("utf-8"))]
    return laws + _LISTED.findall((HERE / "requirements.md").read_text("utf-8"))


def cited_in(text: str) -> Iterator[str]:
    """The ids that a docstring cites, spans written out."""
    for kind, first, last in _CITED.findall(text):
        for number in range(int(first), int(last or first) + 1):
            yield f"{kind}-{number:02}"
    for several in _LAW.findall(text):
        numbers = [int(number) for number in re.findall(r"\d+", several)]
        if " to " in several:
            numbers = list(range(numbers[0], numbers[-1] + 1))
        yield from (f"law {number}" for number in numbers)


def citations() -> dict[str, set[str]]:
    """By id, the tests that cite it, as `file::test`."""
    found: dict[str, set[str]] = {}
    for path in sorted([*TESTS.rglob("test_*.py"), *KIT.glob("*.py")]):
        module = ast.parse(path.read_text("utf-8"))
        for name, text in _docstrings(module, ""):
            for requirement in cited_in(text):
                found.setdefault(requirement, set()).add(f"{path.relative_to(TESTS.parent)}{name}")
    return found


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}::{child.name}")


def everywhere() -> dict[str, set[str]]:
    """By id, the files of the repository that cite it, in code, tests, examples and documents."""
    found: dict[str, set[str]] = {}
    folders = [ROOT / "fhir_bulk_middleware", TESTS, ROOT / "examples", ROOT / ".github"]
    paths = [path for folder in folders for kind in _TEXTS for path in folder.rglob(kind)]
    for path in [*paths, ROOT / "README.md", ROOT / "CHANGELOG.md"]:
        if path.parent != HERE:
            for name in cited_in(path.read_text("utf-8")):
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def proofs() -> str:
    """The text of `proofs.md`: the files of tests that cite each id, or why there are none."""
    found = citations()
    lines = [
        "# Proofs",
        "",
        "The files of tests that prove each law and requirement; made by `python tests/requirements/matrix.py --write`.",
        "",
        "| Id | Tests |",
        "| --- | --- |",
    ]
    for name in known():
        files = sorted({test.partition("::")[0] for test in found.get(name, ())})
        shown = ", ".join(f"`{file}`" for file in files) or f"none: {NOT_OURS.get(name, 'missing')}"
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table, or write the document; the exit code is 1 if an id has neither a test nor a reason."""
    if sys.argv[1:] == ["--write"]:
        PROOFS.write_text(proofs(), "utf-8")
        return 0
    found = citations()
    open_ids = [name for name in known() if name not in found and name not in NOT_OURS]
    for name in known():
        tests = sorted(found.get(name, ()))
        print(f"{name:8} {len(tests):3}  {tests[0] if tests else NOT_OURS.get(name, 'NO TEST')}")  # noqa: T201 - a command prints
        for test in tests[1:]:
            print(f"{'':13} {test}")  # noqa: T201
    print(f"\n{len(known()) - len(open_ids)} of {len(known())} have a test or a reason; open: {', '.join(open_ids) or 'none'}")  # noqa: T201
    return int(bool(open_ids))


if __name__ == "__main__":
    sys.exit(main())
