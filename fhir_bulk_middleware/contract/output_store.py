"""The protocols of output stores, which keep the bytes of files."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Link", "OutputSink", "OutputStore", "SupportsLinking", "SupportsSignedUrls"]


class OutputSink(Protocol):
    """A part being written. It is invisible until it is sealed, and is removed if it is left unsealed."""

    async def write(self, data: bytes) -> None:
        """Append bytes to the part."""
        ...

    async def seal(self) -> None:
        """Make contents and name durable, and the part visible under its key."""
        ...


class OutputStore(Protocol):
    """Keeps parts as bytes, under keys that we choose (`{job_id}/{name}`).

    Implemented by `FileOutputStore`, `MemoryOutputStore` and `stores.objects.ObjectOutputStore`. `create` runs in a worker,
    `discard` and `jobs` in the server, the others in both.

    Raises:
        Refused: `BUSY`, if the store cannot answer now. An `OSError` with `ENOSPC` is answered as 503 too.
    """

    async def bind(self, store: str) -> bool:
        """Bind this store to the job store with the id `store`, for good, for all processes; False if bound to another (law 32).

        A sweep removes parts that its job store does not know, so the parts of two job stores must never share a store.
        """
        ...

    def create(self, key: str) -> AbstractAsyncContextManager[OutputSink]:
        """Begin a part. If the key exists, sealing replaces the old part as a whole."""
        ...

    def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes from offset `start`, in chunks. A read that has begun finishes even if the part is discarded (DL-09).

        Raises:
            FileNotFoundError: there is no such part; raised on the first step.
        """
        ...

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """Remove all parts of a job, sealed or not, except those under the keys `keep`. No error if there are none."""
        ...

    def jobs(self) -> AsyncIterator[str]:
        """Ids of the jobs that have a part here, sealed or not. Until it is sealed, 8 MiB of a part may be in memory alone."""
        ...


class Link(NamedTuple):
    """A sealed part that is to be visible under a further key.

    Attributes:
        source: its key, in the folder of another job.
        key: the further key.
        stored_size: the bytes that it must have.
    """

    source: str
    key: str
    stored_size: int


@runtime_checkable
class SupportsLinking(Protocol):
    """An output store that can show a sealed part under a further key. Without it, what did not change is written again.

    Implemented by `FileOutputStore`, by hard links, and `MemoryOutputStore`. Runs in a worker.
    """

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        """Make links, durable when this returns; the keys of those that were made.

        A link is left out, and nothing is raised, if there is no such source, if it has another size, if the key exists, or if
        the store cannot link it for another reason.

        The store guarantees: the bytes of a part stay as long as one of its keys does, whichever was made first. To discard a job
        removes its own keys only. The bytes are stored once.
        """
        ...


@runtime_checkable
class SupportsSignedUrls(Protocol):
    """An output store from which clients can fetch parts themselves (`Settings.signed_url_seconds`). Runs in the server.

    It serves a part as it is stored, so it must answer `Content-Type: application/fhir+ndjson` and, for a key that ends in `.gz`,
    `Content-Encoding: gzip` (FR-01, FR-07).
    """

    def signs(self) -> bool:
        """Whether this store, as it is configured, can sign URLs. Called when `BulkData` is made."""
        ...

    async def signed_urls(self, keys: Sequence[str], seconds: float) -> Sequence[str]:
        """For each key a URL by which anybody can fetch that part, and nothing else, for so long (FR-05).

        Raises:
            Refused: `BUSY`, if the store cannot sign now.
        """
        ...
