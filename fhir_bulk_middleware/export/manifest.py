"""The manifest of an export, and its pages (section 2.4 of the requirements)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.contract.job import FileKind, Job, JobState, Part, Standing
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.storage import (
    SupportsContext,
    SupportsDeletions,
    SupportsExport,
    SupportsLeft,
    SupportsNaming,
    SupportsSnapshot,
)
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.files.format import MEDIA_TYPE

__all__ = ["ManifestPage", "manifest", "notes_in_words", "published", "storage_notes"]

_DEFINITION = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkDataManifest"
_EXTENSIONS = "urn:fhir-bulk-middleware:"

LEFT_COMPLETE = "leftComplete"
CONTEXT_COMPLETE = "contextComplete"
CHANGED_CONTEXT_COMPLETE = "changedContextComplete"
"""A note that exports with `_since` show as `CONTEXT_COMPLETE`."""
ORGANISED_CONTEXT_COMPLETE = "organisedContextComplete"
"""As before, for organised output: context that changed and is named by unchanged resources alone has no block to be in."""


@dataclass(frozen=True, slots=True)
class ManifestPage:
    """A page of a manifest. A manifest without paging is one page.

    Attributes:
        number: from 0.
        parts: the files on this page.
        errors: the error files of this page and all before it; some versions of the IG list them on every page.
        more: whether there is a next page.
    """

    number: int
    parts: tuple[Part, ...]
    errors: tuple[Part, ...]
    more: bool

    @classmethod
    def of(cls, published: Sequence[Part], number: int, size: int | None, *, complete: bool) -> "ManifestPage | None":
        """The page with this number, None if it does not exist (yet).

        A page is shown once no file can join it any more; after that it only gains a `next` link (law 20).

        Args:
            published: the files so far, in a fixed order that grows only at its end.
            number: from 0.
            size: files on a page, None for all.
            complete: whether no more files will be published.
        """
        size = size or max(len(published), 1)
        start, end = number * size, (number + 1) * size
        full = len(published) >= end
        if not (full or (complete and (number == 0 or len(published) > start))):
            return None
        more = len(published) > end if complete else len(published) >= end + size
        errors = tuple(part for part in published[:end] if part.kind is FileKind.ERROR)
        return cls(number, tuple(published[start:end]), errors, more)


def manifest(
    dialect: Dialect,
    job: Job,
    page: ManifestPage,
    address: Callable[[str], str],
    *,
    following: str | None = None,
    notes: Mapping[str, Any],
    signed: bool = False,
) -> dict[str, Any]:
    """A manifest, or a page of one, as JSON.

    Args:
        dialect: which keys there are, and how instants are shown.
        job: planned, so it has a cut.
        page: the files to list.
        address: from a file id to its absolute URL (MF-06).
        following: the URL of the next page, None on the last (ST-44).
        notes: promises that the storage does not keep, for the root's `extension` (law 6).
        signed: whether the URLs of files work without a token (MF-03).
    """
    shape = dialect.manifest
    lists: dict[FileKind, list[dict[str, Any]]] = {kind: [] for kind in FileKind}
    for part in page.parts:
        lists[part.kind].append(_item(dialect, job, part, address))
    if shape.errors_on_every_page:
        lists[FileKind.ERROR] = [_item(dialect, job, part, address) for part in page.errors]
    document: dict[str, Any] = {"manifestType": _DEFINITION} if shape.manifest_type else {}
    document["transactionTime"] = instant.render(job.cut or job.created_at, dialect.precision, dialect.zone)
    if shape.request:
        document["request"] = job.request.url
    if shape.manifest_type:
        document["outputFormat"] = MEDIA_TYPE
    if job.request.options.organised_by is not None:
        document["outputOrganizedBy"] = job.request.options.organised_by
    document["requiresAccessToken"] = not signed
    document["output"] = lists[FileKind.OUTPUT]
    if shape.deleted and job.request.window.since is not None:
        document["deleted"] = lists[FileKind.DELETED]
    document[shape.errors] = lists[FileKind.ERROR]
    if following is not None:
        document["link"] = [{"relation": "next", "url": following}]
    if shape.empty_message is not None and not any(lists.values()):
        document["message"] = shape.empty_message.format(job=job.id)
    told = {**_notes(job, notes), **_unfinished(dialect, job), **_forgotten(dialect, job)}
    told |= _left(dialect, job, lists[FileKind.LEFT])
    if told and (extension := _extension(dialect, told)):
        document["extension"] = extension
    return document


def _notes(job: Job, notes: Mapping[str, bool]) -> dict[str, bool]:
    """The notes that concern a job: those about cohorts only at Patient and Group level, some only with `_since`."""
    cohort, since = job.request.level is not Level.SYSTEM, job.request.window.since is not None
    organised = job.request.options.organised_by is not None
    matters = {
        LEFT_COMPLETE: cohort and since,
        CONTEXT_COMPLETE: cohort,
        CHANGED_CONTEXT_COMPLETE: cohort and since,
        ORGANISED_CONTEXT_COMPLETE: cohort and since and organised,
    }
    said = {name: value for name, value in notes.items() if matters.get(name, True)}
    return {_shown(name): value for name, value in said.items()}


def _shown(note: str) -> str:
    """The name of a note in manifests."""
    return CONTEXT_COMPLETE if note in {CHANGED_CONTEXT_COMPLETE, ORGANISED_CONTEXT_COMPLETE} else note


def _left(dialect: Dialect, job: Job, files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The files that tell what left a cohort since `_since` (law 34); in dialects that list deletions."""
    window = job.request.window
    return {} if job.request.level is Level.SYSTEM or window.since is None or not dialect.manifest.deleted else {"left": [*files]}


def _unfinished(dialect: Dialect, job: Job) -> dict[str, Any]:
    """The notes of an export whose cut did not wait for all transactions; what those commit is told by the next export."""
    if job.unfinished is None:
        return {}
    at = instant.render(job.unfinished.at, dialect.precision, dialect.zone)
    return {"unfinishedTransactions": job.unfinished.transactions, "unfinishedTransactionsAt": at}


def _forgotten(dialect: Dialect, job: Job) -> dict[str, Any]:
    """The notes of an export whose storage no longer knows all deletions since `_since` (law 28)."""
    known = job.request.options.deletions_since
    if known is None or not dialect.manifest.deleted:
        return {}
    return {"deletedComplete": False, "deletedCompleteSince": instant.render(known, dialect.precision, dialect.zone)}


def _item(dialect: Dialect, job: Job, part: Part, address: Callable[[str], str]) -> dict[str, Any]:
    shape, output = dialect.manifest, part.kind is FileKind.OUTPUT
    item: dict[str, Any] = {}
    if shape.typed_items if not output else job.request.options.organised_by is None:  # MF-05
        item["type"] = part.type
    item |= {"url": address(part.file_id), "count": part.count}
    if part.continued_in is not None:
        item["continuesInFile"] = address(part.continued_in)
    own = {"sha256": part.sha256}
    if shape.file_size:
        item["fileSize"] = part.size
        if part.severity is not None:
            item["countSeverity"] = [{"code": part.severity, "count": part.count}]
        item["extension"] = _extension(dialect, own)
    else:
        item["extension"] = _extension(dialect, {"size": part.size, **own})
    return item


def _extension(dialect: Dialect, values: Mapping[str, Any]) -> Any:
    """Custom data as the value of `extension` (MF-15)."""
    if not dialect.manifest.extension_array:
        return dict(values)
    return [each for name, value in values.items() for each in _entries(f"{_EXTENSIONS}{name}", value)]


def _entries(url: str, value: Any) -> list[dict[str, Any]]:
    """A value as FHIR extensions: one for a scalar, one with parts for an object, and one for each entry of a list."""
    kinds = {bool: "valueBoolean", int: "valueInteger", str: "valueString"}
    if isinstance(value, list):
        return [each for entry in value for each in _entries(url, entry)]
    if isinstance(value, Mapping):
        return [{"url": url, "extension": [each for name, part in value.items() for each in _entries(name, part)]}]
    return [{"url": url, kinds[type(value)]: value}]


def published(standing: Standing) -> Sequence[Part]:
    """The files that a manifest may list, in the order of the plan.

    For a running job: those before the first unfinished slice, so that the list grows only at its end (law 20), or none if the
    client did not allow partial manifests.
    """
    job, unfinished = standing.job, standing.unfinished
    if job.state is JobState.COMPLETED:
        return standing.parts
    if job.state is not JobState.RUNNING or not job.request.options.partial_manifests:
        return ()
    return [part for part in standing.parts if unfinished is None or part.slice <= unfinished]


def notes_in_words(notes: Mapping[str, bool]) -> tuple[str, ...]:
    """What manifests say of a storage, a sentence for each note."""
    cohort = " of exports at Patient and Group level"
    where = {
        LEFT_COMPLETE: f"{cohort} with `_since`",
        CONTEXT_COMPLETE: cohort,
        CHANGED_CONTEXT_COMPLETE: f"{cohort} with `_since`",
        ORGANISED_CONTEXT_COMPLETE: f"{cohort} with `_since` and `organizeOutputBy`",
    }
    return tuple(f"Manifests{where.get(name, '')} say {_shown(name)}: {str(value).lower()}." for name, value in notes.items())


def storage_notes(resources: SupportsExport, *, context: bool) -> dict[str, bool]:
    """The promises that a storage does not keep, which its manifests state (laws 6, 28 and 34).

    Args:
        resources: the storage adapter.
        context: whether exports have context.
    """
    notes = {}
    if not isinstance(resources, SupportsSnapshot):
        notes["exactSnapshot"] = False
    if not isinstance(resources, SupportsDeletions):
        notes["deletedComplete"] = False
    if not isinstance(resources, SupportsLeft):
        notes[LEFT_COMPLETE] = False
    if context and not isinstance(resources, SupportsContext):
        notes[CONTEXT_COMPLETE] = False
    elif context and not (isinstance(resources, SupportsNaming) and isinstance(resources, SupportsSnapshot)):
        notes[CHANGED_CONTEXT_COMPLETE] = False
    elif context:
        notes[ORGANISED_CONTEXT_COMPLETE] = False
    return notes
