"""Refuses a parameter that cannot be used, or sets it aside and reports it, as the client prefers (KO-100 to KO-102)."""

from dataclasses import replace

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.job import Ignored
from fhir_bulk_middleware.outcomes import LONGEST_DETAIL, LONGEST_PART, Reason, Refused

__all__ = ["Leniency"]

_LONGEST_NAME = 80


class Leniency:
    """Refuses parameters that cannot be used; for a client that asked for `handling=lenient`, collects reports instead.

    There is one report for each parameter name: of its first unusable value, with the number of further ones.

    Args:
        lenient: whether the client asked for `handling=lenient`.
    """

    def __init__(self, *, lenient: bool) -> None:
        self._lenient = lenient
        self._ignored: dict[str, Ignored] = {}
        self._more: dict[str, int] = {}

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """The reports so far, one for each parameter name."""
        return tuple(self._reported(name, item) for name, item in self._ignored.items())

    def unusable(self, reason: Reason, name: str, problem: str, part: str) -> None:
        """Refuse a parameter, or report that it was ignored. Both texts begin with its name (KO-102).

        Args:
            reason: in the domain's words.
            name: of the parameter.
            problem: why it cannot be used, a sentence.
            part: its place in the request.

        Raises:
            Refused: the client did not ask for leniency, or too many parameters are unusable (`TOO_MUCH`).
        """
        detail = f"{name[:_LONGEST_NAME]}: {problem}"
        if not self._lenient:
            raise Refused(reason, detail, part=part)
        if name in self._ignored:
            self._more[name] = self._more.get(name, 0) + 1
            return
        if len(self._ignored) >= caps.REPORTS:
            refusal = f"More than {caps.REPORTS} parameters cannot be used; leave out those that this server does not know."
            raise Refused(Reason.TOO_MUCH, refusal, part=part)
        self._ignored[name] = Ignored(reason, detail[:LONGEST_DETAIL], part[:LONGEST_PART])

    def _reported(self, name: str, item: Ignored) -> Ignored:
        more = self._more.get(name)
        detail = item.detail if more is None else f"{item.detail} {more} more of its values could not be used."
        return replace(item, detail=detail)
