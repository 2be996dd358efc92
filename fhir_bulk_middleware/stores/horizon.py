"""The deletion horizon of a store: since when it knows all deletions, and when it began to say so.

A kick-off asks for the horizon once, and its export reads for as long as a job may run. So a store first announces a horizon, and
removes what lies before it only when every job has ended that may have been told an earlier one.
"""

from dataclasses import dataclass

from fhir_bulk_middleware.instant import Instant, after

__all__ = ["Horizon", "following"]


@dataclass(frozen=True, slots=True)
class Horizon:
    """An announced horizon.

    Attributes:
        since: all deletions after this instant are known.
        announced: when the store began to answer `since`.
    """

    since: Instant
    announced: Instant

    def in_force(self, now: Instant, grace: float) -> bool:
        """Whether it was announced at least `grace` seconds ago, so that what lies before it can be removed."""
        return after(self.announced, grace) <= now


def following(horizon: Horizon | None, before: Instant, now: Instant, grace: float) -> Horizon | None:
    """The horizon to announce now, None to keep the one that there is.

    The next horizon waits until the last one is in force: announced earlier, it would restart the wait each time.

    Args:
        horizon: the last one that was announced.
        before: the wanted `since`; a horizon never goes back.
        now: the caller's clock. A horizon announced later than that was announced before the clock was set back: it waits anew.
        grace: seconds for which a job may go on reading.
    """
    if horizon is None:
        return Horizon(before, now)
    if horizon.announced > now:
        return Horizon(horizon.since, now)
    return Horizon(before, now) if before > horizon.since and horizon.in_force(now, grace) else None
