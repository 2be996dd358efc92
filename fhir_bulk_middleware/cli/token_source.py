"""Where the tokens of a STATE folder's server come from, if not from its development key."""

import json
from dataclasses import asdict, dataclass

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State

__all__ = ["TokenSource"]


@dataclass(frozen=True, slots=True)
class TokenSource:
    """The issuer of the tokens that a server accepts, for people who ask `fhir-bulk token` for one.

    Attributes:
        reason: the option of the server because of which it accepts no development tokens.
        remedy: how to get a token; complete sentences.
    """

    reason: str
    remedy: str

    @classmethod
    def of(cls, state: State) -> "TokenSource | None":
        """The source of the last server's tokens; None if that is the development key, or if there was no server.

        Raises:
            Complaint: the file of the STATE folder is damaged.
        """
        try:
            return cls(**json.loads(state.token_source.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise Complaint(f"{state.token_source} cannot be read; start the server again, which writes it") from error

    @staticmethod
    def note(state: State, source: "TokenSource | None") -> None:
        """Record the source of a server that starts; None for the development key."""
        if source is None:
            state.token_source.unlink(missing_ok=True)
        else:
            state.make()
            state.token_source.write_text(json.dumps(asdict(source)))
