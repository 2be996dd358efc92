"""The query string of a delete: control parameters and criteria. Any other parameter is refused, never ignored.

An ignored criterion would delete more than was asked for, and an ignored misspelling of a dry run would delete at all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.delete.policy import DeletePolicy
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Control", "criteria", "criteria_refused", "separate"]

_SWITCH = {"true": True, "false": False}
_FORMATS = frozenset({"json", "application/json", "application/fhir+json", "application/fhir json"})


@dataclass(frozen=True, slots=True)
class Control:
    """The control parameters of a delete.

    Attributes:
        no_content: whether to respond without content.
        dry_run: whether to remove nothing, and say what would be removed.
    """

    no_content: bool = False
    dry_run: bool = False


def separate(policy: DeletePolicy, sent: Iterable[Parameter]) -> tuple[Control, list[Parameter]]:
    """Separate the control parameters of a delete from all others.

    Raises:
        Refused: `VALUE_MALFORMED`, `PARAMETER_REPEATED` or `FORMAT_UNSUPPORTED`, for a control parameter.
    """
    found: dict[str, bool] = {}
    others: list[Parameter] = []
    for parameter in sent:
        match parameter.name:
            case policy.no_content_parameter | policy.dry_run_parameter:
                if parameter.name in found:
                    raise Refused(Reason.PARAMETER_REPEATED, f"{parameter.name} may be given once.", part=parameter.part)
                if parameter.value not in _SWITCH:
                    raise Refused(Reason.VALUE_MALFORMED, f"{parameter.name} must be true or false.", part=parameter.part)
                found[parameter.name] = _SWITCH[parameter.value]
            case "_format":
                if parameter.value not in _FORMATS:
                    raise Refused(Reason.FORMAT_UNSUPPORTED, "Answers here are application/fhir+json.", part=parameter.part)
            case "_pretty":
                pass  # only about white space
            case _:
                others.append(parameter)
    return Control(found.get(policy.no_content_parameter or "", False), found.get(policy.dry_run_parameter or "", False)), others


def criteria(version: FhirVersion, type_: str, parameters: Sequence[Parameter]) -> Criteria:
    """The criteria of a delete.

    Raises:
        Refused: there is no criterion (`CRITERIA_MISSING`), or one cannot be applied exactly (`VALUE_MALFORMED`,
            `PARAMETER_UNSUPPORTED`, `TOO_MUCH`).
    """
    if not parameters:
        raise Refused(
            Reason.CRITERIA_MISSING,
            f"A conditional delete needs search criteria; without any it would empty {type_}.",
            part="http.query",
        )
    try:
        return Criteria.of(version, type_, [(parameter.name, parameter.value) for parameter in parameters])
    except CriteriaError as error:
        raise criteria_refused(error) from None


def criteria_refused(error: CriteriaError) -> Refused:
    """The refusal of criteria that cannot be applied exactly."""
    reason = Reason.VALUE_MALFORMED if error.malformed else Reason.PARAMETER_UNSUPPORTED
    if error.excessive:
        reason = Reason.TOO_MUCH
    return Refused(reason, f"{error}; nothing was deleted.", part=f"http.{error.part}")
