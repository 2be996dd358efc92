"""The shapes of ids: of our jobs and files, which are opaque, unguessable and reserved (KO-115, law 14), and of resources."""

import re
import secrets
import uuid
from collections.abc import Callable
from functools import lru_cache

__all__ = [
    "FILE_ID_PATTERN",
    "JOB_ID_PATTERN",
    "RESOURCE_ID_PATTERN",
    "NewJobId",
    "file_id",
    "is_file_id",
    "is_job_id",
    "is_resource_id",
    "job_of_file",
    "new_job_id",
]

NewJobId = Callable[[], str]
"""Makes job ids."""

JOB_ID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The shape of a job id, as a regular expression."""

FILE_ID_PATTERN = r"bulk\.([0-9a-f]{32})\.(?:0|[1-9][0-9]{0,6})-(?:0|[1-9][0-9]{0,6})"
"""The shape of a file id, as a regular expression; its only group is the id of the job without hyphens."""

RESOURCE_ID_PATTERN = "[A-Za-z0-9.-]{1,64}"
"""The shape of a FHIR id, of a resource or of a version, as a regular expression."""

_JOB_CHARACTERS = 36
_JOB = re.compile(JOB_ID_PATTERN, re.ASCII)
_FILE = re.compile(FILE_ID_PATTERN, re.ASCII)
_RESOURCE = re.compile(rf"(?!\.+\Z){RESOURCE_ID_PATTERN}", re.ASCII)


def new_job_id() -> str:
    """A new job id: 128 random bits, in the form of a UUID, as some source documents show it."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16)))


def is_job_id(text: str) -> bool:
    """Whether `text` has the shape of a job id. Only such text reaches a store."""
    return len(text) == _JOB_CHARACTERS and _is_job_id(text)


@lru_cache(maxsize=1024)
def _is_job_id(text: str) -> bool:
    """Remembered, since a job is polled again and again."""
    return _JOB.fullmatch(text) is not None


def file_id(job_id: str, slice_number: int, part_number: int) -> str:
    """The id of a job's file. It is also a valid FHIR id, since some dialects serve files as `Binary/{id}`."""
    return f"bulk.{uuid.UUID(job_id).hex}.{slice_number}-{part_number}"


def is_file_id(text: str) -> bool:
    """Whether `text` has the reserved shape of our file ids."""
    return _FILE.fullmatch(text) is not None


def is_resource_id(text: str) -> bool:
    """Whether `text` is a FHIR id that may be passed to an adapter.

    FHIR's pattern also allows ids of dots alone; those are refused, since a storage may treat them as path segments (law 42).
    """
    return _RESOURCE.fullmatch(text) is not None


def job_of_file(text: str) -> str | None:
    """The id of the job that a file belongs to; None if `text` does not have the shape of a file id."""
    match = _FILE.fullmatch(text)
    return None if match is None else str(uuid.UUID(match[1]))
