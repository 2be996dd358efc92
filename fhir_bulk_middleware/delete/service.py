"""What happens to deletes on behalf of a caller. It speaks outcomes and reasons, not HTTP; in doubt nothing is deleted."""

from dataclasses import dataclass, field, replace

from fhir_bulk_middleware import events
from fhir_bulk_middleware.delete.conditions import criteria_refused
from fhir_bulk_middleware.delete.if_match import IfMatch
from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.delete.removal import (
    AlreadyDeleted,
    Current,
    Deleted,
    Matches,
    NeverExisted,
    Protected,
    Removal,
    Target,
    Version,
    VersionMismatch,
)
from fhir_bulk_middleware.delete.rights import DeleteRights
from fhir_bulk_middleware.export.job import Job, JobKind, Request
from fhir_bulk_middleware.export.query import Everything, Level, Rows, Window
from fhir_bulk_middleware.export.service import ExportService
from fhir_bulk_middleware.fhir.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Precision
from fhir_bulk_middleware.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome, Reason, Refused
from fhir_bulk_middleware.principal import Principal
from fhir_bulk_middleware.protocols import SupportsConditionalDelete, SupportsDelete
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.settings import Settings

__all__ = ["DeleteService", "DeleteWish", "Result"]

_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteWish:
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
        observers: who is told of what was deleted.
        clock: what time it is.
    """

    def __init__(
        self,
        *,
        one: SupportsDelete,
        several: SupportsConditionalDelete | None,
        jobs: ExportService | None,
        policy: DeletePolicy,
        settings: Settings,
        version: FhirVersion,
        precision: Precision,
        retention: float,
        mount: str,
        observers: Observers,
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
        self._clock = clock

    @property
    def has_jobs(self) -> bool:
        """Whether a remove-all can become a job."""
        return self._jobs is not None

    async def delete(self, principal: Principal, type_: str, id_: str, wish: DeleteWish) -> Result:
        """Delete one resource by its id.

        Raises:
            Refused: the scopes, the storage or the policy stand against it.
        """
        return await self._told(principal, events.Removal.BY_ID, await self._by_its_id(principal, type_, id_, wish))

    async def _by_its_id(self, principal: Principal, type_: str, id_: str, wish: DeleteWish) -> Result:
        rights = self._rights(principal, type_, search=wish.dry_run)
        note = await self._note(principal, type_)
        if self._policy.if_match_required and wish.if_match is None:
            raise Refused(Reason.HEADER_MISSING, "Send If-Match with the version that is to be deleted.", part="http.If-Match")
        if rights.granted or wish.dry_run:
            return await self._delete_found(
                Target(criteria=self._by_id(type_, id_), granted=rights.granted, rights=note), wish, rights
            )
        asked = None if wish.if_match is None else wish.if_match.versions
        removal = await self._one.remove(type_, id_, asked, note)
        return _result(removal if wish.if_match is None else wish.if_match.judge(removal), rights)

    async def delete_matching(self, principal: Principal, criteria: Criteria, wish: DeleteWish) -> Result:
        """Delete what meets the criteria: the one match, or with `remove_all` all of them in one transaction.

        Raises:
            Refused: the scopes or the storage stand against it, or a criterion cannot be applied.
        """
        rights, target = await self._target(principal, criteria, wish)
        cap = self._settings.removals_at_most if wish.remove_all else 1
        for _ in range(_TRIES):
            matches = await self._find(target, cap)
            result = await (self._all(target, matches, wish) if wish.remove_all else self._single(target, matches, wish))
            if result is not None:
                removal = events.Removal.ALL if wish.remove_all else events.Removal.BY_CRITERIA
                return await self._told(principal, removal, _shown(result, rights))
        raise _unsettled()

    async def begin(
        self, principal: Principal, criteria: Criteria, wish: DeleteWish, url: str, idempotency_key: str | None
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
        return await self._jobs.accept(principal, request, Rows(Everything(), target.rights, versions=frozen), idempotency_key)

    def cap(self, *, asynchronous: bool) -> int:
        """How many a remove-all may remove."""
        return self._settings.removals_at_most_async if asynchronous else self._settings.removals_at_most

    async def _told(self, principal: Principal, removal: events.Removal, result: Result) -> Result:
        """The result, once observers know what is gone."""
        if result.removed:
            event = events.Deleted(
                at=self._clock(),
                mount=self._mount,
                owner=principal.owner,
                removal=removal,
                type=result.removed[0].type,
                references=tuple(resource.reference for resource in result.removed),
            )
            await self._observers.tell(event)
        return result

    async def _target(self, principal: Principal, criteria: Criteria, wish: DeleteWish) -> tuple[DeleteRights, Target]:
        if wish.remove_all and wish.if_match is not None:
            detail = "If-Match names one version; a remove-all has many."
            raise Refused(Reason.HEADER_INVALID, detail, part="http.If-Match")
        rights = self._rights(principal, criteria.type, search=True)
        note = await self._note(principal, criteria.type)
        return rights, Target(criteria=criteria, granted=rights.granted, rights=note)

    async def _delete_found(self, target: Target, wish: DeleteWish, rights: DeleteRights) -> Result:
        """Delete one resource that must be seen first: for a dry run, or because scopes cover part of its type only.

        Outside of that part nothing is told apart: neither what lives there, nor what was deleted, nor what never was.
        """
        for _ in range(_TRIES):
            matches = await self._find(target, 1)
            if not matches.count and rights.granted:
                raise Refused(Reason.SCOPE_MISSING, f"The token's scopes cover no such resource of type {target.type}.")
            if not matches.count:
                return Result(outcome=DeleteOutcome.WOULD_DELETE, shows_content=rights.shows_content)
            result = await self._single(target, matches, wish)
            if result is not None:
                return _shown(result, rights)
        raise _unsettled()

    async def _single(self, target: Target, matches: Matches, wish: DeleteWish) -> Result | None:
        """An ordinary delete of the one match, at the version that matched; None if it has changed meanwhile."""
        if not matches.count:
            return Result(outcome=DeleteOutcome.NO_MATCH)
        if matches.count > 1:
            return Result(outcome=DeleteOutcome.SEVERAL_MATCHES, count=matches.count)
        (match,) = matches.versions
        if wish.if_match is not None and not wish.if_match.allows(match.version):
            return Result(outcome=DeleteOutcome.VERSION_MISMATCH)
        if wish.dry_run:
            return Result(outcome=DeleteOutcome.WOULD_DELETE, versions=matches.versions, count=1)
        removal = await self._one.remove(target.type, match.id, frozenset({match.version}), target.rights)
        return _result(removal) if isinstance(removal, Deleted | Protected) else None

    async def _all(self, target: Target, matches: Matches, wish: DeleteWish) -> Result | None:
        """A remove-all; None if the matches have changed meanwhile."""
        if not matches.count:
            return Result(outcome=DeleteOutcome.NO_MATCH)
        if matches.count > len(matches.versions):
            return Result(outcome=DeleteOutcome.TOO_MANY_MATCHES, count=matches.count)
        if wish.dry_run:
            return Result(outcome=DeleteOutcome.WOULD_DELETE, versions=matches.versions, count=matches.count)
        removed = await self._conditional().remove_all(target, matches)
        if removed is None:
            return None
        if isinstance(removed, Protected):
            return _result(removed)
        return Result(outcome=DeleteOutcome.ALL_DELETED, removed=tuple(removed), count=len(removed))

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
        case Deleted(resource):
            return Result(outcome=DeleteOutcome.DELETED, removed=(resource,), count=1, shows_content=shows)
        case AlreadyDeleted():
            return Result(outcome=DeleteOutcome.ALREADY_DELETED)
        case NeverExisted():
            return Result(outcome=DeleteOutcome.NEVER_EXISTED)
        case VersionMismatch():
            return Result(outcome=DeleteOutcome.VERSION_MISMATCH)
        case Protected(detail):
            return Result(outcome=DeleteOutcome.PROTECTED, detail=detail)


def _shown(result: Result, rights: DeleteRights) -> Result:
    return replace(result, shows_content=rights.shows_content)


def _unsettled() -> Refused:
    return Refused(Reason.BUSY, "What is to be deleted changes too quickly; nothing was deleted.", retry_after=1)
