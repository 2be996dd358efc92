"""The tables of the pages that are derived from the code.

`python tests/support/pages.py` writes them; a test compares them. A table stands between two comments, `<!-- NAME: generated -->`
and `<!-- end -->`.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fhir_bulk_middleware
from fhir_bulk_middleware import testing
from fhir_bulk_middleware.caps import CAPS
from fhir_bulk_middleware.checks.report import CHECKS, DATA_CHECKS
from fhir_bulk_middleware.contract import deletes, running, storage
from fhir_bulk_middleware.contract.query import EveryPatient, Level
from fhir_bulk_middleware.delete.policy import AIDBOX, FHIR_R4, FHIR_R6_DRAFT, Cell, DeletePolicy, Shows
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.export.type_origins import TypeOrigins
from fhir_bulk_middleware.export.types import listed
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.search.parameter_index import INDEXED
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.routes import KICK_OFF_PATHS, ONE_PATIENT_PATH
from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation
from fhir_bulk_middleware.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

_IDS = r"(?:laws? \d+|[A-Z]{2}-\d+)(?:(?:, | and | to )(?:law )?(?:[A-Z]{2}-)?\d+)*"
_CITED = re.compile(rf" \({_IDS}\)|(?<=\(){_IDS}[,;] |, {_IDS}(?=\))")
"""Ids of laws and requirements, which are for readers of the code."""
_RUNS = re.compile(r"\b[Rr]uns in\b|is called in the server")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def plain(docstring: str | None) -> list[str]:
    """The paragraphs of a docstring as they read on a page: each on one line, without ids."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return [_CITED.sub("", " ".join(paragraph.split())) for paragraph in paragraphs]


def prose(docstring: str | None) -> str:
    """A docstring without its examples, which are indented."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(text for text in paragraphs if not text.startswith("    "))


def settings() -> str:
    """Every setting, in the order of its definition."""
    (model,) = [node for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef)]
    rows = []
    for field, after in zip(model.body, model.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            name, default = field.target.id, Settings.model_fields[field.target.id].default
            shown = "none" if default is None else str(default) if isinstance(default, bool | str) else f"{default:,}"
            rows.append([f"`{name}`", shown, " ".join(plain(textwrap.dedent(ast.literal_eval(after.value))))])
    assert len(rows) == len(Settings.model_fields)
    return table(["Name", "Default", "Meaning"], rows)


def caps() -> str:
    """Everything that a request can make large, and what becomes of more."""
    rows = []
    for cap in CAPS:
        of_settings = isinstance(cap.limit, str)
        limit = getattr(Settings(), cap.limit) if isinstance(cap.limit, str) else cap.limit
        answer = None if cap.reason is None else STANDARD.answer(Operation.KICK_OFF, cap.reason)
        rows.append(
            [
                cap.what,
                f"{f'{limit:,g}' if isinstance(limit, float) else f'{limit:,}'} {cap.unit}",
                f"`{cap.limit}`" if of_settings else "",
                cap.beyond if answer is None else f"{answer.status}, `{answer.code}`",
            ]
        )
    return table(["What", "Most", "Setting", "Beyond it"], rows)


def protocols() -> str:
    """Every protocol that an adapter can implement: what it brings, and where its methods run."""
    rows = []
    for module in (storage, deletes, running):
        for name, protocol in vars(module).items():
            if name.startswith("Supports") and protocol.__module__ == module.__name__:
                first, *others = plain(prose(protocol.__doc__))
                sentences = [sentence for text in others for sentence in re.split(r"(?<=\.) (?=[A-Z`])", text)]
                runs = next(text for text in sentences if _RUNS.search(text)).removeprefix("Runs in ").rstrip(".")
                without = next((text for text in sentences if text.startswith(("Without it", "Without this"))), "")
                methods = ", ".join(f"`{method}`" for method in vars(protocol) if not method.startswith("_"))
                rows.append([f"`{name}`", methods, f"{first} {without}".rstrip(), runs])
    return table(["Protocol", "Methods", "Meaning", "Runs in"], rows)


def suites() -> str:
    """Every suite of the conformance kit."""
    rows = []
    for found in pkgutil.iter_modules(testing.__path__):
        module = importlib.import_module(f"{testing.__name__}.{found.name}")
        for name, suite in vars(module).items():
            if name.endswith("Suite") and suite.__module__ == module.__name__ and name not in {"Suite", "StorageSuite"}:
                rows.append([f"`{name}`", f"`{found.name}`", plain(suite.__doc__)[0]])
    return table(["Suite", "Module of `fhir_bulk_middleware.testing`", "Checks"], rows)


def checks() -> str:
    """Every check of `fhir-bulk check`, with the protocol that it is about."""
    needs = {check.name: f"`{check.needs.__name__}`" for check in DATA_CHECKS if check.needs is not None}
    return table(["Check", "Asks", "Needs"], [[name, promise, needs.get(name, "")] for name, promise in CHECKS])


def dialects() -> str:
    """What tells the dialects from each other: a row for each difference, a column for each dialect."""
    shown = list(DIALECTS.values())
    rows = [[name, *map(cell, shown)] for name, cell in _CELLS.items()]
    return table(["", *(f"`{_constant(dialect)}`" for dialect in shown)], rows)


def _constant(value: object) -> str:
    return next(name for name in dir(fhir_bulk_middleware) if getattr(fhir_bulk_middleware, name) is value)


def _kick_off(level: Level) -> Callable[[Dialect], str]:
    return lambda dialect: ", ".join(dialect.kick_off.get(level, ())) or "not offered"


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


_CELLS: dict[str, Callable[[Dialect], str]] = {
    "name on the command line": lambda dialect: f"`{dialect.name}`",
    **{f"kick-off at `{path}`": _kick_off(level) for level, path in KICK_OFF_PATHS.items()},
    f"kick-off at `{ONE_PATIENT_PATH}`": lambda dialect: (
        _kick_off(Level.PATIENT)(dialect) if dialect.one_patient else "not offered"
    ),
    "headers that a kick-off needs": lambda dialect: _listed([header.value for header in dialect.required_headers]),
    "parameters beyond those of STU2": lambda dialect: _listed([*(dialect.parameters - DIALECTS["stu2"].parameters)]),
    "several values of a parameter": lambda dialect: f"by {dialect.lists.name.lower()}",
    "`Prefer: separate-export-status`": lambda dialect: "honoured" if dialect.separate_export_status else "ignored",
    "polling location": lambda dialect: f"`{dialect.status_path}`",
    "list of one's own jobs": lambda dialect: "not offered" if dialect.jobs_path is None else f"`{dialect.jobs_path}`",
    "file": lambda dialect: f"{', '.join(dialect.file_methods)} `{dialect.file_path}`",
    "poll of a running job": lambda dialect: str(dialect.in_progress),
    "`X-Progress`": lambda dialect: dialect.progress.name.lower(),
    "`transactionTime`": lambda dialect: f"{dialect.precision.name.lower()}, {dialect.zone or 'local time'}",
    "`request` in the manifest": lambda dialect: "yes" if dialect.manifest.request else "no",
    "list of OperationOutcome files": lambda dialect: f"`{dialect.manifest.errors}`",
    "`deleted` list": lambda dialect: "yes" if dialect.manifest.deleted else "no",
    "answer to a cancel": lambda dialect: f"{dialect.cancelled}{', OperationOutcome' if dialect.cancelled_answer else ''}",
    "retention": lambda dialect: "`Settings.retention`" if dialect.retention is None else f"{dialect.retention:,} s",
}


def group_types() -> str:
    """Every type that an export of a group of patients can hold, and how it gets there."""
    shown = [_ways(FhirVersion.R4), _ways(FhirVersion.R5)]
    types = sorted(shown[0].keys() | shown[1].keys())
    return table(["Type", "R4", "R5"], [[type_, *(ways.get(type_, "not exported") for ways in shown)] for type_ in types])


def _ways(version: FhirVersion) -> dict[str, str]:
    known, origins = definitions(version), TypeOrigins(version, EveryPatient())
    paths, forgotten = CompartmentMembership(version).paths("Patient"), known.forgotten_paths
    ways = {}
    for type_ in origins.possible(known.resource_types):
        if type_ == "Patient":
            ways[type_] = "selected"
        elif type_ in paths:
            ways[type_] = f"{'its patient' if type_ in forgotten else 'compartment'}: {_listed(paths[type_])}"
        else:
            naming = [other for other in origins.possible(known.resource_types) if type_ in known.reference_targets(other)]
            ways[type_] = f"context, named by {listed(set(naming) - {type_} or naming)}"
    return ways


def policies() -> str:
    """The answer to each outcome of a delete, a column for each policy."""
    rows = [[f"`{outcome.name}`", *(_cell(policy.cells[outcome]) for policy in _POLICIES)] for outcome in DeleteOutcome]
    asked: dict[str, Callable[[DeletePolicy], str | None]] = {
        "asks for no content": lambda policy: policy.no_content_parameter and f"`{policy.no_content_parameter}=true`",
        "asks what would be removed": lambda policy: policy.dry_run_parameter and f"`{policy.dry_run_parameter}=true`",
        "asks to remove all matches": lambda policy: policy.remove_all_header and f"`{': '.join(policy.remove_all_header)}`",
    }
    rows += [[what, *(say(policy) or "not offered" for policy in _POLICIES)] for what, say in asked.items()]
    return table(["", *(f"`{_constant(policy)}`" for policy in _POLICIES)], rows)


def indexed_parameters() -> str:
    """The indexed search parameters of each resource type."""
    return table(["Type", "Parameters"], [[type_, ", ".join(f"`{name}`" for name in names)] for type_, names in INDEXED.items()])


_POLICIES = (AIDBOX, FHIR_R4, FHIR_R6_DRAFT)


def _cell(cell: Cell) -> str:
    shown = {Shows.NOTHING: "", Shows.REMOVED: ", what was removed", Shows.OUTCOME: f", `{cell.code}`"}
    return f"{cell.status}{shown[cell.shows]}"


TABLES: dict[str, Callable[[], str]] = {
    ".github/caps.md": caps,
    "examples/adapters.md": protocols,
    "examples/behaviour.md": indexed_parameters,
    "examples/check.md": checks,
    "examples/conformance-kit.md": suites,
    "examples/deletes.md": policies,
    "examples/dialects.md": dialects,
    "examples/group-exports.md": group_types,
    "examples/settings.md": settings,
}
"""By page, the function that makes its table; the function's name is the table's."""


def renewed(page: str) -> str:
    """The text of a page with its table as the code says today."""
    make = TABLES[page]
    begin, end = f"<!-- {make.__name__}: generated -->\n", "<!-- end -->\n"
    before, _, rest = (ROOT / page).read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{make()}\n{end}{after}"


if __name__ == "__main__":
    for each in TABLES:
        (ROOT / each).write_text(renewed(each), "utf-8")
