"""Store to sealed files, against the same work done plainly and the physical limit (rows 1, 2, 4 and 16)."""

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256

from fhir_bulk_middleware.contract.job import Codec
from fhir_bulk_middleware.files import deflate
from fhir_bulk_middleware.files.part import PartReader

from .bench import Bench, core
from .data import PLAIN_QUERY, Data
from .exports import Export, Exports, Wanted
from .figures import Figure, Skipped, ratio
from .plainly import plainly, shell, tools_missing
from .rounds import Series, interleave, timed

__all__ = ["files", "identical"]

_PLAINLY = "sqlite3 shell, then sha256, then gzip, on one core"


def files(bench: Bench) -> Iterator[Figure | Skipped]:
    """Rows 1, 2 and 4."""
    data = bench.data
    yield from _both_cores(bench, data)
    yield from _one_core(bench, data)


def identical(bench: Bench) -> Iterator[Figure]:
    """Row 16: the sorted lines of the files are those of the store, each once, whichever way the files lie."""
    data = bench.data
    with data.plain.open("rb") as plain:
        wanted = _digest(plain)
    for codec in Codec:
        with bench.exports(data, codec) as exports, exports.pool() as pool:
            export = pool.export(Wanted())
            same = asyncio.run(_read(exports, export)) == wanted and export.count == data.count
        yield Figure(
            "16",
            f"files that are not what the store holds ({codec})",
            (float(not same),),
            "sha256 of the sorted lines",
            exact=True,
        )


def _both_cores(bench: Bench, data: Data) -> Iterator[Figure | Skipped]:
    sealed: dict[str, Export] = {}
    with bench.exports(data) as exports, exports.pool() as pool:

        def export() -> float:
            sealed["files"] = pool.export(Wanted())
            return sealed["files"].seconds

        contenders = {"export": export, "cat": timed(_cat(data)), "loop": timed(_loop(data))}
        missing = tools_missing()
        if not missing:
            contenders["plainly"] = _on_one_core(timed(plainly(data)))
        found = interleave(contenders, bench.rounds)
    note = f"{_rates(data, found['export'])}, {len(sealed['files'].parts)} files, as new jobs lie"
    name = f"store to sealed files, worker processes / {_PLAINLY}"
    yield Skipped("1", name, missing) if missing else ratio("1", name, found["export"], found["plainly"], note)
    yield ratio("", "the same / cat", found["export"], found["cat"], note if missing else "")
    yield ratio("", "the same / plain loop SELECT json", found["export"], found["loop"])


def _one_core(bench: Bench, data: Data) -> Iterator[Figure | Skipped]:
    sealed: dict[Codec, Export] = {}
    contenders: dict[str, Callable[[], float]] = {
        "loop": timed(_loop(data)),
        "cat": timed(_cat(data)),
        "hash": timed(partial(_hash, data)),
        "deflate": timed(partial(_deflate, data)),
    }
    missing = tools_missing()
    if not missing:
        contenders |= {"shell": timed(shell(data)), "plainly": timed(plainly(data))}
    with bench.exports(data, Codec.PLAIN) as plain:
        for_gzip = Exports(data, plain.folder / "gzip", Codec.GZIP)

        def export(exports: Exports, codec: Codec) -> Callable[[], float]:
            def measure() -> float:
                sealed[codec] = exports.here(Wanted())
                return sealed[codec].seconds

            return measure

        contenders |= {"plain": export(plain, Codec.PLAIN), "gzip": export(for_gzip, Codec.GZIP)}
        with core(0):
            found = interleave(contenders, bench.rounds)
        for_gzip.close()
    name = f"store to sealed files, one core / {_PLAINLY}"
    if missing:
        yield Skipped("2", name, missing)
    else:
        yield ratio("2", name, found["gzip"], found["plainly"], _rates(data, found["gzip"]))
        yield ratio("", "store to sealed plain files, one core / sqlite3 shell", found["plain"], found["shell"], "hashed, too")
    yield from _limit(found)
    yield ratio("", "store to sealed plain files, one core / plain loop SELECT json", found["plain"], found["loop"])
    yield ratio("", "store to sealed plain files, one core / cat", found["plain"], found["cat"])
    yield ratio("4", "gzip / plain, time", found["gzip"], found["plain"])
    stored = sealed[Codec.GZIP].stored / sealed[Codec.PLAIN].stored
    yield Figure("4 bytes", "gzip / plain, bytes", (stored,), f"1/{1 / stored:.1f}", exact=True)


def _limit(found: Mapping[str, Series]) -> Iterator[Figure]:
    """What is to be done to these bytes besides reading and writing them, by itself; each by the fastest that we know."""
    least = "shell" if "shell" in found else "loop"
    name = {"shell": "sqlite3 shell", "loop": "plain loop"}[least]
    yield ratio("", f"sha256 of the plain bytes, alone / {name}", found["hash"], found[least])
    yield ratio("", f"gzip of the plain bytes, alone / {name}", found["deflate"], found[least])


def _hash(data: Data) -> None:
    digest = sha256()
    for chunk in _chunks(data):
        digest.update(chunk)


def _deflate(data: Data) -> None:
    compressor = deflate.gzip_compressor()
    for chunk in _chunks(data):
        compressor.compress(chunk)
    compressor.flush()


def _chunks(data: Data) -> Iterator[memoryview]:
    """The plain bytes, of the size of pages and always in the same place, so that next to no time goes into reading them."""
    buffer = memoryview(bytearray(256 * 1024))
    with data.plain.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            yield buffer[:size]


def _cat(data: Data) -> Callable[[], None]:
    def cat() -> None:
        with data.plain.with_name("cat.out").open("wb") as target:
            subprocess.run(["cat", str(data.plain)], stdout=target, check=True)

    return cat


def _on_one_core(measure: Callable[[], float]) -> Callable[[], float]:
    def measure_there() -> float:
        with core(0):
            return measure()

    return measure_there


def _loop(data: Data) -> Callable[[], None]:
    """The plainest program that does it: no checks, no hash, nothing sealed."""

    def loop() -> None:
        connection = sqlite3.connect(data.store)
        connection.text_factory = bytes
        with data.plain.with_name("loop.out").open("wb") as target:
            for (line,) in connection.execute(PLAIN_QUERY):
                target.write(line)
                target.write(b"\n")
        connection.close()

    return loop


def _rates(data: Data, series: Series) -> str:
    return f"{data.count / series.median:,.0f} resources/s, {data.size / series.median / 1e6:,.0f} MB/s"


async def _read(exports: Exports, export: Export) -> str:
    lines: list[bytes] = []
    for part in export.parts:
        chunks = [chunk async for chunk in PartReader(exports.outputs, part).read(0, part.size)]
        lines += _digests(b"".join(chunks).splitlines(keepends=True))
    return sha256(b"".join(sorted(lines))).hexdigest()


def _digest(lines: Iterable[bytes]) -> str:
    return sha256(b"".join(sorted(_digests(lines)))).hexdigest()


def _digests(lines: Iterable[bytes]) -> list[bytes]:
    """Of each line: so the lines of a large store need not be in memory together."""
    return [sha256(line).digest() for line in lines]
