"""The parameters of a request for the list of one's jobs: `_count`, and the cursor of the `next` link."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlencode

from fhir_bulk_middleware.caps import LISTED
from fhir_bulk_middleware.contract.job_store import ListPlace
from fhir_bulk_middleware.http.parameters import from_query
from fhir_bulk_middleware.identifiers import JOB_ID_PATTERN
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["COUNT", "COUNT_PATTERN", "CURSOR", "CURSOR_PATTERN", "ListRequest"]

COUNT = "_count"
COUNT_PATTERN = "[1-9][0-9]{0,8}"
CURSOR = "_cursor"
CURSOR_PATTERN = "[A-Za-z0-9_-]{1,80}={0,2}"
_BY_DEFAULT = 50
_COUNT = re.compile(COUNT_PATTERN, re.ASCII)
_CURSOR = re.compile(CURSOR_PATTERN, re.ASCII)
_PLACE = re.compile(rf"([0-9]{{1,18}})\.({JOB_ID_PATTERN})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A request for a page of the list.

    Attributes:
        count: the largest number of jobs on the page.
        after: where the page begins; None for the first page.
    """

    count: int = _BY_DEFAULT
    after: ListPlace | None = None

    @classmethod
    def read(cls, query: bytes) -> Self:
        """The request of a query string. A count above the cap is lowered to it.

        Raises:
            Refused: a parameter is unknown, repeated or malformed.
        """
        given: dict[str, str] = {}
        for parameter in from_query(query):
            if parameter.name not in {COUNT, CURSOR}:
                raise Refused(Reason.PARAMETER_UNKNOWN, f"Parameters here are {COUNT} and {CURSOR}.", part=parameter.part)
            if parameter.name in given:
                raise Refused(Reason.PARAMETER_REPEATED, f"{parameter.name} may be given once only.", part=parameter.part)
            given[parameter.name] = parameter.value
        count = given.get(COUNT, str(_BY_DEFAULT))
        if _COUNT.fullmatch(count) is None:
            raise Refused(Reason.VALUE_MALFORMED, f"{COUNT} must be a number of jobs, 1 or more.", part=f"http.{COUNT}")
        return cls(min(int(count), LISTED), _place(given[CURSOR]) if CURSOR in given else None)

    def going_on(self, after: ListPlace) -> Self:
        """The request for the next page."""
        return replace(self, after=after)

    @property
    def query(self) -> str:
        """The query string that asks for this page."""
        cursor = {} if self.after is None else {CURSOR: _cursor(self.after)}
        return urlencode({COUNT: self.count, **cursor})


def _cursor(place: ListPlace) -> str:
    return urlsafe_b64encode(f"{place.created_at}.{place.job_id}".encode()).decode().rstrip("=")


def _place(cursor: str) -> ListPlace:
    """The place that a cursor stands for. A client that makes one up gets another part of its own list, so it is not signed."""
    try:
        text = urlsafe_b64decode(f"{cursor}==").decode() if _CURSOR.fullmatch(cursor) else ""
    except (Error, UnicodeDecodeError):
        text = ""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise Refused(Reason.VALUE_MALFORMED, f"{CURSOR} must come from a `next` link, unchanged.", part=f"http.{CURSOR}")
    return ListPlace(Instant(int(found[1])), found[2])
