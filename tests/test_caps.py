"""What a request may make large has a cap, it is checked before it costs anything, and below it cost grows with size (law 38)."""

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from house import KICK_OFF, House, populate

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.delete.if_match import IfMatch
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.export.parameter_reading import ParametersReader
from fhir_bulk_middleware.fhir.elements import ElementSelection
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.search.escaping import split, unescape
from fhir_bulk_middleware.fhir.search.matching import Matcher
from fhir_bulk_middleware.fhir.search.texts import fold
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http import parameters
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.http.preferences import Preferences
from fhir_bulk_middleware.http.ranges import requested_ranges
from fhir_bulk_middleware.jose.access_token import UnverifiedToken
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes

pytestmark = pytest.mark.anyio
R4 = FhirVersion.R4


# --- The table ---------------------------------------------------------------------------------------------------------


def test_each_cap_is_refused_or_says_what_becomes_of_more() -> None:
    assert [cap.what for cap in caps.CAPS if (cap.reason is None) is not bool(cap.beyond)] == []


# --- At the cap, and beyond it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Large:
    """A request of which `size` decides how large it is; `most` is the largest that is not refused for its size."""

    what: str
    most: int
    reason: Reason
    make: Callable[[int], dict[str, Any]]
    names: str
    method: str = "GET"


def get(query: str, **headers: str) -> dict[str, Any]:
    return {"url": f"/$export?{query}", "headers": {**KICK_OFF, **headers}}


def post(*entries: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"resourceType": "Parameters", "parameter": entries}).encode()
    return {"url": "/$export", "content": body, "headers": {**KICK_OFF, "Content-Type": "application/fhir+json"}}


def text(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "valueString": value}


def lenient(request: dict[str, Any]) -> dict[str, Any]:
    return request | {"headers": request["headers"] | {"Prefer": "respond-async, handling=lenient"}}


LARGE = [
    Large("query string", caps.QUERY_BYTES, Reason.URL_TOO_LONG, lambda n: get("x" * n), "16,384"),
    Large("path", caps.PATH_CHARACTERS, Reason.URL_TOO_LONG, lambda n: {"url": "/Group/" + "g" * (n - 15) + "/$export"}, "2,048"),
    Large(
        "Prefer", 1_024, Reason.HEADER_TOO_LARGE, lambda n: get("", Prefer='respond-async, "' + '\\"' * ((n - 16) // 2)), "1,024"
    ),
    Large("Accept", 1_024, Reason.HEADER_TOO_LARGE, lambda n: get("", Accept="*/*," + "a" * (n - 4)), "1,024"),
    Large(
        "If-Match",
        4_096,
        Reason.HEADER_TOO_LARGE,
        lambda n: {"url": "/Patient/p1", "headers": {"If-Match": "1," * (n // 2)}},
        "",
        "DELETE",
    ),
    Large("Idempotency-Key", 255, Reason.HEADER_INVALID, lambda n: get("", **{"Idempotency-Key": "k" * n}), "255"),
    Large("parameters of a query", 1_000, Reason.TOO_MUCH, lambda n: get("&".join(["_type=Patient"] * n)), "1,000"),
    Large("parameters of a body", 1_000, Reason.TOO_MUCH, lambda n: post(*[text("_type", "Patient")] * n), "1,000", "POST"),
    Large("types", 1_000, Reason.TOO_MUCH, lambda n: post(text("_type", ",".join(["Patient"] * n))), "1,000", "POST"),
    Large("elements", 1_000, Reason.TOO_MUCH, lambda n: post(text("_elements", ",".join(["id"] * n))), "1,000", "POST"),
    Large(
        "associated data",
        1_000,
        Reason.TOO_MUCH,
        lambda n: lenient(post(text("includeAssociatedData", ",".join(["a"] * n)))),
        "1,000",
        "POST",
    ),
    Large("type filters", 200, Reason.TOO_MUCH, lambda n: post(*[text("_typeFilter", "Patient?active=true")] * n), "200", "POST"),
    Large(
        "values of one type filter",
        1_000,
        Reason.TOO_MUCH,
        lambda n: post(text("_typeFilter", "Patient?_id=" + ",".join(["a"] * n))),
        "1,000",
        "POST",
    ),
    Large(
        "values of several type filters",
        1_000,
        Reason.TOO_MUCH,
        lambda n: (
            post(*[text("_typeFilter", "Patient?_id=" + ",".join(["a"] * (n // 2)))] * 2, text("_typeFilter", "Patient?_id=a"))
            if n > 1_000
            else post(*[text("_typeFilter", "Patient?_id=" + ",".join(["a"] * (n // 2)))] * 2)
        ),
        "1,000",
        "POST",
    ),
    Large(
        "text of type filters",
        caps.CRITERIA_CHARACTERS,
        Reason.TOO_MUCH,
        lambda n: post(text("_typeFilter", "Patient?name=" + "a" * (n - 13))),
        "65,536",
        "POST",
    ),
    Large(
        "criteria of a delete",
        1_000,
        Reason.TOO_MUCH,
        lambda n: {"url": "/Patient?name=" + ",".join(["a"] * n)},
        "1,000",
        "DELETE",
    ),
    Large(
        "names that are set aside",
        caps.REPORTS,
        Reason.TOO_MUCH,
        lambda n: lenient(get("&".join(f"unknown{number}=1" for number in range(n)))),
        "50",
    ),
    Large(
        "objects of a body",
        caps.BODY_OPENINGS,
        Reason.TOO_MUCH,
        lambda n: post({"name": "_type", "valueString": "Patient", "extension": [{}] * (n - 4)}),
        "4,000",
        "POST",
    ),
]


@pytest.fixture
async def roomy(make_house: Any) -> Any:
    """A house in which jobs do not count."""
    async with make_house(jobs_per_owner=10_000) as house:
        await populate(house)
        yield house


@pytest.mark.parametrize("large", LARGE, ids=lambda large: large.what)
async def test_what_is_as_large_as_it_may_be_is_read_and_what_is_larger_is_refused_with_the_cap(
    roomy: House, large: Large
) -> None:
    """Law 38."""
    refusal = STANDARD.answers[large.reason]

    at_most = await roomy.ask(large.method, scope="system/*.cruds", **large.make(large.most))
    assert (at_most.status_code, code_of(at_most)) != (refusal.status, refusal.code)
    assert at_most.status_code < 500

    beyond = await roomy.ask(large.method, scope="system/*.cruds", **large.make(large.most + 2))
    assert (beyond.status_code, code_of(beyond)) == (refusal.status, refusal.code), beyond.text
    assert large.names in beyond.json()["issue"][0]["details"]["text"]


def code_of(response: Any) -> str | None:
    """The issue code of a refusal, None for whatever is none."""
    found = response.json() if response.content else {}
    code: str | None = found["issue"][0]["code"] if found.get("resourceType") == "OperationOutcome" else None
    return code


# --- Cost grows with size ----------------------------------------------------------------------------------------------


def operations(act: Callable[[], object]) -> int:
    """How many bytecodes an act takes. What runs in C is not seen; it is a scan of the text there, once.

    Garbage is not collected meanwhile: callbacks and finalizers of what other tests left behind would be counted.
    """
    count = 0

    def nothing() -> None:
        """Traced before the act, since Python 3.12 counts no bytecodes of the first frame that a process traces by bytecode."""

    def each(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return each

    before = sys.gettrace()
    collects = gc.isenabled()
    gc.disable()
    sys.settrace(each)
    nothing()
    sys.settrace(before)
    count = 0
    sys.settrace(each)
    try:
        act()
    except (ValueError, Refused, TokenRejected):
        pass
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count


def read(*sent: tuple[str, str]) -> object:
    leniency = Leniency(lenient=True)
    found = ParametersReader(STANDARD.parameters, STANDARD.lists).read(
        [Parameter(name, value, f"http.{name}") for name, value in sent], leniency
    )
    return found, leniency.ignored


def query(type_: str, name: str, value: str) -> Callable[[int], object]:
    return lambda n: Criteria.parse(R4, type_, f"{name}=" + ",".join([value] * n))


MATCHED = {
    "resourceType": "Observation",
    "category": [{"coding": [{"system": "s", "code": "no"}]}] * 5,
    "subject": {"reference": "Patient/no"},
    "valueQuantity": {"value": 5},
    "effectiveDateTime": "2020-01-01",
}


def matching(name: str, values: Callable[[int], list[str]]) -> Callable[[int], object]:
    def act(n: int) -> object:
        if (name, n) not in _matchers:
            _matchers[name, n] = Matcher(Criteria.parse(R4, "Observation", f"{name}={','.join(values(n))}"))
        return _matchers[name, n].matches(MATCHED)

    return act


_matchers: dict[tuple[str, int], Matcher] = {}

PARSERS: dict[str, Callable[[int], object]] = {
    "Prefer with escaped quotes": lambda n: Preferences.parse(['respond-async, "' + '\\"' * n]),
    "Prefer with quotes": lambda n: Preferences.parse(['"' * n]),
    "Prefer with commas": lambda n: Preferences.parse(["a," * n]),
    "Prefer with blanks": lambda n: Preferences.parse([" " * n + "=" + " " * n]),
    "Prefer of many lines": lambda n: Preferences.parse(['"' * 10] * n),
    "If-Match": lambda n: IfMatch.parse(['W/"1" ,' * n + "!"]),
    "Range": lambda n: requested_ranges("bytes=" + "0-0," * n, 100),
    "Range with blanks": lambda n: requested_ranges("bytes=" + " " * n + "0", 100),
    "query string": lambda n: parameters.from_query(b"%25=&" * n),
    "query string, encoded again and again": lambda n: parameters.from_query(b"_type=%" + b"25" * n),
    "body": lambda n: parameters.from_body(json.dumps(post_body(n)).encode()),
    "body of numbers": lambda n: parameters.from_body(b'{"resourceType":"Parameters","parameter":[' + b"1," * n + b"1]}"),
    "body of great depth": lambda n: parameters.from_body(b"[" * n),
    "body with a number of many digits": lambda n: parameters.from_body(
        b'{"resourceType":"Parameters","parameter":[{"name":"a","valueInteger":' + b"1" * n + b"}]}"
    ),
    "_type": lambda n: read(("_type", ",".join(["Patient"] * n))),
    "_elements": lambda n: read(("_elements", ",".join(["id"] * n))),
    "includeAssociatedData, set aside": lambda n: read(("includeAssociatedData", ",".join(["a"] * n))),
    "unknown parameters, set aside": lambda n: read(*[("unknown", "1")] * n),
    "patient": lambda n: read(*[("patient", "Patient/1")] * n),
    "_typeFilter": lambda n: read(*[("_typeFilter", "Patient?active=true")] * n),
    "_since of many digits": lambda n: read(("_since", "2020-01-01T00:00:00." + "1" * n + "Z")),
    "_minimumFileSize of many digits": lambda n: read(("_minimumFileSize", "1" * n)),
    "elements of a release": lambda n: ElementSelection(R4, ["name", "code"] * n),
    "token": query("Observation", "category", "a|b"),
    "token with escapes": query("Observation", "category", r"a\,b\|c|d\\"),
    "string": query("Patient", "name", "é"),
    "string with accents": lambda n: Criteria.parse(R4, "Patient", "name=a" + "\u0316\u0300" * n),
    "reference": query("Observation", "subject", "Patient/1"),
    "date": query("Observation", "date", "ge2020-01-01T00:00:00Z"),
    "date of many digits": lambda n: Criteria.parse(R4, "Observation", "date=2020-01-01T00:00:00." + "1" * n + "Z"),
    "number with a large exponent": query("RiskAssessment", "probability", "gt1e-999"),
    "number of many digits": lambda n: Criteria.parse(R4, "RiskAssessment", "probability=" + "1" * n),
    "quantity": query("Observation", "value-quantity", "5.4|http://unitsofmeasure.org|mg"),
    "uri": query("ValueSet", "url", "http://a/b"),
    "composite": query("Observation", "code-value-quantity", "a$1"),
    "criteria": lambda n: Criteria.parse(R4, "Patient", "&".join(["active=true"] * n)),
    "escapes, split": lambda n: split("\\," * n, ","),
    "escapes, meant": lambda n: unescape("\\," * n),
    "accents": lambda n: fold("\u0316\u0300" * n),
    "scopes": lambda n: Scopes.parse(["system/Patient.rs"] * n),
    "granular scopes": lambda n: Scopes.parse([f"system/Patient.rs?_id={number}" for number in range(n)]),
    "a scope of many letters": lambda n: Scopes.parse(["system/" + "A" * n + "." + "c" * n]),
    "a token of many parts": lambda n: UnverifiedToken.parse("." * n),
    "a token of great depth": lambda n: UnverifiedToken.parse("W1tbW1tbW1tbW1tbW1tb" * n + ".a.a"),
    "matching tokens": matching("category", lambda n: [f"s|{number}" for number in range(n)]),
    "matching references": matching("subject", lambda n: [f"Patient/{number}" for number in range(n)]),
    "matching dates": matching("date", lambda n: [f"gt{3000 + number % 6999}" for number in range(n)]),
    "matching quantities": matching("value-quantity", lambda n: [f"{number + 6}" for number in range(n)]),
}
SIZE = 400


def post_body(n: int) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Patient"}] * n}


@pytest.mark.parametrize("parser", PARSERS)
def test_twice_the_size_costs_at_most_twice_as_much(parser: str) -> None:
    """Law 38: counted in operations."""
    act = PARSERS[parser]
    for size in (1, SIZE, 2 * SIZE):
        act_quietly(act, size)  # what is remembered from the first time on is not what this is about

    once, twice = operations(lambda: act(SIZE)), operations(lambda: act(2 * SIZE))

    assert twice <= 2 * once + once // 100 + 50


def act_quietly(act: Callable[[int], object], size: int) -> None:
    with suppress(ValueError, Refused, TokenRejected):
        act(size)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_hundred_thousand_of_anything_take_seconds_and_not_hours(parser: str) -> None:
    """Law 38, where C hides its steps: with the square of the size it would take hours."""
    before = time.thread_time()

    act_quietly(PARSERS[parser], 100_000)

    assert time.thread_time() - before < 20


@pytest.mark.parametrize("name", ["category", "subject"])
def test_a_thousand_codes_or_references_are_looked_up_and_not_tried(name: str) -> None:
    values = {"category": "s|{}", "subject": "Patient/{}"}[name]
    act = matching(name, lambda n: [values.format(number) for number in range(n)])
    act(1)
    act(1_000)

    assert operations(lambda: act(1_000)) <= operations(lambda: act(1)) + 10
