"""A model of a long remove-all (job, leases, journal, outbox, cancel, deadline, sweep, poll), and a search of all it can do.

Each step below is one durable transaction, or one read, of the real thing; between any two of them every other process may do any
of its steps, and each process can be killed. The search visits every state that can be reached that way and checks the laws at
each step. `Design` names the steps that the first version took otherwise, so that it is seen that the search finds what is wrong.

A job that was tried too often fails in the step that claims its work, and its run ends in the next: a slow worker may remove one
batch more between the two, but nothing after any client was told of the failure, for whoever tells it ends the run first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from state_search import Found, search

CANCELS = 2


@dataclass(frozen=True)
class Size:
    """How much there is of what; each cancel is sent twice at most."""

    batches: int
    workers: int
    attempts: int

    @property
    def all(self) -> int:
        """All batches. A set of batches is a number, a bit for each."""
        return (1 << self.batches) - 1


@dataclass(frozen=True)
class Design:
    """Which way the steps go; the defaults are the ones that the package takes.

    Attributes:
        outbox: a removal's report is written with the removal; else its worker tells of it from memory, after its checkpoint.
        end_first: a cancel ends the run, then changes the state; else the other way round, and a second cancel ends nothing.
        deadline_ends: so does the deadline; else it changes the state alone.
        one_read: a poll reads the job and its parts as of one instant; else one after the other.
        leases: a checkpoint counts only while its attempt is the current one of a job that works.
    """

    outbox: bool = True
    end_first: bool = True
    deadline_ends: bool = True
    one_read: bool = True
    leases: bool = True


class Batch(NamedTuple):
    """What the job store has of one batch's work: how often it was begun, and whether it is left."""

    attempt: int = 0
    open: bool = True


class Worker(NamedTuple):
    """Where one worker stands with which batch, and whether its attempt is the current one."""

    at: str = "idle"
    batch: int = 0
    current: bool = False


class State(NamedTuple):
    """All that is durable, and where each process stands."""

    work: tuple[Batch, ...]
    workers: tuple[Worker, ...]
    job: str = "running"
    parts: int = 0  # recorded by checkpoints
    twice: bool = False  # whether a batch was counted by two attempts
    removed: int = 0  # the tombstones
    run: str = "open"  # in the journal: open, or what ended it
    reports: int = 0  # in the outbox
    told: int = 0  # what the audit has
    cancel: str = "idle"
    cancels: int = 0  # how often the client has sent it
    sweep: str = "idle"
    poll: str = "idle"
    answered: int | None = None  # what was gone when a client was first told that the job has ended
    listed: int | None = None  # the parts that a 200 lists, in the step that gives it

    def end(self, job: str) -> "State":
        """Change the state; in the same transaction all leases are gone (law 18)."""
        ended = self._replace(job=job, work=tuple(batch._replace(open=False) for batch in self.work))
        return ended._replace(workers=tuple(sorted(worker._replace(current=False) for worker in self.workers)))

    def end_run(self, how: str) -> "State":
        """End the run in the journal; the first end stays."""
        return self._replace(run=how) if self.run == "open" else self

    def tell(self) -> "State":
        """Empty the outbox into the audit."""
        return self._replace(told=self.told | self.reports, reports=0)

    def answer(self) -> "State":
        """Tell a client that the job has ended, and with which tally."""
        return self if self.answered is not None else self._replace(answered=self.removed)

    def put(self, number: int, worker: Worker) -> "State":
        """Move a worker. Workers are alike, so their order does not matter."""
        others = self.workers[:number] + self.workers[number + 1 :]
        return self._replace(workers=tuple(sorted((*others, worker))))

    def set_work(self, number: int, batch: Batch) -> "State":
        """Write one batch's work; whoever held it does not hold it any more."""
        workers = sorted(worker._replace(current=worker.current and worker.batch != number) for worker in self.workers)
        return self._replace(work=(*self.work[:number], batch, *self.work[number + 1 :]), workers=tuple(workers))


Steps = Iterator[tuple[str, State]]


def worker_steps(  # noqa: C901, PLR0912 - one table of what a worker does reads best whole
    state: State, design: Design, attempts: int, number: int
) -> Steps:
    """What a worker can do next: claim, remove, tell, record."""
    worker = state.workers[number]
    bit = 1 << worker.batch
    match worker.at:
        case "idle":
            for place, batch in enumerate(state.work):
                if not batch.open:
                    continue
                if (
                    batch.attempt < attempts
                ):  # any lease may have run out; its holder is dead, or slow and wakes up any time later
                    claimed = state.put(number, Worker("claims")).set_work(place, Batch(batch.attempt + 1))
                    yield "claim", claimed.put(claimed.workers.index(Worker("claims")), Worker("holds", place, current=True))
                else:
                    yield "fail the job: tried too often", state.put(number, Worker("tried too often")).end("exhausted")
        case "tried too often":
            yield "end the run: tried too often", state.end_run("failed").tell().put(number, Worker())
        case "holds" if state.run != "open":
            yield "meet the end of the run", state.put(number, worker._replace(at="met the end"))
        case "holds" if state.removed & bit:
            yield "find the batch in the journal", state.put(number, worker._replace(at="removed"))
        case "holds":
            reports = state.reports | bit if design.outbox else state.reports
            yield (
                "remove",
                state._replace(removed=state.removed | bit, reports=reports).put(number, worker._replace(at="removed")),
            )
        case "met the end":
            finish = state.run == "cancelled" and state.job == "running" and design.end_first
            yield "finish the cancel", (state.end("cancelled") if finish else state).put(number, Worker())
        case "removed" if design.outbox:
            yield "tell", state.tell().put(number, worker._replace(at="told"))
        case "removed" | "told":
            if not worker.current and design.leases:
                yield "find the lease lost", state.put(number, Worker())
                return
            kept = state.put(number, Worker() if design.outbox else worker._replace(at="owes"))
            kept = kept.set_work(worker.batch, state.work[worker.batch]._replace(open=False))
            kept = kept._replace(parts=state.parts | bit, twice=state.twice or bool(state.parts & bit))
            if kept.job == "running" and not any(batch.open for batch in kept.work):
                kept = kept._replace(job="completed")
            yield "record", kept
        case "owes":
            yield "tell from memory", state._replace(told=state.told | bit).put(number, Worker())
    if worker.at != "idle":
        yield "kill a worker", state.put(number, Worker())


def cancel_steps(state: State, design: Design) -> Steps:
    """A client's cancel, which it sends again if the server dies before the answer."""
    match state.cancel:
        case "idle" if state.cancels < CANCELS:
            at = "again" if state.job == "cancelled" else "begun"
            yield "send a cancel", state._replace(cancel=at, cancels=state.cancels + 1)
        case "begun" if design.end_first:
            yield "cancel: end the run", state.end_run("cancelled")._replace(cancel="ended")
        case "ended" if design.end_first:
            yield "cancel: tell", state.tell()._replace(cancel="told")
        case "begun" | "told":
            yield "cancel: change the state", state.end("cancelled")._replace(cancel="stated")
        case "stated" if not design.end_first:
            yield "cancel: end the run", state.end_run("cancelled")._replace(cancel="answers")
        case "again" if design.end_first:
            yield "cancel: tell", state.end_run("cancelled").tell()._replace(cancel="answers")
        case "stated" | "again" | "answers":
            yield "cancel: answer", state.answer()._replace(cancel="idle")
    if state.cancel != "idle":
        yield "kill the server of the cancel", state._replace(cancel="idle")


def sweep_steps(state: State, design: Design) -> Steps:
    """The deadline may pass at any time; files of ended jobs go; what nobody told is told."""
    match state.sweep:
        case "idle" if state.job == "running":
            yield "sweep: find it overdue", state._replace(sweep="overdue")
        case "overdue" if design.deadline_ends:
            yield "sweep: end the run", state.end_run("failed")._replace(sweep="ended")
        case "overdue" | "ended":
            after = state.end("failed") if state.job == "running" else state
            yield "sweep: fail the job", after._replace(sweep="idle")
    if state.job in {"cancelled", "failed", "exhausted"} and state.parts:
        yield "sweep: reclaim", state._replace(parts=0)
    if state.reports:
        yield "sweep: tell", state.tell()
    if state.sweep != "idle":
        yield "kill the sweep", state._replace(sweep="idle")


def poll_steps(state: State, design: Design) -> Steps:
    """A poll: of a completed job it lists the parts, of a failed one it tells the tally."""
    match (state.poll, state.job):
        case ("idle", "completed") if design.one_read:
            yield "poll: 200", state._replace(listed=state.parts)
        case ("idle", "completed"):
            yield "poll: read the job", state._replace(poll="completed")
        case ("idle", "failed" | "exhausted"):
            yield "poll: end the run", state.end_run("failed").tell()._replace(poll="failed")
        case ("idle", "cancelled"):
            yield "poll: 404", state.answer()
        case ("completed", _):
            yield "poll: 200, with the parts of a second read", state._replace(poll="idle", listed=state.parts)
        case ("failed", _):
            yield "poll: failed", state.answer()._replace(poll="idle")


def steps(state: State, design: Design, attempts: int) -> Steps:
    """All that can happen next."""
    for number in {worker: number for number, worker in enumerate(state.workers)}.values():  # one of those that stand alike
        yield from worker_steps(state, design, attempts, number)
    yield from cancel_steps(state, design)
    yield from sweep_steps(state, design)
    yield from poll_steps(state, design)


def broken(before: State, after: State, every: int) -> str | None:  # noqa: PLR0911 - a return for each law
    """The law that a step breaks, None if it keeps all."""
    if after.removed != before.removed and before.answered is not None:
        return "law 36: removed after a client was told that the job has ended"
    if after.removed != before.removed and before.job in {"cancelled", "failed"}:
        return "law 36: removed after the state of the job has changed"
    if after.parts & ~before.parts and before.job != "running":
        return "law 18: published after the job has ended"
    if after.twice:
        return "law 18: a batch was counted twice"
    if after.answered is not None and after.answered != after.removed:
        return "law 26: an answer told another tally than what is gone"
    if after.listed not in {None, every}:
        return "law 35: a 200 that does not list all parts"
    known = after.told | after.reports
    for worker in after.workers:
        known |= 1 << worker.batch if worker.at in {"removed", "owes"} else 0
    for number, batch in enumerate(after.work):
        known |= 1 << number if batch.open else 0  # it is begun again, and its journal tells what it removed
    if after.removed & ~known:
        return "law 37: a removal that nobody will record"
    return None


def searched(size: Size, design: Design) -> Found:
    """Search all that can happen."""
    start = State(work=(Batch(),) * size.batches, workers=(Worker(),) * size.workers)
    return search(
        start,
        lambda state: steps(state, design, size.attempts),
        lambda before, after: broken(before, after, size.all),
        settled=lambda state: state._replace(listed=None),  # an answer is gone when it was given
    )
