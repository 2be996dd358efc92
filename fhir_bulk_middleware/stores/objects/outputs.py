"""`ObjectOutputStore`: parts as objects of S3, Google Cloud Storage, Azure or a local folder."""

import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import anyio
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store
from pydantic import JsonValue

from fhir_bulk_middleware.contract.output_store import OutputSink
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.identifiers import is_job_id
from fhir_bulk_middleware.outcomes import Refused
from fhir_bulk_middleware.stores.objects.bucket import Bucket
from fhir_bulk_middleware.stores.objects.failures import busy, in_words, is_missing, translated
from fhir_bulk_middleware.stores.objects.uploads import abort_uploads, begun_uploads
from fhir_bulk_middleware.stores.output_keys import split_key

if TYPE_CHECKING:
    from obstore import AsyncWritableFile

__all__ = ["ObjectOutputStore"]

_log = logging.getLogger("fhir_bulk_middleware")

_MARK = ".job-store"
_BINDING = "binding it to a job store"
_PAUSES = (0.0, 0.05, 0.2, 1.0, 2.0)
_CHUNK = 256 * 1024
_TOGETHER = 1024 * 1024
_BLOCK = 8 * 1024 * 1024
_AT_ONCE = 2
_LEAVING = 10.0
_PATIENT = 120.0
_LISTED = 1_000
_GZIP = ".gz"
_TYPE = "application/fhir+ndjson"


class ObjectOutputStore:
    """An `OutputStore` in object storage, through obstore (extra `objectstore`).

    A part becomes an object once it is sealed, so nobody sees half of it. One of less than 8 MiB, as most gzipped parts are, is
    one request: until then nothing is in the store. A larger one is uploaded in blocks of 8 MiB, of which at most three are in
    memory. While it is written, an empty object beside it says so, by which a sweep finds what a killed worker left. `discard`
    removes objects and, on S3 and in folders, unfinished uploads. Azure drops those by itself; Google Cloud Storage needs a
    lifecycle rule of the bucket for them.

    What arrived is compared with what was sent: S3 checks the SHA-256 of each request, and sealing checks the size of a part of
    several blocks. From other stores, sealing reads the object back and compares its SHA-256.

    Credentials come from the environment, as obstore reads them (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_KEY`,
    `GOOGLE_SERVICE_ACCOUNT`, roles of the machine, ...); a secret among the arguments is refused.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix` or `file:///folder`. All below the prefix
            belongs to one job store. `memory:///` is for tests.
        config: options of obstore's store, such as `endpoint`, `region`, `server_side_encryption` and `sse_kms_key_id`. With
            `checksum_algorithm` None no checksums are sent, for S3 servers that refuse them.
        client_options: options of obstore's HTTP client, such as `allow_http`, `root_certificate` and `timeout`.
        credentials: `package.module:callable` that makes an obstore credential provider, if the environment is not enough.
        patience: seconds in which the server repeats a failing request before it answers 503. Workers take two minutes.
        read_back: whether sealing reads the object back; None if only where the store checks no checksum.

    Raises:
        ImportError: obstore is missing.
        ValueError: the URL has another form, or a secret is among the options.
    """

    def __init__(
        self,
        url: str,
        *,
        config: Mapping[str, JsonValue] | None = None,
        client_options: Mapping[str, JsonValue] | None = None,
        credentials: str | None = None,
        patience: float = 10.0,
        read_back: bool | None = None,
    ) -> None:
        self._bucket = Bucket(url, dict(config or {}), dict(client_options or {}), credentials, patience)
        self._read_back = not self._bucket.verifies if read_back is None else read_back

    def recipe(self) -> Recipe:
        """How to open the same place in a worker process, which is more patient.

        Raises:
            ValueError: it is in this process's memory.
        """
        bucket = self._bucket
        if bucket.scheme == "memory":
            raise ValueError("memory:/// is the memory of one process, and not for worker processes: use MemoryOutputStore")
        arguments: dict[str, JsonValue] = {
            "url": bucket.url,
            "config": dict(bucket.config),
            "client_options": dict(bucket.client_options),
            "credentials": bucket.credentials,
            "patience": max(bucket.patience, _PATIENT),
            "read_back": self._read_back,
        }
        return Recipe(f"{__name__}:ObjectOutputStore", arguments)

    def signs(self) -> bool:
        """See `SupportsSignedUrls`: true for S3, Google Cloud Storage and Azure, unless the client keeps the key (`sse-c`)."""
        return self._bucket.signs

    async def signed_urls(self, keys: Sequence[str], seconds: float) -> Sequence[str]:
        """See `SupportsSignedUrls`. A URL ends earlier if the credentials that signed it do."""
        for key in keys:
            split_key(key)
        store = cast("S3Store | GCSStore | AzureStore", self._bucket.store())
        with translated("signing URLs"):
            return await obstore.sign_async(store, "GET", list(keys), timedelta(seconds=seconds))

    async def bind(self, store: str) -> bool:
        """See `OutputStore.bind`. The binding is the object `.job-store`, which the store writes only if there is none.

        A store that ignores this condition (`If-None-Match`) lets the last of several win that bind at the same instant.

        Raises:
            OSError: there is no such bucket.
        """
        with translated(_BINDING):
            for pause in _PAUSES:
                with suppress(FileNotFoundError):
                    return await self._whole(_MARK) == store.encode()
                try:
                    await obstore.put_async(self._bucket.store(), _MARK, store.encode(), mode="create")
                except FileNotFoundError as error:
                    raise OSError(f"{self._bucket.url}: there is no such bucket: {in_words(error)}") from None
                except AlreadyExistsError:  # another one binds: some stores refuse this write before they show that object
                    await anyio.sleep(pause)
        raise busy(_BINDING, f"it refuses to write {_MARK}, which exists, and does not show it")

    @asynccontextmanager
    async def create(self, key: str) -> AsyncGenerator[OutputSink]:
        """Begin a part."""
        job_id, name = split_key(key)
        upload = _Upload(self._bucket, key, f"{job_id}/.begun-{name}-{secrets.token_hex(4)}", read_back=self._read_back)
        try:
            yield upload
        finally:
            with anyio.move_on_after(_LEAVING, shield=True):  # a cancelled writer leaves nothing behind either
                await upload.leave()

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `OutputStore.read`; chunks have at most 256 kB.

        Raises:
            OSError: the store sent fewer bytes than it announced.
        """
        split_key(key)
        with translated("reading a file"):
            if not length:
                await obstore.head_async(self._bucket.store(), key)
                return
            found = await obstore.get_async(self._bucket.store(), key, options={"range": (start, start + length)})
        begin, end = found.range
        left, chunks = end - begin, aiter(found.stream(min_chunk_size=_CHUNK // 2))
        while left > 0:
            with translated("reading a file"):
                chunk = await anext(chunks, b"")
            if not chunk:
                raise OSError(f"part {key} ends {left} bytes early")
            left -= len(chunk)
            for offset in range(0, len(chunk), _CHUNK):
                yield bytes(memoryview(chunk)[offset : offset + _CHUNK])

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """See `OutputStore.discard`. Unfinished uploads go too."""
        if not is_job_id(job_id):
            raise ValueError("not a job's id")
        with translated("removing files"):
            async for batch in obstore.list(self._bucket.store(), job_id, chunk_size=_LISTED):
                await self._delete([found["path"] for found in batch if found["path"] not in keep])
        try:
            await abort_uploads(self._bucket, job_id)
        except PermissionError as error:
            _log.warning("unfinished uploads are left to a lifecycle rule of the bucket: %s", error)

    async def jobs(self) -> AsyncIterator[str]:
        """See `OutputStore.jobs`. On S3 those that have nothing but unfinished uploads, too."""
        with translated("listing jobs"):
            found = await obstore.list_with_delimiter_async(self._bucket.store())
        names = set(found["common_prefixes"])
        with suppress(PermissionError):  # `discard` says so
            names |= {key.partition("/")[0] async for key in begun_uploads(self._bucket)}
        for name in sorted(names):
            if is_job_id(name):
                yield name

    async def _whole(self, name: str) -> bytes:
        found = await obstore.get_async(self._bucket.store(), name)
        return bytes(await found.bytes_async())

    async def _delete(self, names: list[str]) -> None:
        """Delete objects, of which another sweep may have deleted some: some stores refuse the whole request then."""
        if not names:
            return
        try:
            await obstore.delete_async(self._bucket.store(), names)
        except (BaseError, OSError) as error:
            if not is_missing(error):
                raise
            if len(names) > 1:
                for name in names:
                    await self._delete([name])


class _Upload:
    """A part on its way: an `OutputSink`."""

    def __init__(self, bucket: Bucket, key: str, note: str, *, read_back: bool) -> None:
        self._bucket = bucket
        self._key = key
        self._note = note
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._size = 0
        self._hash = hashlib.sha256() if read_back else None
        self._attributes = None if bucket.scheme == "local" else _attributes(key)
        self._writer: AsyncWritableFile | None = None
        self._closing = False
        self._closed = False
        self._sealed = False

    async def write(self, data: bytes) -> None:
        """See `OutputSink`. Small pieces are gathered, because each call costs the same."""
        if not data:
            return
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= (_BLOCK if self._writer is None else _TOGETHER):
            writer = await self._begun() if self._writer is None else self._writer
            await self._drain(writer)

    async def seal(self) -> None:
        """See `OutputSink`.

        Raises:
            FileNotFoundError: the job was discarded meanwhile. A part of one request is not told so; it is listed, and swept.
            OSError: what arrived is not what was sent.
        """
        if self._writer is None:
            await self._put()
        else:
            await self._complete(self._writer)
        self._sealed = True

    async def leave(self) -> None:
        """Unless it was sealed, abort the upload, or remove the object that is not what was sent. Then remove the note.

        If that fails, or the store did not say whether the object is complete, a sweep finds the note or the object.
        """
        if self._closing and not self._closed:
            return
        left = [self._key] if self._closed and not self._sealed else []
        try:
            with translated("leaving a file"):
                if self._writer is not None:
                    left.append(self._note)
                    if not self._closed:
                        await self._writer.__aexit__(OSError, OSError("the part was not sealed"), None)
                for name in left:
                    with suppress(FileNotFoundError):
                        await obstore.delete_async(self._bucket.store(), name)
        except (OSError, Refused) as error:
            _log.warning("%s: what is left of it stays until its job is swept: %s", self._key, error)

    async def _put(self) -> None:
        """Send the whole part in one request."""
        data = self._taken()
        with translated("sealing a file"):
            self._closing = True
            try:
                await obstore.put_async(self._bucket.store(), self._key, data, attributes=self._attributes, use_multipart=False)
            except FileNotFoundError as error:
                raise self._no_bucket(error) from None
            self._closed = True
            if self._hash is not None or not self._bucket.verifies:
                await self._check()

    async def _begun(self) -> "AsyncWritableFile":
        """Note that the part is being written, and begin its upload."""
        with translated("beginning a file"):
            try:
                await obstore.put_async(self._bucket.store(), self._note, b"")
            except FileNotFoundError as error:
                raise self._no_bucket(error) from None
        self._writer = obstore.open_writer_async(
            self._bucket.store(), self._key, attributes=self._attributes, buffer_size=_BLOCK, max_concurrency=_AT_ONCE
        )
        return self._writer

    async def _complete(self, writer: "AsyncWritableFile") -> None:
        """Complete the upload."""
        await self._drain(writer)
        with translated("sealing a file"):
            await obstore.head_async(self._bucket.store(), self._note)  # gone if the job was discarded
            self._closing = True
            await writer.close()
            self._closed = True
            await self._check()

    async def _drain(self, writer: "AsyncWritableFile") -> None:
        if not (data := self._taken()):
            return
        with translated("writing a file"):
            try:
                await writer.write(data)
            except FileNotFoundError as error:  # the upload was aborted: its job was discarded
                raise FileNotFoundError(f"part {self._key} was discarded while it was written: {in_words(error)}") from None

    def _taken(self) -> bytes:
        """What was written and not yet sent, which counts as sent now."""
        data, self._pending, self._pending_size = b"".join(self._pending), [], 0
        if self._hash is not None:
            self._hash.update(data)
        self._size += len(data)
        return data

    def _no_bucket(self, error: Exception) -> OSError:
        return OSError(f"{self._bucket.url}: there is no such bucket: {in_words(error)}")

    async def _check(self) -> None:
        if self._hash is None:
            size = (await obstore.head_async(self._bucket.store(), self._key))["size"]
            if size != self._size:
                raise OSError(f"part {self._key}: {self._size} bytes were sent, and {size} arrived")
            return
        found = hashlib.sha256()
        async for chunk in (await obstore.get_async(self._bucket.store(), self._key)).stream(min_chunk_size=_TOGETHER):
            found.update(chunk)
        if found.digest() != self._hash.digest():
            raise OSError(f"part {self._key}: what arrived has another SHA-256 than what was sent")


def _attributes(key: str) -> dict[str, str]:
    """The headers with which the store serves a part by a signed URL (FR-01, FR-07).

    `no-transform` keeps Google Cloud Storage from inflating it on the way: it is read back as it was written.
    """
    coding = {"Content-Encoding": "gzip"} if key.endswith(_GZIP) else {}
    return {"Content-Type": _TYPE, "Cache-Control": "no-store, no-transform", "Content-Disposition": "attachment", **coding}
