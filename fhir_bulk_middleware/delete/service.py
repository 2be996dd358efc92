"""What happens to deletes on behalf of a caller. It speaks outcomes and reasons, not HTTP; in doubt nothing is deleted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fhir_bulk_middleware.contract import events
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import SupportsConditionalDelete, SupportsDelete, SupportsLockedDelete, SupportsOutbox
from fhir_bulk_middleware.contract.job import Job, JobKind, Request
from fhir_bulk_middleware.contract.query import Everything, Level, Rows, Window
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Current,
    Matches,
    NeverExisted,
    Protected,
    Removal,
    Removed,
    Target,
    Version,
    VersionMismatch,
)
from fhir_bulk_middleware.delete.account import DeleteAccount
from fhir_bulk_middleware.delete.conditions import criteria_refused
from fhir_bulk_middleware.delete.if_match import IfMatch
from fhir_bulk_middleware.delete.outbox_draining import Outbox, as_note
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.rights import DeleteRights
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Precision
from fhir_bulk_middleware.jobs.service import JobService, KickOffDetail
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome, Reason, Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["DeleteRequest", "DeleteService", "Result"]

_TRIES = 20
_TRIES_BEFORE_A_LOCK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequest:
    """A delete, read.

    Attributes:
        if_match: which version the client means, None if it does not say.
        dry_run: remove nothing.
        remove_all: remove every match of the criteria.
    """

    if_match: IfMatch | None = None
    dry_run: bool = False
    remove_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a delete.

    Attributes:
        outcome: in the domain's words.
        removed: what is gone, as it was.
        versions: for a dry run, what would be gone.
        count: how many were removed, would be, or met the criteria.
        shows_content: whether the caller may see what `removed` and `versions` hold (law 24).
        detail: more of why, for the caller.
    """

    outcome: DeleteOutcome
    removed: tuple[Current, ...] = field(default=(), repr=False)
    versions: tuple[Version, ...] = ()
    count: int = 0
    shows_content: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Through:
    """The storage on behalf of one caller, for one delete.

    Attributes:
        one: removes one resource.
        several: removes by criteria; None if the storage cannot.
        account: has the delete recorded before anything is removed.
        event: who is doing what, as observers will be told.
        recorded: whether the storage records what is removed under that event.
    """

    one: SupportsDelete
    several: SupportsConditionalDelete | None
    account: DeleteAccount
    event: events.Deleted
    recorded: bool


class DeleteService:
    """Decides deletes.

    Args:
        one: removes one resource.
        several: finds and removes by criteria; None if the storage cannot.
        jobs: keeps long remove-alls; None where there is no journal for them.
        policy: what clients may ask for.
        settings: caps.
        version: the release whose search parameters are meant.
        precision: of instants in jobs.
        retention: seconds that a finished job is kept.
        mount: the name of the mount.
        observers: who is told of what was deleted, by us where the storage does not record it.
        outbox: tells of what the storage recorded.
        clock: what time it is.
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

    async def delete(self, principal: Principal, type_: str, id_: str, wish: DeleteRequest) -> Result:
        """Delete one resource by its id.

        Raises:
            Refused: the scopes, the storage or the policy stand against it.
        """
        through = await self._through(principal, events.Removal.BY_ID, type_)
        return await self._told(through, await self._by_its_id(through, principal, type_, id_, wish))

    async def _by_its_id(self, through: _Through, principal: Principal, type_: str, id_: str, wish: DeleteRequest) -> Result:
        rights = self._rights(principal, type_, search=wish.dry_run)
        note = await self._note(principal, type_)
        if self._policy.if_match_required and wish.if_match is None:
            raise Refused(Reason.HEADER_MISSING, "Send If-Match with the version that is to be deleted.", part="http.If-Match")
        if rights.granted or wish.dry_run:
            target = Target(criteria=self._by_id(type_, id_), granted=rights.granted, rights=note)
            return await self._delete_found(through, target, wish, rights)
        asked = None if wish.if_match is None else wish.if_match.versions
        await through.account.intend([id_])
        removal = await through.one.remove(type_, id_, asked, note)
        return _result(removal if wish.if_match is None else wish.if_match.judge(removal), rights)

    async def delete_matching(self, principal: Principal, criteria: Criteria, wish: DeleteRequest) -> Result:
        """Delete what meets the criteria: the one match, or with `remove_all` all of them in one transaction.

        Raises:
            Refused: the scopes or the storage stand against it, or a criterion cannot be applied.
        """
        rights, target = await self._target(principal, criteria, wish)
        removal = events.Removal.ALL if wish.remove_all else events.Removal.BY_CRITERIA
        through = await self._through(principal, removal, target.type, criteria)
        return await self._told(through, _shown(await self._settled(through, target, wish), rights))

    async def begin(
        self, principal: Principal, criteria: Criteria, wish: DeleteRequest, url: str, idempotency_key: str | None
    ) -> Job | Result:
        """Make a job of a remove-all: what it will remove is frozen now (law 26). No job where nothing matches, or too much.

        Raises:
            Refused: as `delete_matching`; or too many jobs run.
        """
        if self._jobs is None:
            raise TypeError("there is no journal for long remove-alls")
        self._jobs.pace(principal)
        rights, target = await self._target(principal, criteria, wish)
        matches = await self._find(target, self._settings.removals_at_most_async)
        if matches.count > len(matches.versions):
            return Result(outcome=DeleteOutcome.TOO_MANY_MATCHES, count=matches.count)
        # Asked again under a key it must come to the first job, though that may have left nothing to match.
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
        """How many a remove-all may remove."""
        return self._settings.removals_at_most_async if asynchronous else self._settings.removals_at_most

    async def _through(
        self, principal: Principal, removal: events.Removal, type_: str, criteria: Criteria | None = None
    ) -> _Through:
        """The storage, which records what is removed through it if it can (law 37)."""
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
            return _Through(self._one, self._several, account, event, recorded=False)
        one = self._one.recording(as_note(event))
        several = one if isinstance(one, SupportsConditionalDelete) else self._several
        return _Through(one, several, account, event, recorded=True)

    async def _told(self, through: _Through, result: Result) -> Result:
        """The result, once observers know what is gone, or that nothing is."""
        if not result.removed:
            await through.account.left(result.outcome, [version.id for version in result.versions])
            return result
        references = tuple(resource.reference for resource in result.removed)
        event = replace(through.event, at=self._clock(), references=references)
        await (self._outbox.told(event) if through.recorded else self._observers.tell(event))
        return result

    async def _target(self, principal: Principal, criteria: Criteria, wish: DeleteRequest) -> tuple[DeleteRights, Target]:
        if wish.remove_all and wish.if_match is not None:
            detail = "If-Match names one version; a remove-all has many."
            raise Refused(Reason.HEADER_INVALID, detail, part="http.If-Match")
        rights = self._rights(principal, criteria.type, search=True)
        note = await self._note(principal, criteria.type)
        return rights, Target(criteria=criteria, granted=rights.granted, rights=note)

    async def _settled(self, through: _Through, target: Target, wish: DeleteRequest) -> Result:
        """Delete what the target means: find it, then remove it if it is still that; again if it is not, at last under a lock."""
        cap = self._settings.removals_at_most if wish.remove_all else 1
        locked: SupportsLockedDelete | None = through.several if isinstance(through.several, SupportsLockedDelete) else None
        for _ in range(_TRIES if locked is None else _TRIES_BEFORE_A_LOCK):
            matches = await self._find(target, cap)
            attempt = self._all if wish.remove_all else self._single
            if (result := await attempt(through, target, matches, wish)) is not None:
                return result
        if locked is None:
            raise _unsettled()
        if_version = None if wish.if_match is None else wish.if_match.versions
        await through.account.intend([])  # which ones they are is found under the lock; the criteria name them until then
        removed = await locked.remove_matching(target, at_most=cap, if_version=if_version)
        if isinstance(removed, Matches):
            return _left(removed, wish)
        if isinstance(removed, Protected):
            return _result(removed)
        return _removed(removed, wish)

    async def _delete_found(self, through: _Through, target: Target, wish: DeleteRequest, rights: DeleteRights) -> Result:
        """Delete one resource that must be seen first: for a dry run, or because scopes cover part of its type only.

        Outside of that part nothing is told apart: neither what lives there, nor what was deleted, nor what never was.
        """
        result = await self._settled(through, target, wish)
        if result.outcome is DeleteOutcome.NO_MATCH:
            if rights.granted:
                raise Refused(Reason.SCOPE_MISSING, f"The token's scopes cover no such resource of type {target.type}.")
            return Result(outcome=DeleteOutcome.WOULD_DELETE, shows_content=rights.shows_content)
        return _shown(result, rights)

    async def _single(self, through: _Through, target: Target, matches: Matches, wish: DeleteRequest) -> Result | None:
        """An ordinary delete of the one match, at the version that matched; None if it has changed meanwhile."""
        if not matches.removable(None if wish.if_match is None else wish.if_match.versions):
            return _left(matches, wish)
        if wish.dry_run:
            return Result(outcome=DeleteOutcome.WOULD_DELETE, versions=matches.versions, count=1)
        (match,) = matches.versions
        await through.account.intend([match.id])
        removal = await through.one.remove(target.type, match.id, frozenset({match.version}), target.rights)
        return _result(removal) if isinstance(removal, Removed | Protected) else None

    async def _all(self, through: _Through, target: Target, matches: Matches, wish: DeleteRequest) -> Result | None:
        """A remove-all; None if the matches have changed meanwhile."""
        if not matches.removable(None):
            return _left(matches, wish)
        if wish.dry_run:
            return Result(outcome=DeleteOutcome.WOULD_DELETE, versions=matches.versions, count=matches.count)
        await through.account.intend([match.id for match in matches.versions])
        removed = await (through.several or self._conditional()).remove_all(target, matches)
        if removed is None:
            return None
        return _result(removed) if isinstance(removed, Protected) else _removed(removed, wish)

    async def _find(self, target: Target, at_most: int) -> Matches:
        try:
            return await self._conditional().find(target, at_most=at_most)
        except CriteriaError as error:
            raise criteria_refused(error) from None

    def _conditional(self) -> SupportsConditionalDelete:
        if self._several is None:
            detail = "This server finds no resources for a delete, which this request or the token's scopes would need."
            raise Refused(Reason.PARAMETER_UNSUPPORTED, detail)
        return self._several

    def _by_id(self, type_: str, id_: str) -> Criteria:
        return Criteria.of(self._version, type_, [("_id", id_)])

    def _rights(self, principal: Principal, type_: str, *, search: bool) -> DeleteRights:
        return DeleteRights.of(Scopes.parse(principal.scopes), type_, self._version, search=search)

    async def _note(self, principal: Principal, type_: str) -> str:
        authorisation = await self._one.deletable(principal)
        if type_ not in authorisation.types:
            raise Refused(Reason.TYPE_KEPT, f"Resources of type {type_} are not deleted here.", allow=("GET", "HEAD"))
        return authorisation.rights


def _result(removal: Removal, rights: DeleteRights | None = None) -> Result:
    shows = rights is not None and rights.shows_content
    match removal:
        case Removed(resource):
            return Result(outcome=DeleteOutcome.DELETED, removed=(resource,), count=1, shows_content=shows)
        case AlreadyDeleted():
            return Result(outcome=DeleteOutcome.ALREADY_DELETED)
        case NeverExisted():
            return Result(outcome=DeleteOutcome.NEVER_EXISTED)
        case VersionMismatch():
            return Result(outcome=DeleteOutcome.VERSION_MISMATCH)
        case Protected(detail):
            return Result(outcome=DeleteOutcome.PROTECTED, detail=detail)


def _left(matches: Matches, wish: DeleteRequest) -> Result:
    """Why matches are not removed: there are none, too many, or the one is not what the client means."""
    if not matches.count:
        return Result(outcome=DeleteOutcome.NO_MATCH)
    if matches.count > len(matches.versions):
        outcome = DeleteOutcome.TOO_MANY_MATCHES if wish.remove_all else DeleteOutcome.SEVERAL_MATCHES
        return Result(outcome=outcome, count=matches.count)
    return Result(outcome=DeleteOutcome.VERSION_MISMATCH)


def _removed(removed: Sequence[Current], wish: DeleteRequest) -> Result:
    """What came of a delete by criteria that removed all matches."""
    outcome = DeleteOutcome.ALL_DELETED if wish.remove_all else DeleteOutcome.DELETED
    return Result(outcome=outcome, removed=tuple(removed), count=len(removed))


def _shown(result: Result, rights: DeleteRights) -> Result:
    return replace(result, shows_content=rights.shows_content)


def _unsettled() -> Refused:
    return Refused(Reason.BUSY, "What is to be deleted changes too quickly; nothing was deleted.", retry_after=1)
