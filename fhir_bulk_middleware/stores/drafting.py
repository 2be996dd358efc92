"""Prepares the drafts of NDJSON lines for a load, in this process or in helper processes.

A helper process (`drafting_process`) gets batches on stdin and answers each on stdout, as plain values that `marshal` writes.
Both ends are the same interpreter, and it takes a third of the time of `pickle`.
"""

import fcntl
import itertools
import marshal
import os
import subprocess
import sys
from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from fhir_bulk_middleware.fhir.canonical import Canonical
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.drafts import Draft, draft
from fhir_bulk_middleware.stores.naming_index import NamingIndex

__all__ = ["Drafted", "Line", "MalformedLine", "Packed", "drafted", "drafts_of", "indexes_of", "packed", "receive", "send"]

_PROCESS = "fhir_bulk_middleware.stores.drafting_process"

Line = tuple[int, bytes]
"""A line and its number, from 1."""

Drafted = list[tuple[int, Draft]]
"""The drafts of a batch of lines, with the numbers of the lines."""

Packed = list[tuple[int, tuple[str, str, bytes, bytes], tuple[Any, ...]]]
"""As `Drafted`, in plain values."""

_PIPE = 1 << 20
"""Bytes that a pipe holds where the system allows it, so that its ends rarely wait for each other."""

_LENGTH = 8
"""Bytes of the length that stands before each value in a pipe."""


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
    """The drafts for the way to another process (`send`)."""
    return [(number, (*new.canonical,), new[1:]) for number, new in drafts]


def send(pipe: IO[bytes], value: Any) -> None:
    """Write plain values (tuples, lists, sets, text, bytes, numbers, None) into a pipe."""
    data = marshal.dumps(value)
    pipe.write(len(data).to_bytes(_LENGTH))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read what `send` wrote.

    Raises:
        EOFError: the other end was closed.
    """
    length = int.from_bytes(pipe.read(_LENGTH))
    data = pipe.read(length)
    if not data or len(data) < length:
        raise EOFError
    return marshal.loads(data)  # noqa: S302 - from a process of ours


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
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)
        self._send((version.value, tuple(base_urls)))

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
            found: Packed | tuple[int, str] = receive(self._process.stdout)
        except EOFError:
            raise ChildProcessError(f"a process that parses lines ended with status {self._process.wait()}") from None
        if isinstance(found, tuple):
            raise MalformedLine(*found)
        return [(number, Draft(Canonical(*form), *rest)) for number, form, rest in found]

    def _send(self, task: Any) -> None:
        if self._process.stdin is None:
            raise AssertionError("a helper has pipes")
        try:
            send(self._process.stdin, task)
        except BrokenPipeError:
            raise ChildProcessError(f"a process that parses lines ended with status {self._process.wait()}") from None


def _widen(pipe: IO[bytes] | None) -> None:
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with suppress(OSError):  # the user has many such pipes
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
