"""The lines of error files: what each dialect reports, though workers that serve all dialects write them (KO-102, ST-15)."""

import pytest

from fhir_bulk_middleware.contract.job import Ignored
from fhir_bulk_middleware.dialects import DIALECTS, HEALTH_CONNECT_AU, SOARIAN, STANDARD, STU2, STU4, SUBJECT_BOUND, Dialect
from fhir_bulk_middleware.export.reports import ignored_line, unreadable_line
from fhir_bulk_middleware.outcomes import Reason

BOTH = '"details":{"text":"%s"},"diagnostics":"%s"'
DETAILS = '"details":{"text":"%s"}'
DIAGNOSTICS = '"diagnostics":"%s"'
FORMS = {
    STANDARD.name: BOTH,
    STU2.name: BOTH,
    STU4.name: BOTH,
    HEALTH_CONNECT_AU.name: DIAGNOSTICS,
    SOARIAN.name: DETAILS,
    SUBJECT_BOUND.name: DETAILS,
}


def line(form: str, severity: str, code: str, text: str, expression: str = "") -> bytes:
    issue = f'{{"severity":"{severity}","code":"{code}",{form.replace("%s", text)}{expression}}}'
    return f'{{"resourceType":"OperationOutcome","issue":[{issue}]}}\n'.encode()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("reason", [Reason.PARAMETER_UNKNOWN, Reason.PARAMETER_UNSUPPORTED])
def test_a_parameter_that_was_set_aside_is_a_warning(dialect: Dialect, reason: Reason) -> None:
    form = dialect.report_form()
    told = line(FORMS[dialect.name], "warning", "not-supported", "foo: It is unknown.", ',"expression":["http.foo"]')
    assert ignored_line(form, Ignored(reason, "foo: It is unknown.", "http.foo")) == told
    bare = line(FORMS[dialect.name], "warning", "not-supported", "foo")
    assert ignored_line(form, Ignored(reason, "foo", None)) == bare


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_an_unreadable_resource_is_an_error(dialect: Dialect) -> None:
    told = line(FORMS[dialect.name], "error", "processing", "Patient/p-1.2 could not be exported.")
    assert unreadable_line(dialect.report_form(), "Patient/p-1.2") == told


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_a_client_sent_cannot_steer_a_terminal(dialect: Dialect) -> None:
    ignored = Ignored(Reason.PARAMETER_UNKNOWN, "é\x1b[2J\r\n\x85\ud800", "http.\x00\n" + "x" * 300)
    told = line(
        FORMS[dialect.name],
        "warning",
        "not-supported",
        "é\ufffd[2J\ufffd\ufffd\ufffd\ufffd",
        f',"expression":["http.\ufffd\ufffd{"x" * 113}"]',
    )
    assert ignored_line(dialect.report_form(), ignored) == told
