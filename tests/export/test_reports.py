"""The lines of error files: what each dialect reports, though workers that serve all dialects write them (KO-102, ST-15)."""

import pytest

from fhir_bulk_middleware.contract.job import Ignored
from fhir_bulk_middleware.dialects import DIALECTS, HEALTH_CONNECT_AU, SOARIAN, STANDARD, SUBJECT_BOUND, Dialect
from fhir_bulk_middleware.export.reports import ignored_line, unreadable_line
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.outcomes import Reason

ELEMENTS = {
    TextElement.BOTH: '"details":{"text":"%s"},"diagnostics":"%s"',
    TextElement.DETAILS: '"details":{"text":"%s"}',
    TextElement.DIAGNOSTICS: '"diagnostics":"%s"',
}


def line(dialect: Dialect, severity: str, code: str, text: str, expression: str = "") -> bytes:
    issue = f'{{"severity":"{severity}","code":"{code}",{ELEMENTS[dialect.text].replace("%s", text)}{expression}}}'
    return f'{{"resourceType":"OperationOutcome","issue":[{issue}]}}\n'.encode()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("reason", [Reason.PARAMETER_UNKNOWN, Reason.PARAMETER_UNSUPPORTED])
def test_a_parameter_that_was_set_aside_is_a_warning(dialect: Dialect, reason: Reason) -> None:
    form = dialect.report_form()
    told = line(dialect, "warning", "not-supported", "foo: It is unknown.", ',"expression":["http.foo"]')
    assert ignored_line(form, Ignored(reason, "foo: It is unknown.", "http.foo")) == told
    bare = line(dialect, "warning", "not-supported", "foo")
    assert ignored_line(form, Ignored(reason, "foo", None)) == bare


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_an_unreadable_resource_is_an_error(dialect: Dialect) -> None:
    told = line(dialect, "error", "processing", "Patient/p-1.2 could not be exported.")
    assert unreadable_line(dialect.report_form(), "Patient/p-1.2") == told


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_a_client_sent_cannot_steer_a_terminal(dialect: Dialect) -> None:
    ignored = Ignored(Reason.PARAMETER_UNKNOWN, "é\x1b[2J\r\n\x85\ud800", "http.\x00\n" + "x" * 300)
    told = line(
        dialect,
        "warning",
        "not-supported",
        "é\ufffd[2J\ufffd\ufffd\ufffd\ufffd",
        f',"expression":["http.\ufffd\ufffd{"x" * 113}"]',
    )
    assert ignored_line(dialect.report_form(), ignored) == told


def test_each_source_document_has_its_own_element_for_the_text() -> None:
    found = {dialect.name: dialect.report_form().element for dialect in (STANDARD, HEALTH_CONNECT_AU, SOARIAN, SUBJECT_BOUND)}
    assert found == {
        "standard": TextElement.BOTH,
        "health-connect-au": TextElement.DIAGNOSTICS,
        "soarian": TextElement.DETAILS,
        "subject-bound": TextElement.DETAILS,
    }
