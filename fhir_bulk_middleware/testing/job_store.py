"""The promises of a `JobStore`, as tests.

Subclass the suite, with one fixture `store` that makes an empty store:

    class TestMyJobStore(JobStoreSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return MyJobStore(tmp_path / "jobs")

Each test is a promise; its failure names it.
"""

from fhir_bulk_middleware.testing.former_slices import FormerSlicesSuite
from fhir_bulk_middleware.testing.job_keeping import JobKeepingSuite
from fhir_bulk_middleware.testing.job_lists import JobListsSuite
from fhir_bulk_middleware.testing.job_retention import JobRetentionSuite
from fhir_bulk_middleware.testing.plan_rounds import PlanRoundsSuite
from fhir_bulk_middleware.testing.work_queue import WorkQueueSuite

__all__ = ["JobStoreSuite"]


class JobStoreSuite(JobKeepingSuite, JobListsSuite, WorkQueueSuite, PlanRoundsSuite, FormerSlicesSuite, JobRetentionSuite):
    """All promises of a `JobStore`."""
