"""Slices as tasks of a task queue: procrastinate, on PostgreSQL (extra `procrastinate`)."""

try:
    from fhir_bulk_middleware.dispatch.procrastinate_runner import ProcrastinateRunner
except ImportError as error:
    if not (error.name or "").startswith(("procrastinate", "psycopg")):
        raise
    raise ImportError(
        "ProcrastinateRunner needs procrastinate and psycopg: pip install 'fhir-bulk-middleware[procrastinate]', which has what"
        " 'fhir-bulk-middleware[postgres]' has"
    ) from error

__all__ = ["ProcrastinateRunner"]
