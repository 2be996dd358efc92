"""Reports of removals in PostgreSQL, written in the transaction of the removal and kept until observers know of them (law 37)."""

from collections.abc import Sequence
from functools import partial

from fhir_bulk_middleware.contract.lease import LEASE_SLACK
from fhir_bulk_middleware.contract.removal import Report
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["add", "forget", "unreported"]

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"
_TELLER = "SELECT name, until FROM $resource_teller"
_LEASE = """
    INSERT INTO $resource_teller VALUES (1, %(name)s, %(until)s)
    ON CONFLICT (one) DO UPDATE SET name = excluded.name, until = excluded.until
"""
_OLDEST = "SELECT number, note, at, type, ids FROM $resource_report ORDER BY number LIMIT %(limit)s"


def add(session: Session, note: str, at: Instant, type_: str, ids: Sequence[str]) -> None:
    """Add a report of what this transaction removes, as its last step.

    The lock lets transactions with reports commit one after the other, so that numbers rise in the order in which removals become
    visible. Other writers do not take it.
    """
    session.row(_LOCK, {"name": f"{session.channel} reports"})
    session.insert("resource_report", [{"note": note, "at": at, "type": type_, "ids": [*ids]}])


async def unreported(
    connections: Connections, teller: str, now: Instant, lease_seconds: float, limit: int
) -> Sequence[Report] | None:
    """See `SupportsOutbox`. Without reports, or while another teller holds the lease, it costs a short read and no write."""
    any_, held = await connections.read(partial(_look, teller=teller, now=now, lease_seconds=lease_seconds))
    if not any_:
        return []
    if held:
        return None
    return await connections.write(partial(_take, teller=teller, now=now, lease_seconds=lease_seconds, limit=limit))


def forget(session: Session, teller: str, numbers: Sequence[int]) -> None:
    """Remove reports that observers know of, and end the lease."""
    session.change("DELETE FROM $resource_report WHERE number = ANY(%(numbers)s::bigint[])", {"numbers": [*numbers]})
    session.change("DELETE FROM $resource_teller WHERE name = %(name)s", {"name": teller})


def _look(session: Session, teller: str, now: Instant, lease_seconds: float) -> tuple[bool, bool]:
    any_ = session.row("SELECT 1 FROM $resource_report LIMIT 1") is not None
    return any_, any_ and _held(session, teller, now, lease_seconds)


def _held(session: Session, teller: str, now: Instant, lease_seconds: float) -> bool:
    """Whether another teller holds the lease. One that ends too far in the future does not count: the clock was set back."""
    row = session.row(_TELLER)
    return row is not None and row[0] != teller and now < row[1] <= after(now, LEASE_SLACK * lease_seconds)


def _take(session: Session, teller: str, now: Instant, lease_seconds: float, limit: int) -> Sequence[Report] | None:
    """Lease the oldest reports, in a write transaction."""
    session.row(_LOCK, {"name": f"{session.channel} teller"})
    if _held(session, teller, now, lease_seconds):
        return None
    rows = session.rows(_OLDEST, {"limit": limit})
    if rows:
        session.change(_LEASE, {"name": teller, "until": after(now, lease_seconds)})
    return [Report(number=number, note=note, at=Instant(at), type=type_, ids=tuple(ids)) for number, note, at, type_, ids in rows]
