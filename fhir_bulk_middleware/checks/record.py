"""What the checks keep of an exported line: id, time, links to patients, and a digest of the text."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.expression import Walk, compile_path
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.identifiers import is_resource_id
from fhir_bulk_middleware.instant import Instant, parse

__all__ = ["LineFault", "LineReader", "Record"]

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BLANK = re.compile(rb"[ \t\r]")
_FOREIGN = re.compile(r"(https?://.*)/(Patient/[A-Za-z0-9.-]{1,64})(?:/_history/.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a line.

    Attributes:
        type: the resource type.
        id: the logical id.
        digest: a digest of the whole line.
        size: bytes of the line.
        instant: `meta.lastUpdated`; None if the line has none.
        links: by path of the Patient compartment, the patients to whom it refers there.
        named: all literal references of the line to resources of this server.
        foreign: patients of absolute references, by the base URL that is not known as this server's.
    """

    type: str
    id: str
    digest: bytes
    size: int
    instant: Instant | None
    links: Mapping[str, frozenset[str]]
    named: frozenset[str]
    foreign: Mapping[str, frozenset[str]]

    @property
    def reference(self) -> str:
        """`Type/id`."""
        return f"{self.type}/{self.id}"

    @property
    def patients(self) -> frozenset[str]:
        """The patients in whose compartments the resource lies; a patient lies in its own."""
        own = [self.reference] if self.type == "Patient" else []
        return frozenset().union(own, *self.links.values())

    def only_path(self, patient: str) -> str | None:
        """The path that alone puts the resource into this patient's compartment; None if there are several or none."""
        paths = [path for path, patients in self.links.items() if patient in patients]
        return paths[0] if len(paths) == 1 and self.reference != patient else None


class LineFault(Exception):  # noqa: N818 - a finding, not an error of the program
    """A line is not canonical. The message names the resource if it can, and what to do."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what)
        self.what = what
        self.do = do


class LineReader:
    """Reads lines of one FHIR release.

    Args:
        version: the FHIR release.
        base_urls: the base URLs under which absolute references are this server's own.
    """

    def __init__(self, version: FhirVersion, base_urls: Iterable[str] = ()) -> None:
        bases = tuple(base_urls)
        membership = CompartmentMembership(version, bases)
        self.paths: Mapping[str, tuple[str, ...]] = membership.paths("Patient")
        """The paths of the Patient compartment by type."""
        self._walks: dict[str, list[tuple[str, Walk]]] = {
            type_: [(path, compile_path(path)) for path in paths] for type_, paths in self.paths.items()
        }
        self._parse = membership.parse
        self._named = References(bases).named

    def read(self, line: bytes, type_: str) -> Record:
        """What is kept of a line, which ends without a newline.

        Raises:
            LineFault: the line is not canonical.
        """
        content = _content(line, type_)
        id_ = content.get("id")
        if not isinstance(id_, str) or not is_resource_id(id_):
            raise LineFault(
                f"A line of {type_} has no id of 1 to 64 letters, digits, '-' and '.'.",
                "Give each line the logical id of its resource.",
            )
        own = f"{type_}/{id_}"
        if _BLANK.search(_STRING.sub(b"", line)):
            raise LineFault(
                f"{own} is written with blanks between its members.",
                'Write compact JSON: json.dumps(..., separators=(",", ":")), or the helper `canonical`.',
            )
        named = self._named(line)
        links, foreign = self._links(content, type_)
        hidden = next((each for each in sorted(frozenset().union(*links.values())) if each.encode() not in named), None)
        if hidden is not None:
            raise LineFault(
                f"{own} refers to {hidden} in characters that are escaped without need, so its bytes do not show the reference.",
                "Escape only what JSON requires: no \\/ and no \\u0050; the helper `canonical` does so.",
            )
        return Record(
            type=type_,
            id=id_,
            digest=hashlib.blake2b(line, digest_size=16).digest(),
            size=len(line) + 1,
            instant=_instant(content, own),
            links=links,
            named=frozenset(each.decode() for each in named),
            foreign=foreign,
        )

    def _links(self, content: Mapping[str, Any], type_: str) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
        links: dict[str, frozenset[str]] = {}
        foreign: dict[str, frozenset[str]] = {}
        for path, walk in self._walks.get(type_, ()):
            found = set()
            for node in walk(content):
                text = node.get("reference") if isinstance(node, Mapping) else None
                if not isinstance(text, str):
                    continue
                reference = self._parse(text)
                if reference is not None:
                    found |= {str(reference)} if reference.type == "Patient" else set()
                elif absolute := _FOREIGN.fullmatch(text):
                    base, patient = absolute.groups()
                    foreign[base] = foreign.get(base, frozenset()) | {patient}
            if found:
                links[path] = frozenset(found)
        return links, foreign


def _content(line: bytes, type_: str) -> dict[str, Any]:
    try:
        content = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise LineFault(f"A line of {type_} is not JSON in UTF-8: {error}.", "Write each resource as one line of JSON.") from None
    if not isinstance(content, dict):
        raise LineFault(f"A line of {type_} is no JSON object.", "Write each resource as one JSON object.")
    return content


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _instant(content: Mapping[str, Any], own: str) -> Instant | None:
    meta = content.get("meta")
    text = meta.get("lastUpdated") if isinstance(meta, Mapping) else None
    if text is None:
        return None
    try:
        return parse(text) if isinstance(text, str) else _refuse(repr(text))
    except ValueError:
        raise LineFault(
            f"The meta.lastUpdated of {own} is no FHIR instant.",
            "Write date, time with seconds, and the offset: 2026-03-01T12:00:00.123456Z.",
        ) from None
