"""The caps on everything that a request can make large, and the checks that cost next to nothing (law 38).

`CAPS` is what the documentation shows (`.github/caps.md`); a test compares the two. A cap that an operator can change names the
field of `Settings` that holds it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fhir_bulk_middleware.outcomes import LONGEST_DETAIL, Reason, Refused

__all__ = ["CAPS", "HEADER_BYTES", "Cap", "check_request"]

PATH_CHARACTERS: Final = 2_048
QUERY_BYTES: Final = 16 * 1024
TOKEN_BYTES: Final = 16 * 1024
BODY_OPENINGS: Final = 4_000
BODY_COMMAS: Final = 100_000
PARAMETERS: Final = 1_000
VALUES: Final = 1_000
TYPE_FILTERS: Final = 200
CRITERIA_VALUES: Final = 1_000
CRITERIA_CHARACTERS: Final = 64 * 1024
SCOPES: Final = 1_000
GRANULAR_SCOPES: Final = 100
GRANULAR_QUERIES: Final = 1_000
GRANULAR_CHARACTERS: Final = 64 * 1024
REPORTS: Final = 50
LISTED: Final = 200
LOOKED_AT: Final = 1_000
IDEMPOTENCY_KEY: Final = 255
REQUEST_ID: Final = 128
RANGES: Final = 16
PATHS_REMEMBERED: Final = 1_024
PATH_REMEMBERED: Final = 256
TOKENS_REMEMBERED: Final = 1_024
TOKENS_BYTES: Final = 2 * 1024 * 1024
STATEMENT_BYTES: Final = 3 * 1024 * 1024
STATEMENTS_BYTES: Final = 8 * 1024 * 1024
STATEMENTS_WAITING: Final = 16
HELD_POLLS: Final = 200
HELD_POLLS_OF_OWNER: Final = 10
HOLD_SECONDS: Final = 30

_SHORT: Final = 1_024
_TAGS: Final = 4 * 1024
HEADER_BYTES: Final[Mapping[bytes, int]] = MappingProxyType(
    {
        b"accept": _SHORT,
        b"accept-encoding": _SHORT,
        b"authorization": TOKEN_BYTES + len(b"Bearer "),
        b"content-type": _SHORT,
        b"host": _SHORT,
        b"idempotency-key": _SHORT,
        b"if-match": _TAGS,
        b"if-modified-since": _SHORT,
        b"if-none-match": _TAGS,
        b"if-range": _SHORT,
        b"prefer": _SHORT,
        b"range": _SHORT,
    }
)
"""Bytes of each header that we read, over all its lines. `X-Request-Id` has a cap of its own."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A row of the table of caps.

    Attributes:
        what: what is bounded.
        limit: the largest allowed value: a number, or the name of the field of `Settings` that holds it.
        unit: of the limit.
        reason: of the refusal of a request beyond the limit; None if the request is not refused.
        beyond: what happens instead of a refusal.
    """

    what: str
    limit: int | str
    unit: str
    reason: Reason | None = None
    beyond: str = ""


CAPS: Final[tuple[Cap, ...]] = (
    Cap("Path, decoded", PATH_CHARACTERS, "characters", Reason.URL_TOO_LONG),
    Cap("Query string", QUERY_BYTES, "bytes", Reason.URL_TOO_LONG),
    Cap("`Authorization`", HEADER_BYTES[b"authorization"], "bytes", Reason.HEADER_TOO_LARGE),
    Cap("`If-Match`, `If-None-Match`", _TAGS, "bytes", Reason.HEADER_TOO_LARGE),
    Cap("`Prefer`, and every other header that is read", _SHORT, "bytes", Reason.HEADER_TOO_LARGE),
    Cap("`Idempotency-Key`", IDEMPOTENCY_KEY, "characters", Reason.HEADER_INVALID),
    Cap("`X-Request-Id`", REQUEST_ID, "characters", beyond="it is not given back"),
    Cap("`Range`", RANGES, "ranges", beyond="the whole file is sent"),
    Cap("Body of a kick-off", "body_bytes", "bytes", Reason.BODY_TOO_LARGE),
    Cap("Objects and arrays in it", BODY_OPENINGS, "braces and brackets", Reason.TOO_MUCH),
    Cap("Commas in it", BODY_COMMAS, "commas", Reason.TOO_MUCH),
    Cap("Depth of its JSON", 200, "levels", Reason.BODY_MALFORMED),
    Cap("Time for a body to arrive", "body_seconds", "seconds", Reason.BODY_TOO_SLOW),
    Cap("Parameters of a kick-off or a delete", PARAMETERS, "parameters", Reason.TOO_MUCH),
    Cap("Values of one parameter (`_type`, `_elements`, `includeAssociatedData`)", VALUES, "values", Reason.TOO_MUCH),
    Cap("Patients of a list (`patient`)", PARAMETERS, "patients", Reason.TOO_MUCH),
    Cap("Queries of all `_typeFilter`", TYPE_FILTERS, "queries", Reason.TOO_MUCH),
    Cap("Search values of all `_typeFilter`, or of a conditional delete", CRITERIA_VALUES, "values", Reason.TOO_MUCH),
    Cap("Text of all `_typeFilter`, or of a conditional delete", CRITERIA_CHARACTERS, "characters", Reason.TOO_MUCH),
    Cap("Parameter names that one `handling=lenient` sets aside, with one report each", REPORTS, "names", Reason.TOO_MUCH),
    Cap("Scopes of a token", SCOPES, "scopes", beyond="further ones grant nothing"),
    Cap("Granular scopes of a token", GRANULAR_SCOPES, "scopes", beyond="further ones grant nothing"),
    Cap("Search values of one granular scope", CRITERIA_VALUES, "values", beyond="the scope grants nothing"),
    Cap("Granular scopes that restrict one job, counted for each type", GRANULAR_QUERIES, "queries", Reason.TOO_MUCH),
    Cap("Their text", GRANULAR_CHARACTERS, "characters", Reason.TOO_MUCH),
    Cap("What a refusal says, and the part of the request that it names", LONGEST_DETAIL, "characters", beyond="it is cut"),
    Cap("Jobs of one owner that are queued or running", "jobs_per_owner", "jobs", Reason.JOBS_TOO_MANY),
    Cap("Jobs on a page of the list of one's jobs (`_count`)", LISTED, "jobs", beyond="the `next` link leads on"),
    Cap("Jobs that are looked at for such a page", LOOKED_AT, "jobs", beyond="the `next` link leads on"),
    Cap("Kick-offs of one owner", "kick_offs_per_minute", "a minute", Reason.REQUESTS_TOO_MANY),
    Cap("Refusals of one owner", "refusals_per_minute", "a minute", Reason.REQUESTS_TOO_MANY),
    Cap(
        "Requests of one owner at once, downloads to their last byte",
        "requests_per_owner",
        "requests",
        Reason.REQUESTS_TOO_MANY,
    ),
    Cap("Polls of one job", "polls_per_second", "a second", Reason.POLLED_TOO_OFTEN),
    Cap("Time that a poll is held open (`Prefer: wait`)", HOLD_SECONDS, "seconds", beyond="it is answered then"),
    Cap(
        "Polls of one owner that are held open at once", HELD_POLLS_OF_OWNER, "polls", beyond="further ones are answered at once"
    ),
    Cap("Polls of one mount that are held open at once", HELD_POLLS, "polls", beyond="further ones are answered at once"),
    Cap("Resources that one conditional delete removes", "removals_at_most", "resources", beyond="nothing is removed"),
    Cap("The same as a job", "removals_at_most_async", "resources", beyond="nothing is removed"),
    Cap("Host's CapabilityStatement, unpacked", STATEMENT_BYTES, "bytes", beyond="it goes out as it is, and the log says so"),
    Cap("Amended CapabilityStatements that are remembered", STATEMENTS_BYTES, "bytes", beyond="the oldest go"),
    Cap("Requests that wait for one to be amended", STATEMENTS_WAITING, "requests", beyond="it goes out as it is"),
    Cap("Paths whose route is remembered", PATHS_REMEMBERED, "paths", beyond="all are forgotten"),
    Cap("Method and path that are remembered", PATH_REMEMBERED, "characters", beyond="they are not remembered"),
    Cap("Tokens whose verification is remembered", TOKENS_REMEMBERED, "tokens", beyond="the oldest go"),
    Cap("Their size together", TOKENS_BYTES, "bytes", beyond="the oldest go"),
)
"""All caps. Anything else that a request can make large is bounded by one of these."""


def check_request(scope: Mapping[str, Any]) -> None:
    """Refuse a request by the sizes in its ASGI scope, before anything is parsed.

    Raises:
        Refused: `URL_TOO_LONG` or `HEADER_TOO_LARGE`.
    """
    if len(scope["query_string"]) > QUERY_BYTES:
        detail = f"A query string may have {QUERY_BYTES:,} bytes; send more as a Parameters resource in the body of a POST."
        raise Refused(Reason.URL_TOO_LONG, detail, part="http.query")
    if len(scope["path"]) > PATH_CHARACTERS:
        raise Refused(Reason.URL_TOO_LONG, f"A path may have {PATH_CHARACTERS:,} characters; none of ours is longer.")
    seen: dict[bytes, int] = {}
    for name, value in scope["headers"]:
        most = HEADER_BYTES.get(name)
        if most is None:
            continue
        size = seen[name] = seen.get(name, 0) + len(value)
        if size > most:
            shown = name.decode().title()
            raise Refused(
                Reason.HEADER_TOO_LARGE, f"{shown} may have {most:,} bytes here; send a shorter one.", part=f"http.{shown}"
            )


def check_body(body: bytes) -> None:
    """Refuse JSON with so many parts that parsing would take longer than its size suggests.

    Raises:
        Refused: `TOO_MUCH`.
    """
    if body.count(b"{") + body.count(b"[") > BODY_OPENINGS or body.count(b",") > BODY_COMMAS:
        detail = f"A body may have {BODY_OPENINGS:,} objects and arrays, and {BODY_COMMAS:,} commas; split the export."
        raise Refused(Reason.TOO_MUCH, detail, part="Parameters")


def check_values(name: str, texts: Iterable[str], part: str | None) -> None:
    """Refuse too many values of one parameter, counted by their commas before they are parsed.

    Raises:
        Refused: `TOO_MUCH`.
    """
    if sum(text.count(",") + 1 for text in texts) > VALUES:
        raise Refused(Reason.TOO_MUCH, f"{name} may have {VALUES:,} values; split the export, or leave {name} out.", part=part)


def check_type_filters(texts: Iterable[str], part: str | None) -> None:
    """Refuse too much text in `_typeFilter`, before it is parsed.

    Raises:
        Refused: `TOO_MUCH`.
    """
    if sum(map(len, texts)) > CRITERIA_CHARACTERS:
        detail = f"All _typeFilter together may have {CRITERIA_CHARACTERS:,} characters; split the export."
        raise Refused(Reason.TOO_MUCH, detail, part=part)
