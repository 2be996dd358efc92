"""Downloads, on one connection: of files as they lie, and inflated on the way (row 11)."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from isal import igzip_lib

from fhir_bulk_middleware.contract.job import Codec, Part
from fhir_bulk_middleware.settings import Settings

from .bench import Bench
from .exports import Exports, Wanted
from .figures import Figure, Skipped, ratio
from .rounds import interleave
from .server import Server, serve

__all__ = ["downloads"]

_LARGE = Settings(slice_bytes=1 << 30, part_bytes=1 << 30)
_BLOCK = 1 << 20
_STEP = 256 * 1024
_NO_NGINX = "there is no nginx here"
_TIMES = 10
"""How often gzip files are fetched in a round: they are small."""


def downloads(bench: Bench) -> Iterator[Figure | Skipped]:
    """Row 11.

    On a disk, and read from the system's cache, as of files that were sealed a moment ago: a file system in memory cannot say
    that reading will not wait, and so takes a way that no server's files do.
    """
    with tempfile.TemporaryDirectory(prefix="fhir-bulk-bench-") as folder:
        yield from _downloads(bench, Path(folder) / "downloads")


def _downloads(bench: Bench, folder: Path) -> Iterator[Figure | Skipped]:
    parts = _sealed(bench, folder)
    plain, gzip = parts[Codec.PLAIN], parts[Codec.GZIP]
    with serve(bench.data, folder, workers=0) as server, _nginx(folder) as nginx:
        ours = f"127.0.0.1:{server.port}"
        measures = {
            "plain": _fetching(ours, server, [f"/fhir/$export-file/{part.file_id}" for part in plain], plain),
            "FileResponse": _fetching(ours, server, [f"/bare/file/{part.key}" for part in plain], plain),
            "gzip": _fetching(ours, server, [f"/fhir/$export-file/{part.file_id}" for part in gzip] * _TIMES, gzip, as_gzip=True),
            "inflated": _fetching(ours, server, [f"/fhir/$export-file/{part.file_id}" for part in gzip], gzip),
            "inflate": _inflating(folder / "exports", gzip),
        }
        if nginx:
            measures["nginx"] = _fetching(nginx, server, [f"/{part.key}" for part in plain], plain)
            measures["nginx gzip"] = _fetching(nginx, server, [f"/{part.key}" for part in gzip] * _TIMES, gzip, as_gzip=True)
        found = interleave(measures, bench.rounds, rate=True)
    note = f"MB/s, one connection, {len(plain)} files of"
    sizes = {"plain": sum(part.size for part in plain), "gzip": sum(part.stored_size for part in gzip)}
    for codec, baseline in {"plain": "nginx", "gzip": "nginx gzip"}.items():
        name = f"download of {codec} files as they lie / nginx sendfile of the same"
        if nginx:
            yield ratio("11", name, found[codec], found[baseline], f"{note} {sizes[codec] / 1e6:,.1f} MB")
        else:
            yield Skipped("11", name, _NO_NGINX)
    yield ratio("", "plain files / Starlette's FileResponse on the same server", found["plain"], found["FileResponse"])
    name = "download of gzip files, inflated by us / nginx sendfile of the plain files"
    yield ratio("11 plain", name, found["inflated"], found["nginx"]) if nginx else Skipped("11 plain", name, _NO_NGINX)
    yield ratio("", "the same / bare isal inflate, which bounds it, too", found["inflated"], found["inflate"])


def _sealed(bench: Bench, folder: Path) -> dict[Codec, Sequence[Part]]:
    """One file per type, in each of the two ways in which files lie."""
    folder.mkdir()
    parts = {}
    for codec in Codec:
        exports = Exports(bench.data, folder, codec, _LARGE)
        parts[codec] = exports.here(Wanted(), keep=True).parts
        exports.close()
    return parts


def _fetching(
    address: str, server: Server, paths: Sequence[str], parts: Sequence[Part], *, as_gzip: bool = False
) -> Callable[[], float]:
    """MB/s over all files, of the bytes that come: plain ones, or with `as_gzip` those of gzip parts, several times."""
    size = sum(part.stored_size for part in parts) * _TIMES if as_gzip else sum(part.size for part in parts)
    accept = "Accept-Encoding: gzip\r\n" if as_gzip else ""
    host, port = address.split(":")

    def fetch() -> float:
        with socket.create_connection((host, int(port))) as connection:
            begun = time.perf_counter()
            fetched = sum(_fetch(connection, path, f"Authorization: Bearer {server.token}\r\n{accept}") for path in paths)
            seconds = time.perf_counter() - begun
        if fetched != size:
            raise RuntimeError(f"{fetched} bytes came, not {size}")
        return size / seconds / 1e6

    return fetch


def _fetch(connection: socket.socket, path: str, fields: str) -> int:
    """Read an answer and throw it away; its size."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{fields}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    answered = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path} was answered with {head!r}")
    size = left = int(answered[b"content-length"])
    left -= len(body)
    block = bytearray(_BLOCK)
    while left:
        left -= connection.recv_into(block, min(left, _BLOCK))
    return size


def _inflating(folder: Path, parts: Sequence[Part]) -> Callable[[], float]:
    """MB/s of plain bytes that isal makes of the same files and that nobody wants, by the fastest way that it has."""

    def inflate() -> float:
        size, begun = 0, time.perf_counter()
        for part in parts:
            inflating = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
            with (folder / part.key).open("rb", buffering=0) as file:
                file.seek(part.flush_points[0])
                while not inflating.eof:
                    size += len(inflating.decompress(file.read(_STEP) if inflating.needs_input else b"", _STEP))
        return size / (time.perf_counter() - begun) / 1e6

    return inflate


@contextmanager
def _nginx(folder: Path) -> Generator[str | None]:
    """nginx on the same files, None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    temporary = "".join(
        f"{name}_temp_path {folder}/nginx-{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if folder.owner() == "root" else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}"
        f" http {{ access_log off; sendfile on; tcp_nopush on; {temporary}"
        f" server {{ listen {address}; root {folder}/exports; }} }}"
    )
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log")])
    try:
        _answers(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> None:
    host, port = address.split(":")
    for _ in range(500):
        with socket.socket() as trial:
            if trial.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError("nginx does not answer")
