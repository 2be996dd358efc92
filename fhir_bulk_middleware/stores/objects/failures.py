"""Turns obstore's exceptions into those of the contract of output stores."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["busy", "in_words", "is_missing", "translated"]

_log = logging.getLogger("fhir_bulk_middleware")

_STATUS = re.compile(r"status code: (\d{3})")
_OF_THE_STORE = re.compile(r"Generic \w+ error|Error performing")
_CLIENT_ERRORS = range(400, 500)
_TEMPORARY = frozenset({408, 409, 425, 429})
_RETRY_AFTER = 10
_LONGEST = 400


@contextmanager
def translated(what: str) -> Iterator[None]:
    """For the time of the context, raise what an output store may raise instead of obstore's exceptions.

    An answer that says that the request is wrong is a fault, which an operator must mend. All others (throttling, 5xx, timeouts,
    connections that were refused or cut) pass.

    Args:
        what: what is being done, for the log.

    Raises:
        Refused: `BUSY`: the store cannot answer now. The cause is in the log.
        PermissionError: the store refuses the credentials.
        OSError: the store refuses the request.
    """
    try:
        yield
    except AlreadyExistsError:
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(f"the object store refuses the credentials while {what}: {in_words(error)}") from None
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        words = in_words(error)
        if isinstance(error, OSError) and _OF_THE_STORE.search(words) is None:  # ours, not what obstore's writers raise
            raise
        status = _STATUS.search(words)
        if status is not None and int(status[1]) in _CLIENT_ERRORS and int(status[1]) not in _TEMPORARY:
            raise OSError(f"the object store refuses a request while {what}: {words}") from None
        raise busy(what, words) from None


def busy(what: str, why: str) -> Refused:
    """`BUSY`: the store cannot answer now. What was being done and why it failed go to the log, not to the client."""
    _log.warning("the object store cannot answer while %s: %s", what, why)
    return Refused(Reason.BUSY, "The store of exported files cannot answer now; try again later.", retry_after=_RETRY_AFTER)


def is_missing(error: Exception) -> bool:
    """Whether the store says that an object does not exist; of a deletion of several it says so in its own code."""
    return isinstance(error, FileNotFoundError) or "NoSuchKey" in str(error)


def in_words(error: Exception) -> str:
    """The message without the dump of structures that follows it, on one line."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:_LONGEST]
