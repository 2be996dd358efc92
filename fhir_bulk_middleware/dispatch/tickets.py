"""Tickets: tasks of procrastinate, of which as many wait as there are pieces of free work.

A ticket says that there is a piece of work for an adapter, and not which one: the worker that takes it claims the next piece from
the job store. So turns of owners, limits and leases are those of the job store, whoever else takes work from it.

Each ticket has a number, which is in its queueing lock, so of each number one waits at most. Any number of processes may
therefore add what is missing at the same time. A ticket without a piece of work is taken, finds none and is done.

A worker that is done with a piece of work may take the next ticket itself, out of the queue, which costs a quarter of what a task
of its own does. So the length of the queue stays that of the free work.
"""

from hashlib import sha256

from procrastinate import App
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job

from fhir_bulk_middleware.contract.running import Work

__all__ = ["Tickets"]

_AT_MOST = 256
"""Tickets that wait at a time: more than the workers of a house, few enough to be read every second."""

_ATTEMPTS = 5

# Served by the partial index on the queueing locks of waiting tasks, however many tasks have ended.
_WAITING = "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY(%(names)s)"

# The one that procrastinate would give to a worker next.
_TAKE = """
    DELETE FROM procrastinate_jobs WHERE id = (
        SELECT id FROM procrastinate_jobs
        WHERE status = 'todo' AND queue_name = %(queue)s AND task_name = %(task)s AND args = %(args)s
        ORDER BY priority DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""


class Tickets:
    """The tickets of one queue.

    Args:
        app: the App of procrastinate, which is open.
        task: the name of the task that a ticket is.
        queue: the queue.
        priority: the priority of the tickets.
    """

    def __init__(self, app: App, task: str, *, queue: str, priority: int) -> None:
        self._app = app
        self._task = task
        self._queue = queue
        self._priority = priority
        self._names: dict[str, list[str]] = {}

    async def top_up(self, work: Work) -> None:
        """Add the tickets that are missing for the work that is free now.

        Raises:
            Refused: `BUSY`: the job store cannot answer now.
            ConnectorException: procrastinate's database cannot.
        """
        free = await work.backlog(_AT_MOST)
        for _ in range(_ATTEMPTS if free else 0):
            names = self._names.setdefault(work.adapter, [self._name(work.adapter, number) for number in range(_AT_MOST)])
            rows = await self._app.connector.execute_query_all_async(_WAITING, names=names)
            waiting = {row["queueing_lock"] for row in rows}
            missing = [name for name in names if name not in waiting][: max(free - len(waiting), 0)]
            try:
                if missing:
                    await self._app.job_manager.batch_defer_jobs_async([self._ticket(work, name) for name in missing])
            except AlreadyEnqueued:  # another process was quicker, and nothing was added
                continue
            return

    async def take(self, adapter: str) -> bool:
        """Take a waiting ticket for the work of an adapter out of the queue; False if there is none.

        Raises:
            ConnectorException: procrastinate's database cannot answer now.
        """
        args = {"adapter": adapter}
        return bool(await self._app.connector.execute_query_all_async(_TAKE, queue=self._queue, task=self._task, args=args))

    def _ticket(self, work: Work, name: str) -> Job:
        configured = self._app.configure_task(self._task, queue=self._queue, priority=self._priority, queueing_lock=name)
        return configured.make_new_job(adapter=work.adapter)

    def _name(self, adapter: str, number: int) -> str:
        return f"fhir_bulk/{sha256(f'{self._queue}/{adapter}'.encode()).hexdigest()[:16]}/{number}"
