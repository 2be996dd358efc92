"""Renders the result of a delete: the policy's cell, and a body that the caller may see (law 24)."""

from collections.abc import Iterable

from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.removal import Current, Version
from fhir_bulk_middleware.delete.policy import Cell, DeletePolicy, Return, Shows
from fhir_bulk_middleware.delete.result import Result
from fhir_bulk_middleware.dialects.model import Answer
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["DeleteResponses", "as_answer", "removed_entry"]

_REMOVED = frozenset({DeleteOutcome.DELETED, DeleteOutcome.ALL_DELETED})


class DeleteResponses:
    """Renders results by a policy.

    Args:
        policy: a cell for each outcome.
        replies: makes responses.
    """

    def __init__(self, policy: DeletePolicy, replies: Replies) -> None:
        self._policy = policy
        self._replies = replies

    def render(
        self, result: Result, *, base: str, type_: str, prefers: Return | None = None, no_content: bool = False, cap: int = 0
    ) -> Response:
        """The response.

        Args:
            result: the result of the delete.
            base: the base URL that makes references absolute.
            type_: the resource type.
            prefers: the client's `Prefer: return`.
            no_content: whether a parameter asks for no content; it overrides `prefers`.
            cap: the largest number of resources that the client could have removed.
        """
        cell, applied = self._cell(result, prefers, no_content=no_content)
        headers: dict[str, str] = {"Preference-Applied": f"return={applied.value}"} if applied else {}
        if result.outcome is DeleteOutcome.DELETED and result.shows_content:
            headers["ETag"] = _etag(result.removed[0].version)
        match cell.shows:
            case Shows.NOTHING:
                return self._replies.empty(cell.status, headers)
            case Shows.REMOVED:
                return self._replies.resource(cell.status, self._removed(result, base, type_), headers)
            case Shows.OUTCOME:
                text = (cell.text or self._policy.cells[result.outcome].text).format(count=result.count, cap=cap)
                outcome = self._replies.outcome(as_answer(cell), f"{text} {result.detail}".strip())
                return self._replies.resource(cell.status, compact_json(outcome).encode(), headers)

    def _cell(self, result: Result, prefers: Return | None, *, no_content: bool) -> tuple[Cell, Return | None]:
        """The policy's cell, without content that the caller may not see; and the preference that was applied."""
        policy = self._policy
        cell, applied = policy.cells[result.outcome], None
        if result.outcome in _REMOVED:
            # A caller who may only delete must not learn whether there was something to delete.
            if no_content or (result.outcome is DeleteOutcome.DELETED and not result.shows_content):
                return policy.without_content, None
            if prefers is not None and prefers in policy.preferred:
                cell, applied = policy.preferred[prefers], prefers
        if cell.shows is Shows.REMOVED and not result.shows_content:
            return Cell(
                cell.status, Shows.OUTCOME, policy.counted.code
            ) if result.outcome not in _REMOVED else policy.counted, None
        return cell, applied

    def _removed(self, result: Result, base: str, type_: str) -> bytes:
        if result.outcome is DeleteOutcome.DELETED:
            return result.removed[0].json
        if result.outcome is DeleteOutcome.WOULD_DELETE:
            status = self._policy.without_content.status
            return _bundle("batch-response", (removed_entry(base, type_, version, status) for version in result.versions))
        status = self._policy.cells[DeleteOutcome.ALL_DELETED].status
        return _bundle("transaction-response", (_with_resource(base, resource, status) for resource in result.removed))


def as_answer(cell: Cell) -> Answer:
    """The cell as an `Answer`."""
    return Answer(cell.status, cell.code, severity=cell.severity)


def removed_entry(base: str, type_: str, version: Version, status: int) -> bytes:
    """A Bundle entry that names a version that was or would be removed."""
    return compact_json(
        {
            "fullUrl": f"{base}/{type_}/{version.id}",
            "response": {
                "status": str(status),
                "location": f"{type_}/{version.id}/_history/{version.version}",
                "etag": _etag(version.version),
            },
        }
    ).encode()


def _with_resource(base: str, resource: Current, status: int) -> bytes:
    """A Bundle entry with a removed resource, its text unchanged."""
    response = {
        "status": str(status),
        "etag": _etag(resource.version),
        "lastModified": instant.render(resource.last_updated, Precision.MILLISECONDS),
    }
    return b'{"fullUrl":%s,"resource":%s,"response":%s}' % (
        compact_json(f"{base}/{resource.reference}").encode(),
        resource.json,
        compact_json(response).encode(),
    )


def _bundle(type_: str, entries: Iterable[bytes]) -> bytes:
    text = b",".join(entries)
    entry = b',"entry":[%s]' % text if text else b""
    return b'{"resourceType":"Bundle","type":"%s"%s}' % (type_.encode(), entry)


def _etag(version: str) -> str:
    return f'W/"{version}"'
