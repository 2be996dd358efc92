"""A model of an export on many machines (tickets, leases, uploads, checkpoints, cancel, sweep), and a search of all it can do.

The job store is PostgreSQL, files are objects, and procrastinate hands out the work. Each step below is one transaction or one
request of the real thing; between any two of them every other process may do any of its steps, and each process can be killed.
A request that fails is a step (or none) and a kill whose process stays: for what is durable the same. `Design` names steps that
could be left out, so that it is seen that the search finds what each is good for.

A slice is one file here, which is small and sent in one request, or large and uploaded in blocks. An attempt at a slice has its
own key, so of each attempt there is at most one note, upload and object.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from state_search import Found, search


@dataclass(frozen=True)
class Size:
    """How much there is of what."""

    slices: int
    workers: int
    attempts: int


@dataclass(frozen=True)
class Design:
    """Which steps are taken; the defaults are those of the package.

    Attributes:
        fenced: a checkpoint counts only while its attempt is the current one of a job that works (law 18).
        sealed_first: a file is complete before its checkpoint (law 30); else the checkpoint comes first.
        states_first: a job ends before its files go; else they go first.
        orphans: a sweep discards what it finds of jobs that keep no files, whenever that was written.
        uploads_listed: it finds uploads, too, not objects alone.
        topped_up: tickets are added while work is free; else once for each slice, when it is planned.
        retried: the tickets of workers that died are given to others.
    """

    fenced: bool = True
    sealed_first: bool = True
    states_first: bool = True
    orphans: bool = True
    uploads_listed: bool = True
    topped_up: bool = True
    retried: bool = True


class Work(NamedTuple):
    """What the job store has of a slice: how often it was begun, whether it is left, and the attempt whose file is recorded."""

    attempt: int = 0
    open: bool = True
    recorded: int = 0


class Worker(NamedTuple):
    """Where a worker stands with which attempt at which slice, and whether that is the current one."""

    at: str = "idle"
    slice: int = 0
    attempt: int = 0
    current: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Of the file that it writes."""
        return self.slice, self.attempt


Keys = frozenset[tuple[int, int]]
"""Slices and attempts."""


class State(NamedTuple):
    """All that is durable, and where each process stands."""

    work: tuple[Work, ...]
    workers: tuple[Worker, ...]
    tickets: int
    job: str = "running"
    reclaimed: bool = False
    notes: Keys = frozenset()
    uploads: Keys = frozenset()
    objects: Keys = frozenset()
    stalled: bool = False  # whether a worker died with its ticket
    sweep: str = "idle"

    @property
    def recorded(self) -> Keys:
        """The files that the records of the job name."""
        return frozenset((number, work.recorded) for number, work in enumerate(self.work) if work.recorded)

    @property
    def listed(self) -> bool:
        """Whether a listing of objects shows the job."""
        return bool(self.notes or self.objects)

    def put(self, number: int, worker: Worker) -> "State":
        """Move a worker. Workers are alike, so their order does not matter."""
        others = self.workers[:number] + self.workers[number + 1 :]
        return self._replace(workers=tuple(sorted((*others, worker))))

    def set_work(self, number: int, work: Work) -> "State":
        """Write one slice's work."""
        return self._replace(work=(*self.work[:number], work, *self.work[number + 1 :]))

    def without_leases(self, number: int | None = None) -> "State":
        """No worker has the lease of a slice any more; of any slice if None."""
        workers = (each._replace(current=each.current and number not in {None, each.slice}) for each in self.workers)
        return self._replace(workers=tuple(sorted(workers)))

    def end(self, job: str) -> "State":
        """Change the state of the job; in the same transaction all leases are gone (law 18)."""
        ended = self._replace(job=job, work=tuple(work._replace(open=False) for work in self.work))
        return ended.without_leases()


Steps = Iterator[tuple[str, State]]


def worker_steps(state: State, design: Design, attempts: int, number: int) -> Steps:
    """What a worker can do next: take a ticket, claim a slice, write its file, record it."""
    worker = state.workers[number]
    match worker.at:
        case "idle" if state.tickets:
            yield "take a ticket", state._replace(tickets=state.tickets - 1).put(number, Worker("claims"))
        case "claims":
            yield from _claims(state, attempts, number)
        case "small" | "sends":
            yield from _sends(state, design, number)
        case "records":
            yield from _records(state, design, number)
        case "completed":  # what other attempts left goes, as a listing shows it; then their uploads
            rest = state._replace(notes=frozenset(), objects=state.objects & state.recorded)
            yield "completion: delete other objects", rest.put(number, worker._replace(at="cleans"))
        case "cleans":
            yield "completion: abort uploads", state._replace(uploads=frozenset()).put(number, Worker())
        case "idle":
            pass
        case _:
            yield from _uploads(state, design, number)
    if worker.at != "idle":
        yield "kill a worker", state._replace(stalled=True).put(number, Worker())
    if worker.at in _WRITING:
        yield "kill a request, and give the slice back", state.put(number, Worker())


def _claims(state: State, attempts: int, number: int) -> Steps:
    held = {worker.slice for worker in state.workers if worker.current}
    for place, work in enumerate(state.work):
        if work.open and work.attempt < attempts:  # any lease may have run out; its holder is dead, or slow and wakes up any time
            claimed = state.without_leases(place).set_work(place, work._replace(attempt=work.attempt + 1))
            mine = Worker("holds", place, work.attempt + 1, current=True)
            yield "claim", claimed.put(claimed.workers.index(Worker("claims")), mine)
        elif work.open:
            yield "fail the job: tried too often", state.end("failed").put(number, Worker())
    if all(place in held for place, work in enumerate(state.work) if work.open):
        yield "find no free work", state.put(number, Worker())


_WRITING = {
    "holds": "noted",
    "noted": "uploads",
    "uploads": "asked",
    "asked": "looked",
    "looked": "complete",
    "complete": "records",
    "small": "sends",
    "sends": "records",
}
"""Where a worker that writes a file stands, and where it stands next."""


def _moved(state: State, number: int, at: str = "") -> State:
    """The worker goes on."""
    worker = state.workers[number]
    return state.put(number, worker._replace(at=at or _WRITING[worker.at]))


def _sends(state: State, design: Design, number: int) -> Steps:
    """A small file, which is an object once its only request was carried out."""
    worker = state.workers[number]
    match worker.at:
        case "small" if not design.sealed_first:
            yield "go on to the checkpoint", _moved(state, number, "records")
        case "small" if worker.current or not design.fenced:
            yield "renew the lease", _moved(state, number)
        case "small":
            yield "find the lease lost", state.put(number, Worker())
        case "sends":
            yield "send a file", _moved(state._replace(objects=state.objects | {worker.key}), number)


def _uploads(state: State, design: Design, number: int) -> Steps:  # noqa: C901 - one table of what a worker does reads best whole
    """A large file, from its note to the completed upload; or the upload is aborted."""
    worker = state.workers[number]
    key = frozenset({worker.key})
    match worker.at:
        case "holds":
            yield "have a small file", _moved(state, number, "small")
            yield "note a file", _moved(state._replace(notes=state.notes | key), number)
        case "noted":
            yield "begin an upload", _moved(state._replace(uploads=state.uploads | key), number)
        case "uploads" if not design.sealed_first:
            yield "go on to the checkpoint", _moved(state, number, "records")
        case "uploads":
            yield "renew the lease", _moved(state, number, "" if worker.current or not design.fenced else "leaves")
        case "asked":
            yield "look for the note", _moved(state, number, "" if key <= state.notes else "leaves")
        case "looked" if key <= state.uploads:
            completed = state._replace(uploads=state.uploads - key, objects=state.objects | key)
            yield "complete an upload", _moved(completed, number)
        case "looked":
            yield "find the upload aborted", _moved(state, number, "leaves")
        case "complete":
            yield "delete the note", _moved(state._replace(notes=state.notes - key), number)
        case "leaves":
            yield "abort the upload", _moved(state._replace(uploads=state.uploads - key), number, "left")
        case "left":
            yield "delete the note", state._replace(notes=state.notes - key).put(number, Worker())


def _records(state: State, design: Design, number: int) -> Steps:
    """The checkpoint."""
    worker = state.workers[number]
    if not worker.current and design.fenced:
        yield "find the lease lost", state.put(number, Worker())
        return
    after = state.set_work(worker.slice, state.work[worker.slice]._replace(open=False, recorded=worker.attempt))
    if after.job == "running" and not any(work.open for work in after.work):
        after = after._replace(job="completed")
    completes = (after.job, state.job) == ("completed", "running")
    yield "record", after.put(number, Worker("completed" if completes else "idle")).without_leases(worker.slice)


def dispatch_steps(state: State, design: Design) -> Steps:
    """Any server adds the tickets that are missing; a periodic task retries those whose worker has died."""
    free = sum(work.open for work in state.work)
    if design.topped_up and state.tickets < free:
        yield "add a ticket", state._replace(tickets=state.tickets + 1)
    if design.retried and state.stalled:
        yield "retry a stalled ticket", state._replace(stalled=False, tickets=min(state.tickets + 1, len(state.work)))


def service_steps(state: State) -> Steps:
    """A cancel by the owner, and the end of the retention."""
    if state.job in {"running", "completed"}:
        yield "cancel", state.end("cancelled")
    if state.job == "completed":
        yield "expire", state.end("expired")


def sweep_steps(state: State, design: Design) -> Steps:
    """Discard the files of jobs that have ended, then their records; later, what is found of jobs that keep no files."""
    ended = state.job not in {"running", "completed"}
    match state.sweep:
        case "idle" if ended and not state.reclaimed:
            yield "sweep: find it ended", state._replace(sweep="discards")
        case "idle" if not design.states_first and state.job == "completed":
            yield "sweep: find it expired", state._replace(sweep="discards")
        case "idle" if ended and design.orphans and (state.listed or (design.uploads_listed and state.uploads)):
            yield "sweep: find orphans", state._replace(sweep="discards")
        case "discards":
            yield "sweep: delete objects", state._replace(sweep="aborts", notes=frozenset(), objects=frozenset())
        case "aborts":
            yield "sweep: abort uploads", state._replace(sweep="discarded", uploads=frozenset())
        case "discarded":
            gone = state if ended else state.end("expired")
            work = tuple(each._replace(recorded=0) for each in gone.work)
            yield "sweep: forget its records", gone._replace(sweep="idle", reclaimed=True, work=work)
    if state.sweep != "idle":
        yield "kill the sweep", state._replace(sweep="idle")


def steps(state: State, design: Design, attempts: int) -> Steps:
    """All that can happen next."""
    for number in {worker: number for number, worker in enumerate(state.workers)}.values():  # one of those that stand alike
        yield from worker_steps(state, design, attempts, number)
    yield from dispatch_steps(state, design)
    yield from service_steps(state)
    yield from sweep_steps(state, design)


def broken(before: State, after: State) -> str | None:
    """The law that a step breaks, None if it keeps all."""
    if after.recorded - before.recorded and before.job != "running":
        return "law 18: published after the job has ended"
    if any(
        new.recorded != old.recorded for old, new in zip(before.work, after.work, strict=True) if old.recorded and new.recorded
    ):
        return "law 18: a slice was counted twice"
    if after.job in {"running", "completed"} and not after.recorded <= after.objects:
        return "law 30: a record promises a file that is not there"
    return None


def unfinished(state: State) -> str | None:
    """The law by which this cannot be the end; None if it can.

    A completed job is over once it has expired, which it can at any time.
    """
    if state.job == "running":
        return "law 43: the job never ends"
    busy = state.sweep != "idle" or any(worker.at != "idle" for worker in state.workers)
    if busy or state.notes or state.uploads or state.objects:
        return "DL-08: what was written for a job that has ended stays for ever"
    return None


def searched(size: Size, design: Design) -> Found:
    """Search all that can happen."""
    start = State(
        work=(Work(),) * size.slices, workers=(Worker(),) * size.workers, tickets=0 if design.topped_up else size.slices
    )
    return search(start, lambda state: steps(state, design, size.attempts), broken, ends=unfinished, uncertain=("kill", "cancel"))
