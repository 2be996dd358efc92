"""Where the bytes of files are kept."""

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["OutputSink", "OutputStore"]


class OutputSink(Protocol):
    """A part being written. Nobody sees it before it is sealed; leaving it unsealed leaves nothing behind."""

    async def write(self, data: bytes) -> None:
        """Append."""
        ...

    async def seal(self) -> None:
        """Make it durable, contents and name, and visible under its key."""
        ...


class OutputStore(Protocol):
    """Where parts lie, as bytes under keys of ours (`{job_id}/{name}`); it knows nothing of what is in them."""

    async def bind(self, store: str) -> bool:
        """Bind it to the job store with this id, for good and for all processes; False if it is bound to another (law 32).

        A sweep removes what its job store does not know, so the parts of two job stores must never lie in one place.
        """
        ...

    def create(self, key: str) -> AbstractAsyncContextManager[OutputSink]:
        """Begin a part. Writing a key again replaces it, as a whole, when it is sealed."""
        ...

    def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes from `start`, in chunks. A read that has begun goes on to its end though the part is discarded (DL-09).

        Raises:
            FileNotFoundError: on the first step, if there is no such part.
        """
        ...

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """Remove all parts of a job, begun or sealed, but those under the keys `keep`. No error if there are none."""
        ...

    def jobs(self) -> AsyncIterator[str]:
        """Ids of the jobs that have anything here, sealed or not."""
        ...
