"""Ends the runs of remove-all jobs, so that an end is final whichever process dies (law 36)."""

from fhir_bulk_middleware.contract.job import Job, JobKind
from fhir_bulk_middleware.contract.removal import Tally
from fhir_bulk_middleware.delete.outbox_draining import Outbox
from fhir_bulk_middleware.delete.removal_sources import Sources

__all__ = ["RemovalRuns"]


class RemovalRuns:
    """Ends runs, and sends the events of what they removed.

    The job store and the journal of removals may be two databases, so no transaction covers both. The journal decides:

    1. A batch removes in a transaction of the journal that also checks that its run is open. `SupportsBatchDelete.end_run` is a
       transaction of the same journal. So a batch is either complete before the end of its run, and in every tally of it, or
       removes nothing.
    2. To end a job that may still remove (a cancel, the deadline, a failure), its run is ended first, and then the state of the
       job changes, which ends all leases (law 18). So once the state has changed, nothing is removed or published, and no step
       is left over if a process dies.
    3. A process that dies between the two steps leaves a job whose workers cannot remove. The run records whether a cancel ended
       it: the first worker that finds the run ended finishes the cancel, a sweep finishes a deadline, and a client that repeats
       the cancel finishes it too. The end is written once, so all of them give the same tally.
    4. What was removed until then is in the journal's outbox (`SupportsOutbox`); its events are sent before the end is answered.

    With a `DeletionLog` point 1 holds for removals that have not begun: one removal per worker that the storage was carrying out
    when the run ended can still take effect. The tally counts it as in doubt.

    Args:
        sources: removes, and records removals.
        outbox: sends the events of recorded removals.
    """

    def __init__(self, sources: Sources, outbox: Outbox) -> None:
        self.sources = sources
        """Removes, and records removals."""
        self.outbox = outbox
        """Sends the events of recorded removals."""

    async def end(self, job: Job, *, cancelled: bool = False) -> Tally | None:
        """End the run of a job, before its state changes; None if the job has no run. May be called again.

        Raises:
            Refused: `BUSY`; the run has not ended.
        """
        if self.sources.journal is None or job.request.kind is not JobKind.REMOVE_ALL:
            return None
        tally = await self.sources.journal.end_run(job.id, cancelled=cancelled)
        await self.outbox.empty()
        return tally

    async def sweep(self) -> None:
        """Settle marks in doubt, and send the events of removals that no process has sent."""
        if self.sources.log is not None:
            await self.sources.log.settle_doubts()
        await self.outbox.empty()
