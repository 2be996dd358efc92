"""Rounds of exports under disturbances, and the laws that must hold after each."""

import asyncio
import hashlib
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from chaos_client import Client
from chaos_cluster import Cluster
from chaos_mirror import Mirror, mirrors
from chaos_removals import Removals, served
from chaos_replay import File, replayed
from chaos_server import ADAPTER, BRIEF_SECONDS, ISSUER, SETTINGS
from chaos_sites import SITES, OnPostgres
from cutting_proxy import Cut
from faulty_proxy import Fault

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.observers.audit_file import Broken, verify
from fhir_bulk_middleware.outcomes import Refused

END = 60.0
"""Seconds within which a job must have ended; a few undisturbed seconds, and the longest disturbance."""

TYPES = ("Condition", "Encounter", "ExplanationOfBenefit", "MedicationRequest", "Observation", "Patient")


@dataclass
class Export:
    """One export of a round.

    Attributes:
        path: the polling location.
        key: its idempotency key.
        outcome: what became of it.
        cancel_after: seconds after which it is cancelled, None if it is not.
        urls: of its files, as far as a manifest named them.
        mirror: whose chain it goes on with, None for an export of its own.
    """

    mount: str
    types: tuple[str, ...]
    key: str
    cancel_after: float | None
    path: str = ""
    outcome: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    detail: str = ""
    mirror: Mirror | None = None

    @property
    def target(self) -> str:
        """What is asked for at its kick-off."""
        if self.mirror is not None:
            return f"/{self.mount}{self.mirror.path}?{self.mirror.query}"
        return f"/{self.mount}/$export?_type={','.join(self.types)}"

    @property
    def job_id(self) -> str:
        return self.path.rpartition("/")[2]


class Round:
    """One round: what happens in it follows from its number and the seed, but not at which instruction it strikes."""

    def __init__(
        self, cluster: Cluster, followers: list[Mirror], elders: "list[tuple[str, Export]]", seed: str, number: int
    ) -> None:
        self.cluster = cluster
        self.elders = elders
        """Completed exports of earlier rounds with their owners, whose files later ones link."""
        self.linked = 0
        """How many files were linked."""
        self.mirrors = followers
        self.random = Random(f"{seed}.{number}")  # noqa: S311 - to be repeated, not to be secret
        self.client = Client(cluster, self.random, self.random.choice(["alice", "bob"]))
        possible = list(DISTURBANCES | ON[cluster.site.name])
        self.name = self.random.choice(possible)
        self.second = self.random.choice([*possible, "calm", "calm", "calm"])
        if {"clock", "expiry"} <= {self.name.partition(" ")[0], self.second.partition(" ")[0]}:
            self.second = "calm"  # a clock that is set back brings a brief result back; that is no race
        if "slow reader" in {self.name, self.second} and {self.name, self.second} & ENDS_DOWNLOADS:
            self.second, self.name = "calm", "slow reader"
        self.names = tuple(sorted({self.name, self.second} - {"calm"})) or ("calm",)
        self.key = f"{seed}.{number}"
        self.exports: list[Export] = []
        self.removals = Removals(self.client, cluster.stores.resources, Random(f"{self.key}.removals"), f"d{number}.")  # noqa: S311
        self.done = asyncio.Event()
        self.struck = 0
        """How many blows fell while an export was at work."""

    async def run(self) -> list[str]:
        """Carry it out; what went wrong."""
        random = self.random
        self.client.may_be_busy = bool(MAKES_BUSY & set(self.names))
        for number in range(random.randint(1, 3)):
            cancelled = "cancel" in self.names or random.random() < 0.2
            brief = "expiry" in self.names and number == 0
            self.exports.append(
                Export(
                    mount="brief" if brief else "fhir",
                    types=tuple(sorted(random.sample(TYPES, random.randint(1, len(TYPES))))),
                    key=f"{self.key}.{number}",
                    cancel_after=random.uniform(0, 3) if cancelled and not brief else None,
                )
            )
        for number, mirror in enumerate(self.mirrors):
            if random.random() < 0.5:
                cancel_after = random.uniform(0, 3) if random.random() < 0.1 else None
                key = f"{self.key}.mirror.{number}"
                self.exports.append(Export("fhir", mirror.types, key, cancel_after, mirror=mirror))
        beside = [asyncio.create_task(self._write()), asyncio.create_task(self._supervise())]
        try:
            async with asyncio.TaskGroup() as tasks:
                disturbing = [tasks.create_task(self._disturb(name)) for name in self.names]
                removing = tasks.create_task(self.removals.run(self.done))
                exporting = [tasks.create_task(self._export(export)) for export in self.exports]
                tasks.create_task(self._end_some_elders())
                await asyncio.gather(*exporting)
                self.done.set()
                await asyncio.gather(*disturbing, removing)
            await self._check()
        except* (TimeoutError, AssertionError) as group:
            self.client.violations.extend(f"{type(error).__name__}: {error}" for error in _leaves(group))
        finally:
            for task in beside:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._restore()
            await self.client.http.aclose()
        return self.client.violations

    # --- What clients do ---

    async def _export(self, export: Export) -> None:
        path = export.target
        headers = {"Prefer": "respond-async", "Idempotency-Key": export.key}
        answer = await self.client.ask("GET", path, headers=headers)
        if answer.status_code != 202:
            self.client.wrong(f"kick-off: {answer.status_code} {answer.text}")
            return
        export.path = urlsplit(answer.headers["Content-Location"]).path
        again = await self.client.ask("GET", path, headers=headers)
        if again.status_code == 202 and urlsplit(again.headers["Content-Location"]).path != export.path:
            self.client.wrong("the same idempotency key came to another job")
        async with asyncio.TaskGroup() as tasks:
            polling = tasks.create_task(self._poll(export))
            if export.cancel_after is not None:
                await asyncio.sleep(export.cancel_after)
                await self._cancel(export)
            await polling

    async def _poll(self, export: Export) -> None:
        end = asyncio.get_running_loop().time() + END
        while asyncio.get_running_loop().time() < end:
            was_cancelled = export.outcome == "cancelled"
            answer = await self.client.ask("GET", export.path)
            status = answer.status_code
            if was_cancelled and status != 404:
                self.client.wrong(f"a cancelled job answered {status}")
            if status == 200:
                self._completed(export, answer.json())
                return
            if status == 404:
                self._gone(export)
                return
            if status == 500 and "could not be finished" in answer.text:
                export.outcome, export.detail = "failed", answer.text
                return
            if status != 202:
                self.client.wrong(f"poll: {status} {answer.text}")
                return
            await asyncio.sleep(0.03)
        self.client.wrong(f"job {export.job_id} has not ended after {END} seconds")

    def _completed(self, export: Export, manifest: dict[str, Any]) -> None:
        export.manifest = manifest
        export.urls = [urlsplit(item["url"]).path for item in listed(manifest)]
        export.outcome = export.outcome or "completed"

    def _gone(self, export: Export) -> None:
        if export.mount == "brief":
            export.outcome = "expired"
        elif export.cancel_after is None:
            self.client.wrong(f"a job that nobody cancelled is gone: {export.job_id}")

    async def _cancel(self, export: Export) -> None:
        """Twice at the same time, through both servers."""
        first, second = await asyncio.gather(
            self.client.ask("DELETE", export.path, server=0), self.client.ask("DELETE", export.path, server=1)
        )
        export.outcome = "cancelled"
        statuses = sorted((first.status_code, second.status_code))
        if statuses not in ([202, 404], [404, 404] if self._answers_get_lost else [202, 404]):
            self.client.wrong(f"two cancels were answered {statuses}")
        await self._is_gone(export)

    async def _end_some_elders(self) -> None:
        """Cancel some of the exports whose files this round's may be linking."""
        for elder in [each for subject, each in self.elders if subject == self.client.subject]:
            if self.random.random() < 0.4:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.done.wait(), self.random.uniform(0, 1.5))
                self.elders.remove((self.client.subject, elder))
                answer = await self.client.ask("DELETE", elder.path)
                if answer.status_code != 202 and not self._answers_get_lost:
                    self.client.wrong(f"cancelling an export of an earlier round was answered {answer.status_code}")
                await self._is_gone(elder)

    async def _is_gone(self, export: Export) -> None:
        for path in [export.path, *export.urls]:
            for server in range(len(self.cluster.urls)):
                answer = await self.client.ask("GET", path, server=server)
                if answer.status_code != 404:
                    self.client.wrong(f"{answer.status_code} for {path}, which was cancelled or had expired")

    async def _write(self) -> None:
        """Load: somebody changes the store all the time."""
        resources, random = self.cluster.stores.resources, Random(self.random.random())  # noqa: S311
        while True:
            number = random.randrange(300)
            try:
                if random.random() < 0.2:
                    await resources.delete("Patient", f"w{number}")
                else:
                    content = {"resourceType": "Patient", "id": f"w{number}", "name": [{"family": "x" * random.randrange(2_000)}]}
                    await resources.update("Patient", f"w{number}", json.dumps(content).encode())
            except Refused:
                pass  # that is one of the disturbances
            await asyncio.sleep(random.uniform(0, 0.1))

    # --- What happens to them ---

    async def _disturb(self, name: str) -> None:
        await (DISTURBANCES | ON[self.cluster.site.name])[name](self)

    async def _supervise(self) -> None:
        """Start what has ended again: a server ends if it cannot reach the object store when it starts."""
        while True:
            self.cluster.start()
            await asyncio.sleep(0.1)

    @property
    def _answers_get_lost(self) -> bool:
        """Whether a request may have been carried out whose client was told nothing, or to come again."""
        return bool(LOSES_ANSWERS & set(self.names))

    async def pause(self, most: float) -> None:
        """Wait some time, at most until the exports have ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), self.random.uniform(0, most))
        self.struck += not self.done.is_set()

    async def victim(self) -> int | None:
        """Some worker."""
        for _ in range(50):
            if workers := self.cluster.workers():
                return self.random.choice(workers)
            await asyncio.sleep(0.05)
        return None

    def _restore(self) -> None:
        for pid in [*self.cluster.workers(), *self.cluster.servers()]:
            self.cluster.signal(pid, signal.SIGCONT)
            self.cluster.limit(pid, -1)
        self.cluster.site.step(0)
        self.cluster.start()

    # --- What must hold ---

    async def _check(self) -> None:
        self._restore()
        self.client.may_be_busy = False
        await self.removals.check(self.cluster.audit)
        for export in self.exports:
            match export.outcome:
                case "completed":
                    await self._check_files(export)
                case "cancelled" | "expired":
                    await self._is_gone(export)
                case "failed" if not USES_ATTEMPTS & set(self.names):
                    self.client.wrong(f"a job failed: {export.detail}")
        for elder in [each for subject, each in self.elders if subject == self.client.subject]:
            await self._check_files(elder)  # whatever became of the jobs that linked its files, or whose files it linked
        self.linked = self.cluster.linked({export.job_id for export in self.exports})
        kept = [export for export in self.exports if self._is_kept(export)]
        self.elders += [(self.client.subject, export) for export in kept]
        await self._end([export for export in self.exports if export not in kept])
        await self._nothing_is_left()
        if unrecorded := self.client.fetched - served(self.cluster.audit):
            self.client.wrong(f"files were served that the audit does not know: {sorted(unrecorded)[:3]}")

    def _is_kept(self, export: Export) -> bool:
        """Whether an export stays for the next rounds."""
        whole = export.outcome == "completed" and export.mount == "fhir" and export.mirror is None
        return whole and self.random.random() < 0.6

    async def _end(self, exports: list[Export]) -> None:
        for export in exports:
            if export.outcome in {"completed", "failed"}:
                answer = await self.client.ask("DELETE", export.path)
                gone = export.mount == "brief" and answer.status_code == 404
                if answer.status_code != 202 and not gone and not self._answers_get_lost:
                    self.client.wrong(f"cancelling at the end was answered {answer.status_code}")
                await self._is_gone(export)

    async def _check_files(self, export: Export) -> None:
        """Law 5: the files are those of a run that nobody disturbed, for whoever fetches them."""
        if export.mount == "brief":
            return
        if export.mirror is not None:
            await export.mirror.follow(self.client, export.manifest, self.cluster.stores.resources)
        owner = Owner(ISSUER, self.client.subject)
        expected = await replayed(self.cluster.site, export.job_id, owner)
        promised = [
            (item["type"], item["count"], item["extension"]["size"], item["extension"]["sha256"])
            for item in listed(export.manifest)
        ]
        if promised != [(file.type, file.count, file.size, file.sha256) for file in expected]:
            self.client.wrong(f"job {export.job_id} has other files than an undisturbed run with its cut and plan")
        if [path.rpartition("/")[2] for path in export.urls] != [file.file_id for file in expected]:
            self.client.wrong(f"job {export.job_id} has other file ids than an undisturbed run")
        if (manifest := (await self.client.ask("GET", export.path)).json()) and [
            urlsplit(item["url"]).path for item in listed(manifest)
        ] != export.urls:
            self.client.wrong("two servers show two manifests")
        for path, file in zip(export.urls, expected, strict=False):
            await self._check_file(path, file)

    async def _check_file(self, path: str, file: File) -> None:
        body = await self.client.fetch(path)
        if (len(body), hashlib.sha256(body).hexdigest(), body.count(b"\n")) != (file.size, file.sha256, file.count):
            self.client.wrong(f"file {file.file_id} has other bytes than its manifest promised")

    async def _nothing_is_left(self) -> None:
        """After a sweep: what a worker that was stopped lets fall later goes with the next one."""
        stores = self.cluster.stores
        for _ in range(40):
            await Retention(stores.jobs, stores.outputs, SETTINGS, stores.clock, adapter=ADAPTER).sweep()
            left = self.cluster.site.files() - self.cluster.known_files()
            # A worker that is killed just after it completed a job leaves what earlier attempts wrote, until the job ends.
            left = {file for file in left if file.partition("/")[0] not in {elder.job_id for _, elder in self.elders}}
            folders = self.cluster.site.empty_folders()
            if not left and not folders:
                return
            await asyncio.sleep(0.25)
        self.client.wrong(f"files are left: {sorted(left)[:5]} {folders[:5]}")


def listed(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of a manifest in the order of its plan: output first, then deletions."""
    return [*manifest["output"], *manifest.get("deleted", [])]


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _kill_worker(round_: Round) -> None:
    await round_.pause(2.5)
    if pid := await round_.victim():
        round_.cluster.signal(pid, signal.SIGKILL)


async def _kill_worker_often(round_: Round) -> None:
    for _ in range(5):
        await round_.pause(0.6)
        if not round_.done.is_set() and (pid := await round_.victim()):
            round_.cluster.signal(pid, signal.SIGKILL)


async def _kill_server(round_: Round) -> None:
    await round_.pause(2.5)
    if servers := round_.cluster.servers():
        round_.cluster.kill_server(round_.random.choice(servers))
    await asyncio.to_thread(round_.cluster.bury)
    round_.cluster.start()


async def _kill_all_servers(round_: Round) -> None:
    """With their workers, which end by themselves."""
    await round_.pause(2.5)
    servers = round_.cluster.servers()
    for pid in round_.cluster.workers():
        round_.cluster.signal(pid, signal.SIGKILL)
    for pid in servers:
        round_.cluster.kill_server(pid)
    await asyncio.to_thread(round_.cluster.bury)
    round_.cluster.start()


async def _stop(round_: Round, pid: int) -> None:
    round_.cluster.signal(pid, signal.SIGSTOP)
    await asyncio.sleep(round_.random.uniform(0.5, 3) * SETTINGS.lease_seconds)
    round_.cluster.signal(pid, signal.SIGCONT)


async def _stop_worker(round_: Round) -> None:
    await round_.pause(2)
    if pid := await round_.victim():
        await _stop(round_, pid)


async def _stop_server(round_: Round) -> None:
    await round_.pause(2)
    if servers := round_.cluster.servers():
        await _stop(round_, round_.random.choice(servers))


async def _disk_full(round_: Round) -> None:
    """For the workers, at some size; sometimes for so long that attempts run out."""
    await round_.pause(2)
    size = round_.random.choice([0, 4_096, 50_000, 200_000])
    end = asyncio.get_running_loop().time() + round_.random.choice([0.3, 1, 3])
    while asyncio.get_running_loop().time() < end:
        for pid in round_.cluster.workers():
            round_.cluster.limit(pid, size)
        await asyncio.sleep(0.1)
    for pid in round_.cluster.workers():
        round_.cluster.limit(pid, -1)


async def _lock(round_: Round, what: str) -> None:
    await round_.pause(2)
    seconds = round_.random.choice([0.2, 1, 3, 11])
    await asyncio.to_thread(round_.cluster.site.lock, what, seconds)


async def _lock_jobs(round_: Round) -> None:
    await _lock(round_, "jobs")


async def _lock_store(round_: Round) -> None:
    await _lock(round_, "store")


async def _clock(round_: Round) -> None:
    """There and back; in steps of more than a lease, and of less."""
    for _ in range(round_.random.randint(1, 3)):
        await round_.pause(0.7)
        round_.cluster.site.step(round_.random.choice([-3_600, -2, -0.4, 0.4, 2, 3_600]))
    await round_.pause(0.7)


async def _restart_database(round_: Round) -> None:
    await round_.pause(2)
    how, away = round_.random.choice(["fast", "immediate"]), round_.random.choice([0, 0.5, 2])
    await asyncio.to_thread(_on_postgres(round_).database.restart, how, away)


async def _cut_connections(round_: Round) -> None:
    for _ in range(round_.random.randint(1, 5)):
        await round_.pause(0.7)
        await asyncio.to_thread(_on_postgres(round_).cut_connections)


async def _cut_commits(round_: Round) -> None:
    """Before the server receives them, or before the client learns of them."""
    cuts = _on_postgres(round_).commits.cuts
    for _ in range(round_.random.randint(1, 3)):
        await round_.pause(0.7)
        cuts.extend(round_.random.choices([Cut.BEFORE, Cut.AFTER], k=round_.random.randint(1, 6)))
    await round_.pause(0.7)
    cuts.clear()


async def _objects_fail(round_: Round) -> None:
    """Some requests to the object store, or all."""
    kinds = [Fault.UNAVAILABLE, Fault.ERROR_AFTER, Fault.CUT_UPLOAD, Fault.CUT_ANSWER, Fault.DAMAGE]
    await _misbehave(round_, kinds, round_.random.choice([0.2, 0.5, 1]))


async def _objects_are_slow(round_: Round) -> None:
    """Some of them too slow for the client, which asks again while the store still works on it."""
    await _misbehave(round_, [Fault.SLOW, Fault.SLOW, Fault.SLOW, Fault.SILENCE], round_.random.choice([0.2, 0.5, 1]))


async def _misbehave(round_: Round, kinds: list[Fault], share: float) -> None:
    chance, proxy = round_.random.random, _on_postgres(round_).objects
    await round_.pause(2)
    proxy.plan = lambda _: round_.random.choice(kinds) if chance() < share else None
    await round_.pause(4)
    proxy.plan = lambda _: None


def _on_postgres(round_: Round) -> OnPostgres:
    assert isinstance(round_.cluster.site, OnPostgres)
    return round_.cluster.site


async def _nothing(_: Round) -> None:
    """Calm; or the disturbance is in what the client does."""


async def _slow_reader(round_: Round) -> None:
    """A download that began before its job was cancelled goes on to its end (DL-09)."""
    await round_.done.wait()
    for export in round_.exports:
        if export.outcome != "completed" or not export.urls or export.mount == "brief":
            continue
        files = listed(export.manifest)
        number = max(range(len(files)), key=lambda n: files[n]["extension"]["size"])
        item = files[number]["extension"]
        halfway, go_on = asyncio.Event(), asyncio.Event()
        reading = asyncio.create_task(round_.client.slow(export.urls[number], item["size"], item["sha256"], halfway, go_on))
        await halfway.wait()
        await round_._cancel(export)
        stores = round_.cluster.stores
        await Retention(stores.jobs, stores.outputs, SETTINGS, stores.clock, adapter=ADAPTER).sweep()
        go_on.set()
        await asyncio.wait_for(reading, END)
        return


async def _expiry(round_: Round) -> None:
    """Fetch a brief result until it is gone; it never comes back."""
    await round_.done.wait()
    for export in round_.exports:
        if export.mount != "brief" or export.outcome != "completed" or not export.urls:
            continue
        end = asyncio.get_running_loop().time() + BRIEF_SECONDS * 10
        gone = False
        while not gone and asyncio.get_running_loop().time() < end:
            answers = [await round_.client.ask("GET", path) for path in (export.path, export.urls[0], export.path)]
            statuses = [answer.status_code for answer in answers]
            if statuses != sorted(statuses) or not set(statuses) <= {200, 404}:
                round_.client.wrong(f"around its expiry a job answered {statuses}")
            gone = statuses[-1] == 404
        if not gone:
            round_.client.wrong("a brief result is still there")
        export.outcome = "expired"


DISTURBANCES: dict[str, Callable[[Round], Awaitable[None]]] = {
    "calm": _nothing,
    "kill worker": _kill_worker,
    "kill worker often": _kill_worker_often,
    "kill server": _kill_server,
    "kill all servers": _kill_all_servers,
    "stop worker": _stop_worker,
    "stop server": _stop_server,
    "lock jobs": _lock_jobs,
    "lock store": _lock_store,
    "cancel": _nothing,
    "slow reader": _slow_reader,
    "clock": _clock,
    "expiry": _expiry,
}


ON: dict[str, dict[str, Callable[[Round], Awaitable[None]]]] = {
    "sqlite": {"disk full": _disk_full},
    "postgres": {
        "restart database": _restart_database,
        "cut connections": _cut_connections,
        "cut commits": _cut_commits,
        "objects fail": _objects_fail,
        "objects are slow": _objects_are_slow,
    },
}
"""Further disturbances, by the site."""

MAKES_BUSY = {"lock jobs", "lock store", "restart database", "cut connections", "objects fail", "objects are slow"}
LOSES_ANSWERS = {"kill server", "kill all servers", "restart database", "cut connections"}
ENDS_DOWNLOADS = {"kill server", "kill all servers", "stop server", "objects fail"}
USES_ATTEMPTS = {"disk full", "lock jobs", "kill worker often"}


@dataclass
class Report:
    """What came of a run."""

    rounds: int = 0
    violations: list[str] = field(default_factory=list)
    disturbances: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    struck: int = 0
    linked: int = 0

    def add(self, round_: Round, number: int, found: list[str]) -> list[str]:
        """Count a round; what to say of it, its violations first."""
        names = ", ".join(round_.names)
        violations = [f"round {number} ({names}): {what}" for what in found]
        self.rounds += 1
        self.busy += round_.client.busy
        self.struck += round_.struck
        self.linked += round_.linked
        self.disturbances.update(round_.names)
        self.outcomes.update(export.outcome for export in round_.exports)
        self.violations += violations
        return [*violations, f"round {number}: {names}: {', '.join(export.outcome for export in round_.exports)}"]


async def chaos(
    state: Path,
    seed: str,
    rounds: range,
    *,
    on: str = "sqlite",
    seconds: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run rounds, one after another, on one STATE.

    Args:
        state: an empty folder, or one to be made.
        seed: what happens.
        rounds: which rounds of the seed.
        on: where jobs, resources and files are kept (`SITES`).
        seconds: no new round begins after so long.
        say: is told what went wrong, as it happens.
    """
    report = Report()
    async with SITES[on](state) as site:
        cluster = Cluster(state, site)
        try:
            cluster.start()
            followers = await mirrors(cluster.stores.resources)
            elders: list[tuple[str, Export]] = []
            begun = asyncio.get_running_loop().time()
            for number in rounds:
                if seconds is not None and asyncio.get_running_loop().time() - begun > seconds:
                    break
                round_ = Round(cluster, followers, elders, seed, number)
                for text in report.add(round_, number, await round_.run()):
                    say(text)
            if not cluster.audit.exists():
                report.violations.append("there is no audit file: no server recorded anything")
            elif isinstance(broken := verify(cluster.audit), Broken):
                report.violations.append(f"the audit file is broken at line {broken.line}: {broken.why}")
        finally:
            cluster.close()
    return report
