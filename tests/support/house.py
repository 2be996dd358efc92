"""A mount on memory stores behind a real ASGI application, with a clock and a runner that tests control."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import official

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.deletes import SupportsDelete
from fhir_bulk_middleware.contract.job import Failure, JobState, Part
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.running import Work
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.dialects import Dialect
from fhir_bulk_middleware.instant import Instant, after, parse
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

ISSUER = "https://auth.example"
AUDIENCE = "https://ehr.example/fhir"
BASE = "https://ehr.example/fhir"
KICK_OFF = {"Prefer": "respond-async", "Accept": "application/fhir+json"}


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self._followers: list[Callable[[Instant], None]] = []
        self.now = parse("2026-03-01T12:00:00Z")

    @property
    def now(self) -> Instant:
        """The instant that the test has made it."""
        return self._now

    @now.setter
    def now(self, now: Instant) -> None:
        self._now = now
        for follower in self._followers:
            follower(now)

    def follow(self, follower: Callable[[Instant], None]) -> None:
        """Set another clock, such as that of a database, whenever this one is set."""
        self._followers.append(follower)
        follower(self._now)

    def __call__(self) -> Instant:
        """The instant that the test has made it."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now = after(self.now, seconds)


class HandRunner:
    """A runner that works only when a test tells it to."""

    def __init__(self) -> None:
        self.work: Work | None = None

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncIterator[None]:
        """Keep the work for the test."""
        self.work = work
        yield

    def wake(self) -> None:
        """Work waits for the test."""

    async def step(self) -> bool:
        """Do one piece of work."""
        assert self.work is not None
        return await self.work.step("test-worker")

    async def finish(self) -> None:
        """Do all the work there is."""
        while await self.step():
            pass


class House:
    """One mount on memory stores, and clients that talk to it over ASGI; `parts` go to `BulkData` as they are."""

    def __init__(
        self,
        mint: TokenMint,
        dialect: Dialect,
        settings: Settings,
        store: type[MemoryResourceStore] = MemoryResourceStore,
        **parts: Any,
    ) -> None:
        self.mint = mint
        self.dialect = dialect
        self.clock = HandClock()
        self.runner = HandRunner()
        self.settings = settings
        self.resources = store(clock=self.clock)
        self.jobs = MemoryJobStore()
        self.outputs = MemoryOutputStore()
        self.verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE, clock=self.clock)
        own: dict[str, Any] = {
            "resources": self.resources,
            "verifier": self.verifier,
            "jobs": self.jobs,
            "outputs": self.outputs,
            "runner": self.runner,
            "settings": settings,
            "dialect": dialect,
            "clock": self.clock,
            "deletes": AIDBOX if isinstance(parts.get("resources", self.resources), SupportsDelete) else None,
        }
        self.bulk = BulkData(**{**own, **parts})
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.bulk.app), base_url="https://ehr.example/")
        del self.http.headers["Accept"]  # what a client accepts is up to each test

    def token(self, subject: str = "alice", scope: str = "system/*.rs", **claims: Any) -> str:
        """A bearer token that is good now."""
        return self.mint.token(subject, scope, now=self.clock(), **claims)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        subject: str | None = "alice",
        scope: str = "system/*.rs",
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        **more: Any,
    ) -> httpx2.Response:
        """One request; without a subject it carries no token."""
        if token is None and subject is not None:
            token = self.token(subject, scope)
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        path = url.removeprefix(BASE)
        answer = await self.http.request(method, path, headers={**authorization, **(headers or {})}, **more)
        if answer.content and answer.headers.get("Content-Type") == "application/fhir+json":
            official.check_body(answer.content)  # whatever a test is about: what we emit is valid
        return answer

    async def kick_off(self, path: str | None = None, **more: Any) -> str:
        """The polling location of an export that was accepted; by default at the first level that the dialect has."""
        level = next(level for level in Level if level in self.dialect.kick_off)
        own = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/both/$export"}[level]
        response = await self.ask(self.dialect.kick_off[level][0], path or own, headers=KICK_OFF, **more)
        assert response.status_code == 202, response.text
        return str(response.headers["Content-Location"])

    async def export(self, path: str | None = None, **more: Any) -> dict[str, Any]:
        """The manifest of an export that has run."""
        self.clock.advance(1)  # what was written in this very millisecond is not yet before a cut that shows milliseconds
        location = await self.kick_off(path, **more)
        await self.runner.finish()
        response = await self.ask("GET", location, **{key: value for key, value in more.items() if key in {"subject", "scope"}})
        assert response.status_code == 200, response.text
        manifest: dict[str, Any] = response.json()
        return manifest

    async def lines(self, manifest: Mapping[str, Any], key: str = "output") -> dict[str, list[str]]:
        """By type, the lines of all files of a manifest's list."""
        found: dict[str, list[str]] = {}
        for item in manifest[key]:
            response = await self.ask("GET", item["url"])
            assert response.status_code == 200, response.text
            found.setdefault(item["type"], []).extend(response.text.splitlines())
        return found

    async def parts(self, location: str) -> tuple[Part, ...]:
        """The sealed parts of a job."""
        standing = await self.jobs.standing(job_of(location), self.bulk.mount, Owner(ISSUER, "alice"))
        return () if standing is None else standing.parts

    async def fail(self, location: str) -> None:
        """Let a job fail for good."""
        job = await self.jobs.find(job_of(location), self.bulk.mount, Owner(ISSUER, "alice"))
        assert job is not None
        assert await self.jobs.replace(job.failed(Failure(Reason.JOB_FAILED, "The disk broke."), self.clock()))

    async def expire(self) -> None:
        """Let all finished jobs reach the end of their retention, and sweep."""
        self.clock.advance(self.settings.retention + 1)
        await self.sweep()

    async def sweep(self) -> None:
        """Do what a server does now and then."""
        adapter = self.bulk.registration.adapter
        await Retention(self.jobs, self.outputs, self.settings, self.clock, adapter=adapter).sweep()

    async def claim(self) -> Lease | None:
        """Take the next piece of work, and do nothing with it."""
        adapter = self.bulk.registration.adapter
        return await self.jobs.claim("w", self.clock(), lease_seconds=30, adapter=adapter)

    async def turn(self, location: str, state: JobState) -> None:
        """Bring a job that was just kicked off into a state."""
        match state:
            case JobState.QUEUED:
                pass
            case JobState.RUNNING:
                await self.runner.step()
            case JobState.COMPLETED:
                await self.runner.finish()
            case JobState.FAILED:
                await self.fail(location)
            case JobState.CANCELLED:
                assert (await self.ask("DELETE", location)).status_code == 202
            case JobState.EXPIRED:
                await self.runner.finish()
                await self.expire()


def job_of(location: str) -> str:
    """The job id in a polling location of any dialect."""
    found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", location)
    assert found
    return found[0]


async def populate(house: House) -> None:
    """Give the house a few people's data, written before now."""
    for resource in people():
        await house.resources.create(resource["resourceType"], resource, resource["id"])
    house.clock.advance(1)


def people() -> list[dict[str, Any]]:
    """Three patients, some data of two of them, some data of nobody, and three groups."""
    patient = "Patient"
    return [
        {"resourceType": patient, "id": "p1", "name": [{"family": "Álvarez"}]},
        {"resourceType": patient, "id": "p2"},
        {"resourceType": patient, "id": "p3"},
        {"resourceType": "Organization", "id": "o1", "name": "Ward"},
        {
            "resourceType": "Observation",
            "id": "b1",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": "Patient/p1"},
        },
        {
            "resourceType": "Observation",
            "id": "b2",
            "status": "final",
            "code": {"text": "y"},
            "subject": {"reference": "Patient/p2"},
        },
        {"resourceType": "Observation", "id": "b3", "status": "final", "code": {"text": "of nobody"}},
        {
            "resourceType": "Observation",
            "id": "b4",
            "status": "final",
            "code": {"text": "of two"},
            "subject": {"reference": "Patient/p1"},
            "performer": [{"reference": "Patient/p2"}],
        },
        {
            "resourceType": "Group",
            "id": "both",
            "type": "person",
            "actual": True,
            "member": [{"entity": {"reference": "Patient/p1"}}, {"entity": {"reference": "Patient/p2"}}],
        },
        {
            "resourceType": "Group",
            "id": "first",
            "type": "person",
            "actual": True,
            "member": [{"entity": {"reference": "Patient/p1"}}],
        },
        {"resourceType": "Group", "id": "nobody", "type": "person", "actual": True},
    ]
