"""Filling a store: from the population that never lived, or from a folder of NDJSON files."""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["LoadError", "NdjsonFolder", "load"]

_SUFFIXES = (".ndjson", ".ndjson.gz")

_NUMBER = re.compile(r"^line \d+: ", re.ASCII)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LoadError(Exception):
    """Something can not be loaded; the message names file and line."""


class NdjsonFolder:
    """The resources in a folder's `.ndjson` and `.ndjson.gz` files, subfolders included, in the order of their names.

    While it is iterated it knows where it is, so that an error can say so.

    Args:
        folder: where the files are; or one such file.

    Raises:
        LoadError: there is no such folder, or no such file in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            raise LoadError(f"{folder}: there is no such folder")
        found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = [path for path in found if path.name.endswith(_SUFFIXES)]
        if not self.files:
            raise LoadError(f"{folder}: there are no {' or '.join(_SUFFIXES)} files in it")
        self.size = sum(path.stat().st_size for path in self.files)
        """Bytes of all files as they lie."""
        self.read = 0
        """Bytes read so far, as they lie; a little ahead of the lines."""
        self.position = str(folder)
        """File and line of the line that was given last."""

    def __iter__(self) -> Iterator[bytes]:
        before = 0
        for path in self.files:
            self.position = str(path)
            with path.open("rb") as raw:
                for number, line in enumerate(_lines(path, raw), 1):
                    self.read = before + raw.tell()
                    self.position = f"{path}, line {number}"
                    text = line.strip()
                    if text:
                        yield text
                before += raw.tell()
                self.read = before


def load(store: SQLiteResourceStore, lines: Iterable[bytes], seen: Callable[[int], None] = lambda _: None) -> int:
    """Load resources into a store; how many they were.

    Args:
        store: which one.
        lines: the resources, one JSON object each.
        seen: called now and then with the number of resources that have been taken.

    Raises:
        LoadError: a line is no resource; the message says where it is, if the lines come from an `NdjsonFolder`.
    """
    try:
        return store.load(lines, progress=seen)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        if isinstance(lines, NdjsonFolder):  # it knows better where that is than the store, which counts lines of all files
            raise LoadError(f"{lines.position}: {_NUMBER.sub('', str(error))}") from error
        raise LoadError(str(error)) from error


def _lines(path: Path, raw: io.BufferedReader) -> Iterator[bytes]:
    stream = gzip.open(raw) if path.name.endswith(".gz") else raw  # noqa: SIM115 - it is `raw` that is to be closed
    first = True
    for line in stream:
        yield line.removeprefix(_BYTE_ORDER_MARK) if first else line
        first = False
