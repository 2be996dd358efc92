"""Signs the URLs by which clients fetch files from the output store itself, and records that they were handed out."""

from collections.abc import Mapping, Sequence

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.events import UrlsSigned
from fhir_bulk_middleware.contract.job import Job, JobState, Part
from fhir_bulk_middleware.contract.output_store import OutputStore, SupportsSignedUrls
from fhir_bulk_middleware.instant import Clock, after, seconds_between
from fhir_bulk_middleware.observers.observing import Observers

__all__ = ["SignedUrls", "check_signing"]

_SHORTEST = 1.0


class SignedUrls:
    """The signed URLs of the files of exports (FR-05).

    Args:
        outputs: the output store, which signs.
        seconds: how long a URL works.
        observers: receive the event `UrlsSigned`.
        clock: the current time.
    """

    def __init__(self, outputs: SupportsSignedUrls, seconds: float, *, observers: Observers, clock: Clock) -> None:
        self._outputs = outputs
        self._seconds = seconds
        self._observers = observers
        self._clock = clock

    async def of(self, principal: Principal, job: Job, parts: Sequence[Part]) -> Mapping[str, str]:
        """By file id, a URL of each part. It works no longer than the job is kept.

        Raises:
            Refused: the output store cannot sign now; or an audit cannot record it, so no URL may be handed out (law 37).
        """
        if not parts:
            return {}
        now = self._clock()
        left = seconds_between(now, job.expires_at) if job.state is JobState.COMPLETED else self._seconds
        seconds = max(min(self._seconds, left), _SHORTEST)
        urls = await self._outputs.signed_urls([part.key for part in parts], seconds)
        await self._observers.require(
            UrlsSigned(
                at=now,
                mount=job.mount,
                owner=principal.owner,
                caller=principal.caller,
                job_id=job.id,
                file_ids=tuple(part.file_id for part in parts),
                types=tuple(sorted({part.type for part in parts})),
                until=after(now, seconds),
            )
        )
        return {part.file_id: url for part, url in zip(parts, urls, strict=True)}


def check_signing(outputs: OutputStore) -> SupportsSignedUrls:
    """The output store, if it can sign URLs.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(outputs, SupportsSignedUrls) and outputs.signs():
        return outputs
    raise TypeError(
        f"outputs: {type(outputs).__name__} cannot sign URLs as it is configured, and signed_url_seconds asks for them: use an "
        "ObjectOutputStore on S3, Google Cloud Storage or Azure, or leave signed_url_seconds out"
    )
