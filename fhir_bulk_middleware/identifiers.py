"""The ids that we hand out: opaque, unguessable and of a shape that only we use (KO-115, law 14)."""

import re
import secrets
import uuid
from collections.abc import Callable

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
"""Where job ids come from; passed in."""

JOB_ID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The shape of a job id, as a regular expression."""

FILE_ID_PATTERN = r"bulk\.([0-9a-f]{32})\.(?:0|[1-9][0-9]{0,6})-(?:0|[1-9][0-9]{0,6})"
"""The shape of a file id, as a regular expression; its one group is the job's id without hyphens."""

RESOURCE_ID_PATTERN = "[A-Za-z0-9.-]{1,64}"
"""The shape of a FHIR id, of a resource or of a version, as a regular expression."""

_JOB = re.compile(JOB_ID_PATTERN, re.ASCII)
_FILE = re.compile(FILE_ID_PATTERN, re.ASCII)
_RESOURCE = re.compile(rf"(?!\.+\Z){RESOURCE_ID_PATTERN}", re.ASCII)


def new_job_id() -> str:
    """A new job id: 128 random bits, written like a UUID because some source documents show one."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16)))


def is_job_id(text: str) -> bool:
    """Whether `text` has the shape of a job id. Only such text reaches a store."""
    return _JOB.fullmatch(text) is not None


def file_id(job_id: str, slice_number: int, part_number: int) -> str:
    """The id of a job's file. It is a FHIR id too, since some dialects show files as `Binary/{id}`."""
    return f"bulk.{uuid.UUID(job_id).hex}.{slice_number}-{part_number}"


def is_file_id(text: str) -> bool:
    """Whether `text` has the reserved shape of our file ids."""
    return _FILE.fullmatch(text) is not None


def is_resource_id(text: str) -> bool:
    """Whether `text` is an id that a resource can have and an adapter is asked for.

    FHIR's pattern also takes ids of nothing but dots; those are steps in a path to many a storage, and none is asked (law 42).
    """
    return _RESOURCE.fullmatch(text) is not None


def job_of_file(text: str) -> str | None:
    """The id of the job that a file belongs to, None if `text` is no file id of ours."""
    match = _FILE.fullmatch(text)
    return None if match is None else str(uuid.UUID(match[1]))
