"""Writes a file to disk, counts and hashes it, and checks it against the manifest."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from fhir_bulk_middleware.demo.manifest_reading import ManifestFile

__all__ = ["Download", "Fetched"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file.

    Attributes:
        file: its entry in the manifest.
        path: its local path.
        count: number of lines.
        size: number of bytes, without content encoding.
        transferred: number of bytes sent over the network.
        seconds: duration of the download.
        problems: differences from the manifest; empty if there are none.
    """

    file: ManifestFile
    path: Path
    count: int
    size: int
    transferred: int
    seconds: float
    problems: tuple[str, ...]


class Download:
    """A context manager that writes a file under a name with the suffix `.part`, which an incomplete file keeps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._part.open("wb")
        self._digest = sha256()
        self._size = 0
        self._newlines = 0
        self._tail = b"\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._stream.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)
        self._newlines += chunk.count(b"\n")
        self._tail = chunk[-1:] or self._tail

    def finish(self, file: ManifestFile, *, transferred: int, seconds: float) -> Fetched:
        """Compare the file with its manifest entry, and rename it to its final name if they agree."""
        self._stream.close()
        count = self._newlines + (self._tail != b"\n")
        came = {"lines": count, "bytes": self._size, "sha256": self._digest.hexdigest()}
        promised = {"lines": file.count, "bytes": file.size, "sha256": file.sha256}
        problems = tuple(
            f"{name}: {came[name]}, the manifest says {value}"
            for name, value in promised.items()
            if value is not None and value != came[name]
        )
        path = self._part if problems else self._part.rename(self._path)
        return Fetched(file, path, count, self._size, transferred, seconds, problems)
