"""The STATE folder: all that the command line keeps between two runs."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.exclusive import exclusive
from fhir_bulk_middleware.demo.loading import load
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.trusted_files import check_folder

__all__ = ["AUDIENCE", "ISSUER", "State", "audit_settings"]

ISSUER = "https://fhir-bulk.example/development"
"""The issuer of tokens made with a development key."""

AUDIENCE = "https://fhir-bulk.example/development/fhir"
"""Their audience."""

_AUDIT_KEY = "FHIR_BULK_AUDIT_KEY"


@dataclass(frozen=True, slots=True)
class State:
    """Where things are in the folder.

    Attributes:
        folder: the folder itself; it is made when something is first put into it.
    """

    folder: Path

    @property
    def store(self) -> Path:
        """The resources."""
        return self.folder / "store.db"

    @property
    def jobs(self) -> Path:
        """The export jobs."""
        return self.folder / "jobs.db"

    @property
    def exports(self) -> Path:
        """The files of finished exports."""
        return self.folder / "exports"

    @property
    def audit(self) -> Path:
        """What happened, in a chain of hashes."""
        return self.folder / "audit.jsonl"

    @staticmethod
    def audit_key() -> str | None:
        """Where the key of that chain is kept: in the environment variable `FHIR_BULK_AUDIT_KEY`; None for beside the file."""
        return f"env:{_AUDIT_KEY}" if os.environ.get(_AUDIT_KEY) else None

    @property
    def runner(self) -> Path:
        """Lock and wake-up pipes of the one worker pool on this folder (law 19)."""
        return self.folder / "runner"

    @property
    def downloads(self) -> Path:
        """What the client of the demo fetched."""
        return self.folder / "downloads"

    @property
    def server_log(self) -> Path:
        """What the server of the demo has to say."""
        return self.folder / "server.log"

    @property
    def key(self) -> Path:
        """The private key that development tokens are signed with."""
        return self.folder / "development-key.json"

    @property
    def assertions(self) -> Path:
        """Which client assertions were used."""
        return self.folder / "assertions.db"

    @property
    def _signing_key(self) -> Path:
        return self.folder / "authorization-key.json"

    @property
    def _source(self) -> Path:
        return self.folder / "source.json"

    def mint(self) -> TokenMint:
        """The issuer of development tokens; its key is made at the first call, in whichever process that is.

        Raises:
            Complaint: other users of the machine have a hand in the key or the folder.
        """
        self.make()
        with _told():
            return TokenMint.kept_in(self.key, ISSUER, AUDIENCE)

    def signing_key(self) -> SigningKey:
        """The key of the authorization server on this folder, made at the first call.

        Raises:
            Complaint: other users of the machine have a hand in the key or the folder.
        """
        self.make()
        with _told():
            return SigningKey.kept_in(self._signing_key)

    def make(self) -> None:
        """Make the folder; only its owner may look into it, there may be patients in it.

        Raises:
            Complaint: there is one, and it belongs to another user, or others may write it.
        """
        with _told():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_folder(self.folder)

    def loaded(self, source: str) -> bool:
        """Whether the store was filled from this source.

        Raises:
            Complaint: it was filled from another.
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
        """Fill the store; how many resources there were, None if another process filled it from the same source meanwhile.

        It appears under its name when it is complete, so that a load cut short leaves nothing behind. One process loads at a
        time; others wait for it.

        Args:
            source: where the lines come from.
            lines: the resources.
            seen: called now and then with the number of resources so far.
            waiting: called once if another process loads.

        Raises:
            LoadError: a line is no resource.
            Complaint: the store was filled from elsewhere, or a server began one, meanwhile.
        """
        self.make()
        with exclusive(self.folder / "loading.lock", waiting):
            return None if self.loaded(source) else self._load(source, lines, seen)

    def _load(self, source: str, lines: Iterable[bytes], seen: Callable[[int], None]) -> int:
        part = self.store.with_name("loading.db")
        for left in self.folder.glob("loading.db*"):
            left.unlink()
        store = SQLiteResourceStore(part)
        try:
            count = load(store, lines, seen)
        finally:
            store.close()
        self._source.write_text(json.dumps({"source": source}))
        try:
            self.store.hardlink_to(part)  # unlike a rename it takes nobody's place
        except FileExistsError:
            raise Complaint(
                f"a server was started on {self.folder} while it was loaded; stop it and remove {self.store}"
            ) from None
        finally:
            part.unlink()
        return count


@contextmanager
def _told() -> Iterator[None]:
    """Tell what is wrong with the folder or a key in it in one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Complaint(f"--dir: {error}") from error


def audit_settings() -> dict[str, str]:
    """What the commands that work on a STATE use of `Settings` by default: without its record nothing is served or removed."""
    key = State.audit_key()
    return {"on_audit_failure": "refuse"} | ({} if key is None else {"audit_key": key})
