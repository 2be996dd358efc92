"""The keys of an output store: `{job_id}/{name}`, both chosen by us."""

import re

from fhir_bulk_middleware.identifiers import is_job_id

__all__ = ["split_key"]

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}", re.ASCII)


def split_key(key: str) -> tuple[str, str]:
    """The job's id and the part's name.

    Raises:
        ValueError: the key has another form. We make all keys, so this is a fault of the program; the check keeps such a fault
            inside the store's folder.
    """
    job_id, _, name = key.partition("/")
    if not is_job_id(job_id) or _NAME.fullmatch(name) is None:
        raise ValueError("a key is a job's id, a slash and a name of letters, digits, dots, dashes and underscores")
    return job_id, name
