"""Prepares the drafts of NDJSON lines for a load, in this process or in helper processes.

A helper process (`drafting_process`) gets pickled batches on stdin and answers each on stdout.
"""

import itertools
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fhir_bulk_middleware.fhir.canonical import Canonical
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.drafts import Draft, draft
from fhir_bulk_middleware.stores.naming_index import NamingIndex

__all__ = ["Drafted", "Line", "MalformedLine", "Packed", "drafted", "drafts_of", "indexes_of", "packed"]

_PROCESS = "fhir_bulk_middleware.stores.drafting_process"

Line = tuple[int, bytes]
"""A line and its number, from 1."""

Drafted = list[tuple[int, Draft]]
"""The drafts of a batch of lines, with the numbers of the lines."""

Packed = list[tuple[int, tuple[str, str, bytes, bytes], tuple[Any, ...]]]
"""As `Drafted`, in plain values."""


class MalformedLine(ValueError):  # noqa: N818 - the line is wrong, not the program
    """A line cannot be loaded.

    Attributes:
        number: its number.
        problem: what is wrong with it.
    """

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")
        self.number = number
        self.problem = problem

    def __reduce__(self) -> tuple[type[Self], tuple[int, str]]:
        return type(self), (self.number, self.problem)


def drafted(
    batches: Iterable[Sequence[Line]],
    version: FhirVersion,
    base_urls: Collection[str],
    helpers: int,
) -> Generator[Drafted]:
    """The drafts of each batch, in order.

    Helpers parse a batch while the caller writes the one before. They are started for the second batch.

    Args:
        batches: the lines.
        version: the FHIR release of the resources.
        base_urls: base URLs below which an absolute reference is the store's own.
        helpers: the number of helper processes; with 0 this process parses.

    Raises:
        MalformedLine: a line is not a resource; the batches before were given.
    """
    indexes = indexes_of(version, base_urls)
    if not helpers:
        for batch in batches:
            yield drafts_of(batch, *indexes)
        return
    remaining = iter(batches)
    for first in itertools.islice(remaining, 1):
        yield drafts_of(first, *indexes)
    busy: deque[_Helper] = deque()
    with ExitStack() as running:
        for batch in remaining:
            done = None
            if len(busy) < helpers:
                helper = running.enter_context(_Helper(version, base_urls))
            else:
                helper = busy.popleft()
                done = helper.answer()
            helper.ask(batch)
            busy.append(helper)
            if done is not None:
                yield done
        while busy:
            yield busy.popleft().answer()


def indexes_of(version: FhirVersion, base_urls: Collection[str]) -> tuple[CompartmentMembership, NamingIndex, ParameterIndex]:
    """What drafts are made with."""
    return CompartmentMembership(version, base_urls), NamingIndex(version, base_urls), ParameterIndex(version)


def drafts_of(
    batch: Sequence[Line], compartments: CompartmentMembership, index: NamingIndex, parameters: ParameterIndex
) -> Drafted:
    """The drafts of one batch.

    Raises:
        MalformedLine: a line is not a resource.
    """
    found = []
    for number, line in batch:
        try:
            found.append((number, draft(line, compartments, index, parameters)))
        except ValueError as error:
            raise MalformedLine(number, str(error)) from None
    return found


def packed(drafts: Drafted) -> Packed:
    """The drafts for the way to another process: pickling plain values takes a third of the time."""
    return [(number, new.canonical.parts, new[1:]) for number, new in drafts]


class _Helper:
    """A helper process. It has one task at a time: with two, both ends could wait for the other to read."""

    def __init__(self, version: FhirVersion, base_urls: Collection[str]) -> None:
        # PYTHONPATH makes it import from where this process does. A session of its own keeps Ctrl-C in a terminal from it.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - starts a module of this package
            [sys.executable, "-P", "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self._send((version, tuple(base_urls)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._process.kill()  # it holds nothing that a kill could damage
        self._process.communicate()

    def ask(self, batch: Sequence[Line]) -> None:
        """Send a batch."""
        self._send(batch)

    def answer(self) -> Drafted:
        """Wait for the drafts of the batch.

        Raises:
            MalformedLine: a line is not a resource.
            ChildProcessError: the process ended.
        """
        if self._process.stdout is None:
            raise AssertionError("a helper has pipes")
        try:
            found: Packed | MalformedLine = pickle.load(self._process.stdout)  # noqa: S301 - from a process of ours
        except (EOFError, pickle.UnpicklingError):
            raise ChildProcessError(f"a process that parses lines ended with status {self._process.wait()}") from None
        if isinstance(found, MalformedLine):
            raise found
        return [(number, Draft(Canonical(*parts), *rest)) for number, parts, rest in found]

    def _send(self, task: object) -> None:
        if self._process.stdin is None:
            raise AssertionError("a helper has pipes")
        try:
            pickle.dump(task, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildProcessError(f"a process that parses lines ended with status {self._process.wait()}") from None
