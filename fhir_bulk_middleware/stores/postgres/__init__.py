"""Jobs and resources in PostgreSQL, and exact cuts for hosts that keep their data there (extra `postgres`)."""

try:
    from fhir_bulk_middleware.stores.postgres.jobs import PostgresJobStore
    from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
except ImportError as error:
    if "fhir-bulk-middleware" in str(error) or not (error.name or "").startswith("psycopg"):
        raise
    raise ImportError("PostgresJobStore needs psycopg: pip install 'fhir-bulk-middleware[postgres]'") from error

__all__ = ["PostgresJobStore", "PostgresResourceStore"]
