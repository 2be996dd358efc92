"""Loads a store from the synthetic population or from NDJSON files."""

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
    """A resource cannot be loaded; the message names file and line."""


class NdjsonFolder:
    """The resources of the `.ndjson` and `.ndjson.gz` files in a folder and its subfolders, ordered by path.

    During iteration it has the current position for error messages.

    Args:
        folder: the folder, or one such file.

    Raises:
        LoadError: the folder does not exist, or has no such file.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            raise LoadError(f"{folder}: there is no such folder")
        found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = [path for path in found if path.name.endswith(_SUFFIXES)]
        if not self.files:
            raise LoadError(f"{folder}: there are no {' or '.join(_SUFFIXES)} files in it")
        self.size = sum(path.stat().st_size for path in self.files)
        """Size of all files on disk in bytes."""
        self.read = 0
        """Bytes read from disk so far, slightly ahead of the current line."""
        self.position = str(folder)
        """File name and number of the current line."""

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
    """Load resources into a store and return their number.

    Args:
        store: the store.
        lines: the resources, one JSON object per line.
        seen: called periodically with the number of resources so far.

    Raises:
        LoadError: a line is not a resource; the message has its position if the lines come from an `NdjsonFolder`.
    """
    try:
        return store.load(lines, progress=seen)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        if isinstance(lines, NdjsonFolder):  # its position is in the file; the store counts the lines of all files together
            raise LoadError(f"{lines.position}: {_NUMBER.sub('', str(error))}") from error
        raise LoadError(str(error)) from error


def _lines(path: Path, raw: io.BufferedReader) -> Iterator[bytes]:
    stream = gzip.open(raw) if path.name.endswith(".gz") else raw  # noqa: SIM115 - `raw` is closed instead
    first = True
    for line in stream:
        yield line.removeprefix(_BYTE_ORDER_MARK) if first else line
        first = False
