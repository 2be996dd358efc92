"""An adapter that answers with a wrong type is told at its first use, in one sentence (law 43)."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from house import KICK_OFF

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Page, Query
from fhir_bulk_middleware.instant import Instant, Precision

pytestmark = pytest.mark.anyio


TYPES: Any = "Patient"
STR = Authorisation(TYPES)


class Answering:
    """Gives the answers that it was made with."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    async def authorise(self, principal: Principal) -> Any:
        del principal
        return self._answers.get("authorise", Authorisation(frozenset({"Patient"})))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        del query, after
        for page in self._answers.get("pages", ()):
            yield page

    async def members(self, group_id: str, principal: Principal) -> Any:
        del group_id, principal
        return self._answers.get("members")

    async def patients(self, references: frozenset[str], principal: Principal) -> Any:
        del references, principal
        return self._answers.get("patients")

    async def now(self) -> Instant:
        return Instant(2**60)

    async def cut(self, precision: Precision) -> Any:
        del precision
        return self._answers.get("cut", Instant(0))

    async def slices(self, query: Query, target_bytes: int) -> Any:
        del query, target_bytes
        return self._answers.get("slices", [])


@pytest.mark.parametrize(
    ("answers", "path", "said"),
    [
        ({"authorise": {"Patient"}}, "/$export", "authorise returned a set and must return Authorisation"),
        ({"authorise": None}, "/$export", "authorise returned a NoneType and must return Authorisation"),
        ({"authorise": STR}, "/$export", "authorise (Authorisation.types) returned a str and must return frozenset"),
        ({"members": ["Patient/1"]}, "/Group/g/$export", "members returned a list and must return frozenset"),
        ({"members": {1, 2}}, "/Group/g/$export", "members (an entry) returned a int and must return str"),
    ],
)
async def test_at_the_kick_off(make_house: Any, caplog: pytest.LogCaptureFixture, answers: Any, path: str, said: str) -> None:
    async with make_house(parts={"resources": Answering(**answers)}) as house:
        response = await house.ask("GET", path, headers=KICK_OFF)
        assert response.status_code == 500
        assert said not in response.text
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert f"the adapter's {said}: see fhir_bulk_middleware.contract" == str(record.exc_info[1])


async def test_at_a_kick_off_that_names_patients(make_house: Any, caplog: pytest.LogCaptureFixture) -> None:
    parameter = {"name": "patient", "valueReference": {"reference": "Patient/1"}}
    async with make_house(parts={"resources": Answering(patients=True)}) as house:
        body = {"resourceType": "Parameters", "parameter": [parameter]}
        assert (await house.ask("POST", "/Patient/$export", headers=KICK_OFF, json=body)).status_code == 500
    assert "the adapter's patients returned a bool and must return frozenset" in caplog.text


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"cut": "2026-01-01"}, "cut returned a str and must return int"),
        ({"slices": "all"}, "slices (an entry) returned a str and must return Range"),
        ({"slices": [("0-9", 10)]}, "slices (an entry) returned a tuple and must return Range"),
    ],
)
async def test_in_a_worker(make_house: Any, caplog: pytest.LogCaptureFixture, answers: Any, said: str) -> None:
    async with make_house(parts={"resources": Answering(**answers)}, attempts=1) as house:
        location = await house.kick_off()
        await house.runner.finish()
        assert (await house.ask("GET", location)).status_code == 500
    assert f"the adapter's {said}" in caplog.text
    assert "its work was begun 1 times and never finished; last: TypeError" in caplog.text
