"""Digests of all that the files of a slice depend on, but the resources themselves.

Two slices with one cache key and one fingerprint (`SupportsFingerprints`) have the same files, byte for byte. A cache key
leaves out only what is named here, so that an option that is added later is in it without further ado.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from pydantic import TypeAdapter

from fhir_bulk_middleware.contract.job import Job, Options, Sizes
from fhir_bulk_middleware.contract.job_record import owner_record, rows_content
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.files.part import default_codec

__all__ = ["cache_key_of"]

_OPTIONS = TypeAdapter(Options)
_CODE = ("contract", "export", "fhir", "files", "stores")
"""The packages whose code decides what is in a file."""


def cache_key_of(job: Job, rows: Rows, resource_type: str, sizes: Sizes, *, everybody: bool) -> str:
    """The cache key of the selected output of one type.

    Args:
        job: the job.
        rows: the rows that it may hold, with rights and filters.
        resource_type: the type.
        sizes: of pages and parts.
        everybody: whether the owner is left out, so that jobs of different owners can have the same one.
    """
    options = replace(
        job.request.options,
        partial_manifests=False,
        separate_status=False,
        smallest_file=None,  # part of the sizes
        largest_file=None,
        sizes=None,
        ignored=(),  # in error files only, which are never linked
        reports=None,
        deletions_since=None,
    )
    of_type = replace(rows, filters=tuple(each for each in rows.filters if each.type == resource_type))
    content = {
        "code": _code(),
        "owner": None if everybody else owner_record(job.owner),
        "adapter": job.adapter,
        "mount": job.mount,
        "level": job.request.level.value,
        "type": resource_type,
        "codec": default_codec().value,
        "sizes": astuple(sizes),
        "options": _OPTIONS.dump_python(options, mode="json"),
        "rows": rows_content(of_type).hex(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of the code, so that no other version of it has the same cache keys."""
    digest, package = hashlib.sha256(), files("fhir_bulk_middleware")
    for name, content in _contents(package.joinpath(name) for name in _CODE):
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _contents(folders: Iterator[Traversable]) -> Iterator[tuple[str, bytes]]:
    """The files in the folders, with names and contents, in one order; without compiled code."""
    for folder in folders:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
        yield from ((entry.name, entry.read_bytes()) for entry in entries if entry.is_file())
        yield from _contents(entry for entry in entries if entry.is_dir() and entry.name != "__pycache__")
