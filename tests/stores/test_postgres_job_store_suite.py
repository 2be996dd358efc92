"""The job store in PostgreSQL keeps the promises of the kit."""

from fhir_bulk_middleware.testing.job_backlog import JobBacklogSuite
from fhir_bulk_middleware.testing.job_census import JobCensusSuite
from fhir_bulk_middleware.testing.job_store import JobStoreSuite

pytest_plugins = ["postgres_fixtures"]


class TestPostgresJobStore(JobStoreSuite, JobCensusSuite, JobBacklogSuite):
    """With the fixture `store`."""
