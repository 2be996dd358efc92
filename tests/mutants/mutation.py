"""Running tests against a copy of the package that has one bug in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

_COPIED = (
    *("fhir_bulk_middleware", "tests", "examples", ".ci", ".github", ".site", ".pre-commit-config.yaml"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
)
_PASSED, _FAILED = 0, 1
_TAIL = 15


@dataclass(frozen=True, slots=True)
class Mutant:
    """A deliberate bug: one replacement in one file of the package.

    Attributes:
        name: unique, for the command line.
        breaks: the law or requirement id that does not hold any more.
        file: path below the package.
        old: text that occurs exactly once in the file.
        new: what it becomes.
        tests: paths, or node ids, of the tests that are expected to fail.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file, below the root of a checkout."""
        return Path("fhir_bulk_middleware", self.file)

    def applied(self, text: str) -> str:
        """The text of the file with the bug in it.

        Raises:
            ValueError: the old text does not occur exactly once, so the table is out of date.
        """
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: the text to replace occurs {found} times in {self.file}; bring the table up to date")
        return text.replace(self.old, self.new)


class Verdict(StrEnum):
    """What the tests said of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    UNFIT = "unfit"
    """The tests did not run to a verdict, for instance because a module could not be imported: the mutant proves nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict, and the last lines that the tests printed."""

    verdict: Verdict
    tail: str


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of the checkout without its history, removed on leaving."""
    place = folder / "copy"
    for name in _COPIED:
        source, target = ROOT / name, place / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis", ".venv", "build"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def mutated(place: Path, mutant: Mutant) -> Iterator[None]:
    """The bug is in the copy while the context is open."""
    path = place / mutant.path
    text = path.read_text("utf-8")
    path.write_text(mutant.applied(text), "utf-8")
    try:
        yield
    finally:
        path.write_text(text, "utf-8")


def run(place: Path, tests: Sequence[str], *, stop_at_first: bool = True) -> Outcome:
    """Run tests of a copy, against the package of that copy, in worker processes too."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-o", "timeout=600"]
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [*command, *(["-x"] if stop_at_first else []), *tests],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {_PASSED: Verdict.SURVIVED, _FAILED: Verdict.CAUGHT}
    tail = "\n".join(ended.stdout.splitlines()[-_TAIL:] + ended.stderr.splitlines()[-_TAIL:])
    return Outcome(verdicts.get(ended.returncode, Verdict.UNFIT), tail)
