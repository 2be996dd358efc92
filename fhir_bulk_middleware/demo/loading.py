"""Loads a store from the synthetic population or from NDJSON files."""

import gzip
import io
import itertools
import json
import sqlite3
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fhir_bulk_middleware.demo.load_error import LoadError
from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.outcomes import Refused
from fhir_bulk_middleware.stores.drafting import MalformedLine
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

if TYPE_CHECKING:
    from fhir_bulk_middleware.stores.postgres import PostgresResourceStore

__all__ = ["ByLastUpdated", "NdjsonFolder", "load"]

_SUFFIXES = (".ndjson", ".ndjson.gz")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_STAGE = "CREATE TABLE line (ordinal INTEGER PRIMARY KEY, instant INTEGER NOT NULL, text BLOB NOT NULL) STRICT"


class NdjsonFolder:
    """The resources of the `.ndjson` and `.ndjson.gz` files in a folder and its subfolders, ordered by path.

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
        self.position = str(folder)
        """File name and number of the line that was read last."""
        self._done = 0
        self._raw: io.BufferedReader | None = None
        self._first: list[int] = []
        self._runs: list[tuple[Path, int]] = []

    @property
    def read(self) -> int:
        """Bytes read from disk so far, ahead of the resources that are loaded."""
        return self._done + (0 if self._raw is None else self._raw.tell())

    @property
    def fingerprint(self) -> str:
        """A text that changes if a file does."""
        return json.dumps([(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files])

    def position_of(self, ordinal: int) -> str:
        """File name and line number of the resource that iteration gave as number `ordinal`, from 1."""
        run = bisect_right(self._first, ordinal) - 1
        path, line = self._runs[run]
        return f"{path}, line {line + ordinal - self._first[run]}"

    def __iter__(self) -> Generator[bytes]:
        self._done, ordinal = 0, 0
        self._first.clear()
        self._runs.clear()
        for path in self.files:
            self.position = str(path)
            with path.open("rb") as raw:
                self._raw = raw
                gap = True  # the next resource does not follow the one before in the same file
                try:
                    for number, line in enumerate(_lines(path, raw), 1):
                        text = line.strip()
                        if not text:
                            gap = True
                            continue
                        ordinal += 1
                        if gap:
                            self._first.append(ordinal)
                            self._runs.append((path, number))
                            gap = False
                        yield text
                finally:  # a load that is interrupted writes what it has parsed, and then asks for `read`
                    self._done += raw.tell()
                    self._raw = None


class ByLastUpdated:
    """The resources of files in the order of their `meta.lastUpdated`, for a load that keeps it.

    The lines are sorted in a temporary database, in memory or, if they are many, in a file that SQLite removes.

    Args:
        files: the files.
    """

    def __init__(self, files: NdjsonFolder) -> None:
        self._files = files
        self._ordinals = array("Q")
        self._share = 0.0

    @property
    def size(self) -> int:
        """Size of all files on disk in bytes."""
        return self._files.size

    @property
    def read(self) -> int:
        """The share of the lines that were given so far, in bytes of all files."""
        return int(self._share * self.size)

    @property
    def fingerprint(self) -> str:
        """A text that changes if a file does; unlike that of the files in their own order."""
        return f"by lastUpdated: {self._files.fingerprint}"

    @property
    def position(self) -> str:
        """As of `NdjsonFolder`, for errors while the files are read."""
        return self._files.position

    def position_of(self, ordinal: int) -> str:
        """As `NdjsonFolder.position_of`."""
        return self._files.position_of(self._ordinals[ordinal - 1])

    def __iter__(self) -> Generator[bytes]:
        del self._ordinals[:]
        with closing(iter(self._files)) as texts, closing(sqlite3.connect("", isolation_level=None)) as stage:
            stage.execute(_STAGE)
            stage.execute("BEGIN")
            staged = ((number, self._instant(number, text), text) for number, text in enumerate(texts, 1))
            total = stage.executemany("INSERT INTO line VALUES (?, ?, ?)", staged).rowcount
            for ordinal, text in stage.execute("SELECT ordinal, text FROM line ORDER BY instant, ordinal"):
                self._ordinals.append(ordinal)
                self._share = len(self._ordinals) / total
                yield text

    def _instant(self, number: int, text: bytes) -> Instant:
        try:
            return parse(json.loads(text)["meta"]["lastUpdated"])
        except (KeyError, TypeError, RecursionError):
            problem = "meta.lastUpdated: is missing, or is not text; without it a resource cannot keep it"
        except json.JSONDecodeError as error:
            problem = f"character {error.pos}: not JSON: {error.msg}"
        except ValueError as error:
            problem = f"meta.lastUpdated: {error}"
        raise LoadError(f"{self._files.position_of(number)}: {problem}")


def load(
    store: "SQLiteResourceStore | PostgresResourceStore",
    lines: Iterable[bytes],
    seen: Callable[[int], None] = lambda _: None,
    *,
    skip: int = 0,
    helpers: int = 0,
) -> int:
    """Load resources into a store and return their number.

    Args:
        store: the store.
        lines: the resources, one JSON object per line; those of `ByLastUpdated` keep their `meta.lastUpdated`.
        seen: called periodically with the number of resources so far.
        skip: how many lines to leave out at the beginning.
        helpers: the number of processes that parse lines.

    Raises:
        LoadError: a line is not a resource; the message has its position if the lines come from files. Or a helper was killed.
    """
    given, keep = iter(lines), isinstance(lines, ByLastUpdated)
    try:
        return store.load(itertools.islice(given, skip, None), progress=seen, helpers=helpers, keep_last_updated=keep)
    except MalformedLine as error:
        if isinstance(lines, NdjsonFolder | ByLastUpdated):
            raise LoadError(f"{lines.position_of(skip + error.number)}: {error.problem}") from error
        raise LoadError(str(error)) from error
    except ChildProcessError as error:
        raise LoadError(f"{error}; the resources before are kept") from error
    except Refused as refused:
        raise LoadError(f"{refused.detail} The resources before are kept.") from refused
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        position = f"{lines.position}: " if isinstance(lines, NdjsonFolder | ByLastUpdated) else ""
        raise LoadError(f"{position}{error}") from error
    finally:
        if isinstance(given, Generator):
            given.close()  # the file that it reads


def _lines(path: Path, raw: io.BufferedReader) -> Iterator[bytes]:
    stream = gzip.open(raw) if path.name.endswith(".gz") else raw  # noqa: SIM115 - `raw` is closed instead
    for first in stream:
        yield first.removeprefix(_BYTE_ORDER_MARK)
        break
    yield from itertools.islice(stream, None)  # `yield from` closes a file when this generator is closed
