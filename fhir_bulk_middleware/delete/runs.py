"""Ending the runs of remove-all jobs, so that an end is final whichever process dies when (law 36)."""

from fhir_bulk_middleware.contract.job import Job, JobKind
from fhir_bulk_middleware.contract.removal import Tally
from fhir_bulk_middleware.delete.outbox_draining import Outbox
from fhir_bulk_middleware.delete.sources import Sources

__all__ = ["RemovalRuns"]


class RemovalRuns:
    """Ends runs, and has what they removed told.

    The job store and the journal of removals may be two databases, so no transaction covers both. The journal decides:

    1. A batch removes in a transaction of the journal that also finds its run open. `SupportsBatchDelete.end_run` is one of the
       same journal. So each batch comes as a whole before the end of its run, and is in every tally that the end gives, or
       removes nothing.
    2. Whoever ends a job that may still remove (a cancel, the deadline, a failure that an answer shows) ends its run first, and
       changes the state of the job, which takes all leases with it (law 18), second. So once the state has changed nothing is
       removed and nothing is published, and no step is left that a dead process could have owed.
    3. A process that dies between the two leaves a job that works on without being able to remove. The run says whether a cancel
       ended it: the first worker that meets the end finishes that cancel, a sweep finishes a deadline, and a client that sends
       the cancel again finishes it itself. Since the end is written once, all of them tell the same tally.
    4. What was removed until then is recorded in the journal's outbox (`SupportsOutbox`), and told before the end is answered.

    With our own log before a storage (`DeletionLog`) point 1 holds for what the log lets begin: a removal that the storage was
    carrying out when the run ended, one for each worker, can still take effect. The tally counts it as not known yet.

    Args:
        sources: who removes, and who keeps account of it.
        outbox: tells of what was removed.
    """

    def __init__(self, sources: Sources, outbox: Outbox) -> None:
        self.sources = sources
        """Who removes, and who keeps account of it."""
        self.outbox = outbox
        """Tells of what was removed."""

    async def end(self, job: Job, *, cancelled: bool = False) -> Tally | None:
        """End the run of a job before its state says so; None if it has none. Can be called again.

        Raises:
            Refused: `BUSY`; nothing has ended.
        """
        if self.sources.journal is None or job.request.kind is not JobKind.REMOVE_ALL:
            return None
        tally = await self.sources.journal.end_run(job.id, cancelled=cancelled)
        await self.outbox.empty()
        return tally

    async def sweep(self) -> None:
        """Settle what a crash left in doubt, and tell of all removals that nobody told of."""
        if self.sources.log is not None:
            await self.sources.log.settle_doubts()
        await self.outbox.empty()
