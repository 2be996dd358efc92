"""Binds an output store to the one job store whose sweeps remove files from it (law 32)."""

from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.registration import NotAdmitted

__all__ = ["bind"]


async def bind(outputs: OutputStore, jobs: JobStore) -> None:
    """Bind the output store to the job store for good, unless it is bound to it already.

    Raises:
        NotAdmitted: it is bound to another job store.
    """
    if not await outputs.bind((await jobs.registry()).store_id):
        raise NotAdmitted(
            f"the files in this output store ({type(outputs).__name__}) belong to another job store, whose sweeps would remove "
            "these: give this one a folder of its own or, where that job store is gone for good, an empty folder"
        )
