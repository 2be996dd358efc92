"""Each block of code on the pages runs, or has the form of what it says it is."""

import ast
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from code_blocks import COMMON, PRELUDES, RUN_PAGES, Block, blocks, commands
from waiting import PATIENCE

from fhir_bulk_middleware import Settings, cli

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
BLOCKS = list(blocks())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

NO_CODE: dict[str, str] = {
    "text": "what a program prints, or a list",
}
"""Languages whose blocks are neither run nor have a form, and why."""

READ_BY_TESTS: dict[str, str] = {
    "sql": "a server that runs it is in the test",
    "nginx": "nginx itself reads it in the test",
}
"""Languages whose blocks a test of their page reads, so that one of `tests` must name the page."""

_SYNTAX = r"\[ ! { } do done done; export fi if read then until while"
_PROGRAMS = "cat|cd|cp|curl|diff|echo|false|grep|mkdir|pg_dump|printf|procrastinate|sed|sha256sum|sleep|taskiq|tr|true"
ORDINARY = re.compile(rf"{_SYNTAX.replace(' ', '|')}|{_PROGRAMS}")
"""Programs that are not ours. A script that uses another one needs a check of it in `PROGRAMS`, or a place here."""


# --- Forms ---


def of_python(block: Block) -> None:
    ast.parse(block.text)


def of_ini(block: Block) -> None:
    """Variables of the environment for our settings."""
    variables = dict(line.split("=", 1) for line in block.text.splitlines())
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        settings = Settings.from_environment()
    fields = {name.removeprefix("FHIR_BULK_").lower().partition("__")[0] for name in variables}
    assert fields <= settings.model_fields_set


def of_shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    defined = set(re.findall(r"^(\w+)\(\)", "".join(each.text for each in BLOCKS if each.page == block.page), re.MULTILINE))
    for words in commands(block.text):
        program = words[0].rpartition("bin/")[2]
        if program in PROGRAMS:
            PROGRAMS[program](words[1:], block)
        elif program.startswith(".ci/"):
            assert os.access(ROOT / program, os.X_OK), program
        else:
            assert program in defined or ORDINARY.fullmatch(program), f"what does {program!r} do? say so in PROGRAMS or ORDINARY"


def of_fhir_bulk(words: list[str], _: Block) -> None:
    cli.parser().parse_args([word for word in words if word != "COMMAND"])


def of_uvicorn(words: list[str], block: Block) -> None:
    target = next(word for word in words if ":" in word)
    module, _, name = target.partition(":")
    places = [folder / f"{module.replace('.', '/')}.py" for folder in ((ROOT / block.page).parent, EXAMPLES)]
    source = next((place for place in places if place.exists()), None)
    assert source is not None, f"{target} is no module of the example"
    defined = {getattr(node, "name", None) for node in ast.parse(source.read_text()).body}
    assigned = {
        ast.unparse(each) for node in ast.parse(source.read_text()).body if isinstance(node, ast.Assign) for each in node.targets
    }
    assert name in defined | assigned, f"{source} has no {name}"


def of_python_command(words: list[str], block: Block) -> None:
    if words[0] == "-c":
        ast.parse(words[1])
    elif words[0] == "-m":
        found = [
            folder for folder in (ROOT, EXAMPLES, (ROOT / block.page).parent) if (folder / words[1].replace(".", "/")).exists()
        ]
        found += [folder for folder in (EXAMPLES,) if (folder / f"{words[1].replace('.', '/')}.py").exists()]
        assert found or words[1] == "venv" or importlib.util.find_spec(words[1].partition(".")[0]), words[1]
    else:
        assert (ROOT / words[0]).exists(), words[0]


def of_pip(words: list[str], _: Block) -> None:
    named = [
        extra
        for word in words
        for found in re.findall(r"(?:fhir-bulk-middleware|^\.)\[([\w,]+)\]", word)
        for extra in found.split(",")
    ]
    assert set(named) <= set(EXTRAS), words


def of_pytest(words: list[str], block: Block) -> None:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-p":
            assert importlib.util.find_spec(word), word
        elif word.endswith(".py") and "NAME" not in word:
            assert any((folder / word).exists() for folder in (ROOT, EXAMPLES, (ROOT / block.page).parent)), word


PROGRAMS: dict[str, Callable[[list[str], Block], None]] = {
    "fhir-bulk": of_fhir_bulk,
    "uvicorn": of_uvicorn,
    "python": of_python_command,
    "python3": of_python_command,
    "pip": of_pip,
    "pytest": of_pytest,
}
"""How the words of a command are checked, by program."""

FORMS: dict[str, Callable[[Block], object]] = {
    "ini": of_ini,
    "json": lambda block: json.loads(block.text),
    "python": of_python,
    "sh": of_shell,
    "toml": lambda block: tomllib.loads(block.text),
    "yaml": lambda block: yaml.safe_load(block.text),
}
"""How a block is checked, by language."""


@functools.cache
def naming(page: str) -> list[Path]:
    return [path for path in (ROOT / "tests").rglob("test_*.py") if Path(page).name in path.read_text()]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in FORMS], ids=str)
def test_a_block_has_the_form_of_its_language(block: Block) -> None:
    FORMS[block.language](block)


def test_each_block_has_a_language_that_is_checked_or_a_reason() -> None:
    assert len(BLOCKS) > 40
    unknown = {str(block): block.language for block in BLOCKS if block.language not in FORMS | NO_CODE | READ_BY_TESTS}
    assert unknown == {}, "name the language behind the fence, and its check in FORMS"


def test_blocks_that_only_a_test_of_their_page_can_read_are_read_by_one() -> None:
    assert [str(block) for block in BLOCKS if block.language in READ_BY_TESTS and not naming(block.page)] == []


# --- Running ---


def test_python_on_the_pages_runs_in_a_fresh_process(tmp_path: Path) -> None:
    scripts: dict[str, list[str]] = {}
    for block in BLOCKS:
        if block.language == "python":
            scripts.setdefault(block.page, [COMMON, PRELUDES.get(block.page, "")]).append(block.text)
    assert len(scripts) > 10
    assert set(PRELUDES) <= set(scripts)
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN_PAGES, tmp_path],
        input=json.dumps(scripts),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {}, "define what the page presupposes in PRELUDES of tests/support/code_blocks.py"
