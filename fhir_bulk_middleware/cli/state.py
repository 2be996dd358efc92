"""The STATE folder, in which the commands keep all their data."""

import gc
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.exclusive import exclusive
from fhir_bulk_middleware.demo.loading import ByLastUpdated, NdjsonFolder, load
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.trusted_files import check_folder

__all__ = ["AUDIENCE", "AUDIT_SETTINGS", "ISSUER", "State"]

ISSUER = "https://fhir-bulk.example/development"
"""The issuer of development tokens."""

AUDIENCE = "https://fhir-bulk.example/development/fhir"
"""The audience of development tokens."""

AUDIT_SETTINGS: Final = {"on_audit_failure": "refuse"}
"""The defaults of commands on a STATE folder: nothing is served or removed without an audit record."""


@dataclass(frozen=True, slots=True)
class State:
    """The paths in a STATE folder.

    Attributes:
        folder: the folder; made on first use.
    """

    folder: Path

    @property
    def store(self) -> Path:
        """The database of resources."""
        return self.folder / "store.db"

    @property
    def jobs(self) -> Path:
        """The database of jobs."""
        return self.folder / "jobs.db"

    @property
    def exports(self) -> Path:
        """The folder of export files."""
        return self.folder / "exports"

    @property
    def audit(self) -> Path:
        """The audit file."""
        return self.folder / "audit.jsonl"

    @property
    def runner(self) -> Path:
        """The folder for lock and wake-up pipes of the worker pool (law 19)."""
        return self.folder / "runner"

    @property
    def downloads(self) -> Path:
        """The files that the demo's client downloaded."""
        return self.folder / "downloads"

    @property
    def server_log(self) -> Path:
        """The log of the demo's server."""
        return self.folder / "server.log"

    @property
    def key(self) -> Path:
        """The private key of development tokens."""
        return self.folder / "development-key.json"

    @property
    def assertions(self) -> Path:
        """The replay log of client assertions."""
        return self.folder / "assertions.db"

    @property
    def token_source(self) -> Path:
        """Where the tokens of the last server come from, unless they are development tokens (`TokenSource`)."""
        return self.folder / "token-source.json"

    @property
    def _signing_key(self) -> Path:
        return self.folder / "authorization-key.json"

    @property
    def _source(self) -> Path:
        return self.folder / "source.json"

    @property
    def _partial(self) -> Path:
        """The database of resources while it is loaded."""
        return self.folder / "loading.db"

    @property
    def _partial_source(self) -> Path:
        """The fingerprint of the files that a load began with."""
        return self.folder / "loading.json"

    def mint(self) -> TokenMint:
        """The issuer of development tokens; the first call in any process generates its key.

        Raises:
            Complaint: other users of the machine can read or write the key or the folder.
        """
        self.make()
        with _complaints():
            return TokenMint.kept_in(self.key, ISSUER, AUDIENCE)

    def signing_key(self) -> SigningKey:
        """The key of the authorization server; the first call generates it.

        Raises:
            Complaint: other users of the machine can read or write the key or the folder.
        """
        self.make()
        with _complaints():
            return SigningKey.kept_in(self._signing_key)

    def make(self) -> None:
        """Make the folder with mode 0700, because it has patient data.

        Raises:
            Complaint: the folder exists and belongs to another user, or others can write it.
        """
        with _complaints():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_folder(self.folder)

    def loaded(self, source: str) -> bool:
        """Whether the store was loaded from this source.

        Raises:
            Complaint: it was loaded from another source.
        """
        if not self.store.exists():
            return False
        self.make()
        there = json.loads(self._source.read_text())["source"] if self._source.exists() else "somewhere else"
        if there != source:
            raise Complaint(f"{self.folder} already holds {there}, not {source}. Name another --dir, or remove that folder.")
        return True

    def load(
        self, source: str, lines: Iterable[bytes], seen: Callable[[int], None], waiting: Callable[[], None] = lambda: None
    ) -> int | None:
        """Load the store and return the number of resources; None if another process loaded it from the same source meanwhile.

        The store gets its name when it is complete, so no server uses half a store. A load that was interrupted is continued if
        the lines have a fingerprint and it is the same; else it starts anew. One process loads at a time; others wait for it.

        Args:
            source: a description of the source of the lines.
            lines: the resources; those of `NdjsonFolder` and `ByLastUpdated` have a fingerprint.
            seen: called periodically with the number of resources so far.
            waiting: called once if another process is loading.

        Raises:
            LoadError: a line is not a resource.
            Complaint: meanwhile the store was loaded from another source, or a server created one.
        """
        self.make()
        with exclusive(self.folder / "loading.lock", waiting):
            return None if self.loaded(source) else self._load(source, lines, seen)

    def loaded_so_far(self) -> int:
        """The number of resources that a load has committed, whether it is complete or not."""
        return _count(self._partial if self._partial.exists() else self.store)

    def _load(self, source: str, lines: Iterable[bytes], seen: Callable[[int], None]) -> int:
        begun = self._begun(lines)
        store = SQLiteResourceStore(self._partial)
        try:
            with _uncollected():
                count = begun + load(store, lines, seen, skip=begun, helpers=_spare_cores())
        finally:
            store.close()
        self._source.write_text(json.dumps({"source": source}))
        try:
            self.store.hardlink_to(self._partial)  # unlike a rename it does not replace a file
        except FileExistsError:
            raise Complaint(
                f"a server was started on {self.folder} while it was loaded; stop it and remove {self.store}"
            ) from None
        finally:
            self._partial.unlink()
            self._partial_source.unlink(missing_ok=True)
        return count

    def _begun(self, lines: Iterable[bytes]) -> int:
        """How many of the lines an interrupted load has committed; removes what it left behind if it loaded other lines."""
        fingerprint = lines.fingerprint if isinstance(lines, NdjsonFolder | ByLastUpdated) else None
        begun = self._partial.exists() and self._partial_source.exists()
        if begun and self._partial_source.read_text() == fingerprint:
            return _count(self._partial)
        for left in self.folder.glob("loading.db*"):
            left.unlink()
        if fingerprint is not None:
            self._partial_source.write_text(fingerprint)
        return 0


def _count(file: Path) -> int:
    """The number of versions in a store: one for each line that was loaded."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM resource").fetchone()[0])
    except sqlite3.OperationalError:  # there is no schema yet, or no file any more
        return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: a load makes millions of objects and no cycles, and each search for some visits all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _spare_cores() -> int:
    """The number of cores besides the one that writes."""
    return len(os.sched_getaffinity(0)) - 1


@contextmanager
def _complaints() -> Iterator[None]:
    """Turn errors of the folder or a key in it into a Complaint."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Complaint(f"--dir: {error}") from error
