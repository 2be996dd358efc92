"""Removes uploads that nobody completes: what a worker that was killed has sent, which no listing of objects shows.

S3 keeps the parts of such an upload until it is aborted, and charges for them. obstore aborts its own uploads but cannot list
those of others, so the two requests (`ListMultipartUploads`, `AbortMultipartUpload`) are made here. obstore signs them, with
whatever kind of credentials the store has: it signs the whole query string of a URL, and its endpoint may have one. Azure drops
unfinished blobs after a week; for Google Cloud Storage a lifecycle rule of the bucket does the same.
"""

import html
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit

import anyio.to_thread
from obstore import sign_async
from obstore.store import LocalStore, S3Store

from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.objects.bucket import Bucket
from fhir_bulk_middleware.stores.objects.failures import translated

__all__ = ["abort_uploads", "begun_uploads"]

_UPLOAD = re.compile(r"<Upload>.*?</Upload>", re.DOTALL)
_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_ID = re.compile(r"<UploadId>(.*?)</UploadId>", re.DOTALL)
_NEXT = re.compile(r"<NextKeyMarker>(.*?)</NextKeyMarker>.*?<NextUploadIdMarker>(.*?)</NextUploadIdMarker>", re.DOTALL)
_MINUTE = timedelta(minutes=1)
_SECONDS = 20.0
_LARGEST = 16 * 1024 * 1024
_ROUNDS = 100
_GONE = 404
_UNKNOWN = frozenset({405, 501})
_PROBE = "x"


async def abort_uploads(bucket: Bucket, job_id: str) -> None:
    """Abort the uploads of a job that were begun and not completed. A writer that still has one fails.

    Raises:
        Refused: `BUSY`: the store cannot answer now.
        OSError: the store refuses the request.
    """
    match bucket.store():
        case S3Store() as store:
            await _abort_multipart(bucket, store, job_id)
        case LocalStore() as store if store.prefix is not None:
            await anyio.to_thread.run_sync(_remove_drafts, Path(store.prefix) / job_id)
        case _:
            pass


async def begun_uploads(bucket: Bucket) -> AsyncIterator[str]:
    """The keys of all uploads that were begun and not completed, below the prefix of the store; none where only S3 tells.

    Raises:
        Refused: `BUSY`: the store cannot answer now.
        OSError: the store refuses the request.
    """
    store = bucket.store()
    if isinstance(store, S3Store):
        async for upload in _listed(bucket, store, await _base(store), ""):
            yield upload.key


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload, by the key of its object below the prefix of the store, its whole key and its id."""

    key: str
    whole_key: str
    id: str


async def _abort_multipart(bucket: Bucket, store: S3Store, job_id: str) -> None:
    base = await _base(store)
    async for upload in _listed(bucket, store, base, f"{job_id}/"):
        await _request(bucket, "DELETE", f"{base}/{quote(upload.whole_key)}", {"uploadId": upload.id})


async def _listed(bucket: Bucket, store: S3Store, base: str, prefix: str) -> AsyncIterator[_Upload]:
    """The uploads whose keys begin with a prefix."""
    ours = f"{store.prefix.strip('/')}/" if store.prefix else ""
    marker: dict[str, str] = {}
    for _ in range(_ROUNDS):
        listed = await _request(bucket, "GET", base, {"uploads": "", "prefix": f"{ours}{prefix}", **marker})
        for upload in _UPLOAD.findall(listed):
            key, upload_id = _KEY.search(upload), _ID.search(upload)
            if key is not None and upload_id is not None:
                whole = html.unescape(key[1])
                yield _Upload(whole.removeprefix(ours), whole, html.unescape(upload_id[1]))
        following = _NEXT.search(listed)
        if following is None or "<IsTruncated>true</IsTruncated>" not in listed:
            return
        marker = {"key-marker": html.unescape(following[1]), "upload-id-marker": html.unescape(following[2])}


async def _base(store: S3Store) -> str:
    """The URL of the bucket, taken from a signed URL, so that it is right for every endpoint and style of address."""
    with translated("finding its address"):
        url = urlsplit(await sign_async(store, "GET", _PROBE, _MINUTE))
    path = url.path.removesuffix(f"/{_PROBE}")
    if store.prefix:
        path = path.removesuffix(quote(f"/{store.prefix.strip('/')}"))
    return f"{url.scheme}://{url.netloc}{path}"


async def _request(bucket: Bucket, method: Literal["GET", "DELETE"], url: str, query: dict[str, str]) -> str:
    """Send a request and return the body of its answer; empty if what it is about is gone, or the store knows no such request.

    The path that obstore adds becomes the value of a parameter of the kind that S3 ignores.
    """
    asked = urlencode({**query, "x-of": ""}, quote_via=quote)
    with translated("looking for abandoned uploads"):
        signed = await sign_async(bucket.of_requests(f"{url}?{asked}"), method, _PROBE, _MINUTE)
    return await anyio.to_thread.run_sync(partial(_fetch, method, signed, _trusted(bucket)), abandon_on_cancel=True)


def _fetch(method: str, url: str, trusted: ssl.SSLContext | None) -> str:
    request = urllib.request.Request(url, method=method)  # noqa: S310 - the URL is obstore's, of the configured store
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS, context=trusted) as response:  # noqa: S310 - as above
            return str(response.read(_LARGEST).decode())
    except urllib.error.HTTPError as error:
        with error:
            if error.code in {_GONE, *_UNKNOWN}:
                return ""
            if error.code < 500:  # noqa: PLR2004 - server errors begin there
                raise PermissionError(f"the object store refuses to {method} abandoned uploads: {error.code}") from None
        raise Refused(Reason.BUSY, "The store of exported files cannot answer now; try again later.") from None
    except OSError as error:
        raise Refused(Reason.BUSY, "The store of exported files cannot answer now; try again later.") from error


def _trusted(bucket: Bucket) -> ssl.SSLContext | None:
    """What the HTTP client of the store trusts beyond the system's certificates."""
    given = bucket.client_options.get("root_certificate")
    if not isinstance(given, str):
        return None
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=given)
    return context


def _remove_drafts(folder: Path) -> None:
    """Remove the files under which obstore writes before it renames them: the name of the part, `#` and a number."""
    for draft in folder.glob("*#*"):
        draft.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()
