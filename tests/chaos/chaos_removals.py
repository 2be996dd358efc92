"""Deletes through the API while servers and workers die: what is gone, what was answered and what the audit says must agree."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from chaos_client import Client
from chaos_mirror import Resources

from fhir_bulk_middleware.contract.query import Everything, Query, Window
from fhir_bulk_middleware.demo.population import EVERY_TENTH
from fhir_bulk_middleware.outcomes import Refused

__all__ = ["Removals", "served"]

_ALL = {"x-conditional-delete": "remove-all"}
_TALLY = re.compile(r"(\d+) resources were deleted")
_PATIENCE = 60.0
_DONE = frozenset({200, 204, 404})
"""A request whose answer was lost with its server is sent again, and finds nothing left to delete."""


@dataclass
class Removals:
    """One client's deletes of resources that nobody else deletes; their ids begin with `prefix`.

    Attributes:
        client: asks.
        store: where the resources are made, and looked for afterwards.
        random: what happens.
        prefix: of this round.
        ended: cancelled remove-alls, each with the number that the answer to the cancel told, and their resources.
    """

    client: Client
    store: Resources
    random: Random
    prefix: str
    serial: int = 0
    ended: list[tuple[int, set[str]]] = field(default_factory=list)

    async def run(self, done: asyncio.Event) -> None:
        """Delete in one way after the other, until the exports have ended."""
        ways = [self._one, self._one_match, self._all_matches, self._job, self._job]
        while True:
            await self.random.choice(ways)()
            if done.is_set():
                return

    async def check(self, audit: Path) -> None:
        """Law 37: the audit has each removal and no other. Law 36: nothing was removed after the answer to a cancel."""
        end = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            gone = await self._gone()
            told = {reference for reference in removals(audit) if reference.partition("/")[2].startswith(self.prefix)}
            if gone == told or asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.25)
        if gone - told:
            self.client.wrong(f"{len(gone - told)} of {len(gone)} removals are not in the audit: {sorted(gone - told)[:3]}")
        if told - gone:
            self.client.wrong(f"the audit has removals that never were: {sorted(told - gone)[:3]}")
        for tally, references in self.ended:
            if (now := len(references & gone)) != tally:
                self.client.wrong(f"the answer to a cancel told {tally} removals, and {now} are gone")

    async def _one(self) -> None:
        (reference,) = await self._made(1)
        answer = await self.client.ask("DELETE", f"/fhir/{reference}")
        if answer.status_code not in _DONE:
            self.client.wrong(f"a delete was answered {answer.status_code} {answer.text[:200]}")
        elif reference not in await self._gone():
            self.client.wrong(f"a delete was answered {answer.status_code}, and {reference} lives")

    async def _one_match(self) -> None:
        await self._made(1)
        answer = await self.client.ask("DELETE", f"/fhir/Observation?identifier={self._batch}")
        if answer.status_code not in _DONE:
            self.client.wrong(f"a conditional delete was answered {answer.status_code} {answer.text[:200]}")

    async def _all_matches(self) -> None:
        references = await self._made(self.random.randint(2, 20))
        answer = await self.client.ask("DELETE", f"/fhir/Observation?identifier={self._batch}", headers=_ALL)
        left = references - await self._gone()
        if answer.status_code not in _DONE or left:
            self.client.wrong(f"a remove-all was answered {answer.status_code}, and {len(left)} live")

    async def _job(self) -> None:
        """A remove-all as a job, perhaps cancelled."""
        references = await self._made(self.random.randint(20, 80))
        headers = {**_ALL, "Prefer": "respond-async", "Idempotency-Key": self._batch}
        answer = await self.client.ask("DELETE", f"/fhir/Observation?identifier={self._batch}", headers=headers)
        if answer.status_code != 202:
            self.client.wrong(f"a remove-all as a job was answered {answer.status_code} {answer.text[:200]}")
            return
        path = urlsplit(answer.headers["Content-Location"]).path
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.uniform(0, 1))
            await self._cancel(path, references)
            return
        end = asyncio.get_running_loop().time() + _PATIENCE
        while (answer := await self.client.ask("GET", path)).status_code == 202:
            if asyncio.get_running_loop().time() > end:
                self.client.wrong("a remove-all as a job does not end")
                return
            await asyncio.sleep(0.05)
        if answer.status_code == 200 and (left := references - await self._gone()):
            self.client.wrong(f"a remove-all as a job is done, and {len(left)} live")

    async def _cancel(self, path: str, references: set[str]) -> None:
        """The answer to the cancel says how many are gone; a client that lost it asks again."""
        answer = await self.client.ask("DELETE", path)
        if answer.status_code == 202 and (tally := _TALLY.search(answer.text)):
            self.ended.append((int(tally[1]), references))
        elif answer.status_code == 202:
            self.client.wrong(f"the answer to the cancel of a remove-all tells no number: {answer.text[:200]}")
        elif answer.status_code == 404:  # the first answer was lost with its server: nothing may be removed from now on
            self.ended.append((len(references & await self._gone()), references))
        else:
            self.client.wrong(f"the cancel of a remove-all was answered {answer.status_code}")

    @property
    def _batch(self) -> str:
        return f"{self.prefix}{self.serial}"

    async def _made(self, count: int) -> set[str]:
        """New resources under an identifier of their own, some of them of a member of the group."""
        self.serial += 1
        group = await self.store.read("Group", EVERY_TENTH)
        assert group is not None
        members = [member["entity"]["reference"] for member in json.loads(group.json)["member"]]
        lines = [
            json.dumps(
                {
                    "resourceType": "Observation",
                    "id": f"{self._batch}-{number}",
                    "identifier": [{"value": self._batch}],
                    "status": "final",
                    "code": {"text": "to be removed"},
                    "subject": {"reference": self.random.choice(members)},
                },
                separators=(",", ":"),
            ).encode()
            for number in range(count)
        ]
        while True:
            try:
                await asyncio.to_thread(self.store.load, lines)
            except Refused:
                await asyncio.sleep(0.1)  # that is one of the disturbances
            else:
                return {f"Observation/{self._batch}-{number}" for number in range(count)}

    async def _gone(self) -> set[str]:
        """What is deleted now, whatever its instant: what a cut under way does not see has one after the store's clock."""
        query = Query(type="Observation", selection=Everything(), window=Window(), as_of=None)
        found: set[str] = set()
        async for deletions in self.store.deletions(query, None):
            found.update(deletions.references)
        return {reference for reference in found if reference.partition("/")[2].startswith(self.prefix)}


def removals(path: Path) -> set[str]:
    """All that the audit says was removed."""
    return {reference for record in _records(path) if record["event"] == "deleted" for reference in record["references"]}


def served(path: Path) -> Counter[str]:
    """How often the audit says of a file that it was served."""
    return Counter(record["file_id"] for record in _records(path) if record["event"] == "file-served")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
