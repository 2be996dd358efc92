"""The service of deletes: rights, policy and observers. It returns outcomes and raises reasons, not HTTP."""

from dataclasses import replace

from fhir_bulk_middleware.contract import events
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import SupportsConditionalDelete, SupportsDelete, SupportsOutbox
from fhir_bulk_middleware.contract.job import Job, JobKind, Request
from fhir_bulk_middleware.contract.query import Everything, Level, Rows, Window
from fhir_bulk_middleware.contract.removal import Target
from fhir_bulk_middleware.delete.account import DeleteAccount
from fhir_bulk_middleware.delete.conditional import ConditionalDelete, StorageOfCaller, find
from fhir_bulk_middleware.delete.outbox_draining import Outbox, as_note
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.result import DeleteRequest, Result
from fhir_bulk_middleware.delete.rights import DeleteRights
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Precision
from fhir_bulk_middleware.jobs.service import JobService, KickOffDetail
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome, Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.tracing import span

__all__ = ["DeleteService"]


class DeleteService:
    """Carries out deletes on behalf of a caller. In doubt nothing is deleted.

    Args:
        one: removes one resource.
        several: finds and removes by criteria; None if the storage cannot.
        jobs: accepts remove-alls as jobs; None without a journal for them.
        policy: what clients may ask for.
        settings: caps.
        version: the FHIR release of the search parameters.
        precision: of instants in jobs.
        retention: seconds that a finished job is kept.
        mount: the name of the mount.
        observers: receive the events of deletes that the storage does not record.
        outbox: sends the events that the storage recorded.
        clock: the current time.
    """

    def __init__(
        self,
        *,
        one: SupportsDelete,
        several: SupportsConditionalDelete | None,
        jobs: JobService | None,
        policy: DeletePolicy,
        settings: Settings,
        version: FhirVersion,
        precision: Precision,
        retention: float,
        mount: str,
        observers: Observers,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._one = one
        self._several = several
        self._jobs = jobs
        self._policy = policy
        self._settings = settings
        self._version = version
        self._precision = precision
        self._retention = retention
        self._mount = mount
        self._observers = observers
        self._outbox = outbox
        self._clock = clock

    @property
    def has_jobs(self) -> bool:
        """Whether a remove-all can become a job."""
        return self._jobs is not None

    async def delete(self, principal: Principal, type_: str, id_: str, asked: DeleteRequest) -> Result:
        """Delete one resource by its id.

        Raises:
            Refused: the scopes, the storage or the policy do not allow it.
        """
        with span("delete", {"mount": self._mount, "removal": events.RemovalKind.BY_ID.value, "type": type_}):
            storage = await self._storage(principal, events.RemovalKind.BY_ID, type_)
            return await self._reported(storage, await self._by_its_id(storage, principal, type_, id_, asked))

    async def _by_its_id(
        self, storage: StorageOfCaller, principal: Principal, type_: str, id_: str, asked: DeleteRequest
    ) -> Result:
        rights = self._rights(principal, type_, search=asked.dry_run)
        note = await self._note(principal, type_)
        if self._policy.if_match_required and asked.if_match is None:
            raise Refused(Reason.HEADER_MISSING, "Send If-Match with the version that is to be deleted.", part="http.If-Match")
        if rights.granted or asked.dry_run:
            target = Target(criteria=self._by_id(type_, id_), granted=rights.granted, rights=note)
            return await self._delete_found(storage, target, asked, rights)
        await storage.account.intend([id_])
        removal = await storage.one.remove(type_, id_, asked.versions, note)
        return Result.of(removal if asked.if_match is None else asked.if_match.judge(removal), rights)

    async def delete_matching(self, principal: Principal, criteria: Criteria, asked: DeleteRequest) -> Result:
        """Delete the single match of the criteria, or with `remove_all` all matches in one transaction.

        Raises:
            Refused: the scopes or the storage do not allow it, or a criterion cannot be applied.
        """
        removal = events.RemovalKind.ALL if asked.remove_all else events.RemovalKind.BY_CRITERIA
        with span("delete", {"mount": self._mount, "removal": removal.value, "type": criteria.type}):
            rights, target = await self._target(principal, criteria, asked)
            storage = await self._storage(principal, removal, target.type, criteria)
            return await self._reported(storage, _shown(await self._remove(storage, target, asked), rights))

    async def begin(
        self, principal: Principal, criteria: Criteria, asked: DeleteRequest, url: str, idempotency_key: str | None
    ) -> Job | Result:
        """Make a job of a remove-all, and freeze the versions to remove (law 26). No job if nothing matches, or too much.

        Raises:
            Refused: as `delete_matching`; or the owner has too many jobs.
        """
        if self._jobs is None:
            raise TypeError("there is no journal for long remove-alls")
        self._jobs.pace(principal)
        rights, target = await self._target(principal, criteria, asked)
        matches = await find(self._several, target, self._settings.removals_at_most_async)
        if matches.count > len(matches.versions):
            return Result(outcome=DeleteOutcome.TOO_MANY_MATCHES, count=matches.count)
        # With an idempotency key, a repeated request must find the first job, which may have left no matches.
        if not matches.count and idempotency_key is None:
            return Result(outcome=DeleteOutcome.NO_MATCH)
        request = Request(
            url=url,
            level=Level.SYSTEM,
            types=(target.type,),
            window=Window(),
            retention=self._retention,
            precision=self._precision,
            granular=rights.granular,
            kind=JobKind.REMOVE_ALL,
        )
        frozen = tuple((match.id, match.version) for match in matches.versions)
        rows = Rows(Everything(), target.rights, versions=frozen)
        return await self._jobs.accept(principal, request, rows, idempotency_key, KickOffDetail(criteria=(criteria,)))

    def cap(self, *, asynchronous: bool) -> int:
        """The largest number of resources that a remove-all may remove."""
        return self._settings.removals_at_most_async if asynchronous else self._settings.removals_at_most

    async def _storage(
        self, principal: Principal, removal: events.RemovalKind, type_: str, criteria: Criteria | None = None
    ) -> StorageOfCaller:
        """The storage for one delete, recording removals under its event if it can (law 37)."""
        account = DeleteAccount(
            self._observers,
            self._clock,
            mount=self._mount,
            principal=principal,
            removal=removal,
            type_=type_,
            criteria=criteria,
        )
        event = await account.event()
        if not isinstance(self._one, SupportsOutbox):
            return StorageOfCaller(self._one, self._several, account, event, recorded=False)
        one = self._one.recording(as_note(event))
        several = one if self._several is not None and isinstance(one, SupportsConditionalDelete) else self._several
        return StorageOfCaller(one, several, account, event, recorded=True)

    async def _reported(self, storage: StorageOfCaller, result: Result) -> Result:
        """The result, after its event was sent to the observers."""
        if not result.removed:
            await storage.account.left(result.outcome, [version.id for version in result.versions])
            return result
        references = tuple(resource.reference for resource in result.removed)
        event = replace(storage.event, at=self._clock(), references=references)
        await (self._outbox.told(event) if storage.recorded else self._observers.tell(event))
        return result

    async def _target(self, principal: Principal, criteria: Criteria, asked: DeleteRequest) -> tuple[DeleteRights, Target]:
        if asked.remove_all and asked.if_match is not None:
            detail = "If-Match names one version; a remove-all has many."
            raise Refused(Reason.HEADER_INVALID, detail, part="http.If-Match")
        rights = self._rights(principal, criteria.type, search=True)
        note = await self._note(principal, criteria.type)
        return rights, Target(criteria=criteria, granted=rights.granted, rights=note)

    async def _remove(self, storage: StorageOfCaller, target: Target, asked: DeleteRequest) -> Result:
        at_most = self.cap(asynchronous=False) if asked.remove_all else 1
        return await ConditionalDelete(storage, target, asked, at_most).run()

    async def _delete_found(self, storage: StorageOfCaller, target: Target, asked: DeleteRequest, rights: DeleteRights) -> Result:
        """Delete one resource that must be read first: for a dry run, or because the scopes cover a part of its type only.

        Outside of that part, living, deleted and unknown resources get the same answer.
        """
        result = await self._remove(storage, target, asked)
        if result.outcome is DeleteOutcome.NO_MATCH:
            if rights.granted:
                raise Refused(Reason.SCOPE_MISSING, f"The token's scopes cover no such resource of type {target.type}.")
            return Result(outcome=DeleteOutcome.WOULD_DELETE, shows_content=rights.shows_content)
        return _shown(result, rights)

    def _by_id(self, type_: str, id_: str) -> Criteria:
        return Criteria.of(self._version, type_, [("_id", id_)])

    def _rights(self, principal: Principal, type_: str, *, search: bool) -> DeleteRights:
        return DeleteRights.of(Scopes.parse(principal.scopes), type_, self._version, search=search)

    async def _note(self, principal: Principal, type_: str) -> str:
        authorisation = await self._one.deletable(principal)
        if type_ not in authorisation.types:
            raise Refused(Reason.TYPE_KEPT, f"Resources of type {type_} are not deleted here.", allow=("GET", "HEAD"))
        return authorisation.rights


def _shown(result: Result, rights: DeleteRights) -> Result:
    return replace(result, shows_content=rights.shows_content)
