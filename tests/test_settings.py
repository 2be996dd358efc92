"""Settings from the environment, as an operator meets them: by name, nested, and refused in one sentence without the value."""

import io
import logging
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fhir_bulk_middleware import Settings
from fhir_bulk_middleware.cli import main

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]
SECRET = "s3cret-value-that-nobody-may-read"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FHIR_BULK_")]:
        monkeypatch.delenv(name)


def test_each_kind_of_value_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RETENTION": "86400.5",
        "JOBS_PER_OWNER": "7",
        "GROUP_SCOPE": "true",
        "CONTEXT": "off",
        "ON_AUDIT_FAILURE": "refuse",
        "PUBLIC_BASE_URL": "https://ehr.example/fhir/",
        "SIGNED_URL_SECONDS": "",
        "SMART__TOKEN_ENDPOINT": "https://auth.example/token",
        "SMART__SCOPES_SUPPORTED": '["system/Patient.rs"]',
    }.items():
        monkeypatch.setenv(f"FHIR_BULK_{name}", value)

    read = Settings.from_environment()

    assert (read.retention, read.jobs_per_owner, read.group_scope, read.context) == (86400.5, 7, True, False)
    assert (read.on_audit_failure, read.public_base_url) == ("refuse", "https://ehr.example/fhir")
    assert read.signed_url_seconds is None, "an empty variable is not set"
    assert read.smart is not None
    assert (read.smart.token_endpoint, read.smart.scopes_supported) == ("https://auth.example/token", ("system/Patient.rs",))
    assert read.lease_seconds == Settings().lease_seconds


def test_a_nested_setting_is_one_document_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BULK_SMART", '{"token_endpoint": "https://auth.example/token"}')
    smart = Settings.from_environment().smart
    assert smart is not None
    assert smart.token_endpoint == "https://auth.example/token"


def test_what_the_host_gives_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BULK_RETENTION", "5")
    monkeypatch.setenv("FHIR_BULK_SETTLE", "6")
    read = Settings.from_environment(retention=9)
    assert (read.retention, read.settle) == (9, 6)
    with pytest.raises(ValueError, match=r"^retention: Input should be greater than 0$"):
        Settings.from_environment(retention=-1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RETENTION", SECRET, "FHIR_BULK_RETENTION: Input should be a valid number, unable to parse string as a number"),
        ("JOBS_PER_OWNER", "0", "FHIR_BULK_JOBS_PER_OWNER: Input should be greater than or equal to 1"),
        ("AUDIT_DETAIL", SECRET, "FHIR_BULK_AUDIT_DETAIL: Input should be 'digest' or 'clear'"),
        (
            "PUBLIC_BASE_URL",
            f"https://me:{SECRET}@ehr.example",
            "FHIR_BULK_PUBLIC_BASE_URL: must be an absolute http or https URL",
        ),
        (
            "SMART__TOKEN_ENDPOINT",
            f"https://me:{SECRET}@ehr.example",
            "FHIR_BULK_SMART__TOKEN_ENDPOINT: must be an absolute http",
        ),
        ("SMART__TOKEN", SECRET, "FHIR_BULK_SMART__TOKEN_ENDPOINT: Field required"),
        ("SMART", f"{{{SECRET}", "FHIR_BULK_SMART: this is not JSON"),
        ("LEASE_SECONDS", "2", "the settings do not fit together: lease_seconds must be at least three times renew_seconds"),
        ("AUDIT_KEY", f"/run/{SECRET}", "FHIR_BULK_AUDIT_KEY must be the key itself; the path of its file belongs into"),
    ],
)
def test_a_bad_value_is_named_by_its_variable_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"FHIR_BULK_{name}", value)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        Settings.from_environment()
    shown = str(refused.value)
    assert shown.startswith(said)
    assert "\n" not in shown
    assert refused.value.__context__ is None, "nothing leads to the value"

    assert main(["serve", "--dir", "no-such-folder"]) == 2
    err = capsys.readouterr().err
    assert err == f"fhir-bulk: {shown}\n"
    assert SECRET not in shown + err


def test_a_variable_that_is_no_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Kubernetes adds such variables for a service that is called `fhir-bulk`."""
    monkeypatch.setenv("FHIR_BULK_RETENTON", SECRET)
    monkeypatch.setenv("FHIR_BULK_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FHIR_BULK_RETENTION__DAYS", "3")
    with caplog.at_level(logging.WARNING, "fhir_bulk_middleware"):
        assert Settings.from_environment() == Settings()
    assert [record.getMessage() for record in caplog.records] == [
        "FHIR_BULK_RETENTION__DAYS is set, and there is no such setting; did you mean FHIR_BULK_RETENTION?",
        "FHIR_BULK_RETENTON is set, and there is no such setting; did you mean FHIR_BULK_RETENTION?",
        "FHIR_BULK_SERVICE_HOST is set, and there is no such setting",
    ]


def test_the_audit_key_is_named_and_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BULK_AUDIT_KEY", SECRET)
    read = Settings.from_environment()
    assert read.audit_key == "env:FHIR_BULK_AUDIT_KEY"
    assert SECRET not in repr(read)
    monkeypatch.setenv("FHIR_BULK_AUDIT_KEY_FILE", "/run/secrets/audit")
    with pytest.raises(ValueError, match="are both set"):
        Settings.from_environment()
    monkeypatch.delenv("FHIR_BULK_AUDIT_KEY")
    assert Settings.from_environment().audit_key == "/run/secrets/audit"


def test_the_command_line_takes_precedence_over_the_environment(tmp_path: Path) -> None:
    """A bad value that the command line replaces is not even looked at; one that it does not replace ends the command."""
    environment = {**os.environ, "FHIR_BULK_RETENTION": "never", "FHIR_BULK_PUBLIC_BASE_URL": "https://ehr.example/fhir"}
    command = [*COMMAND, "serve", "--dir", str(tmp_path / "state"), "--port", "0", "--workers", "0"]

    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        refused.stderr == "fhir-bulk: FHIR_BULK_RETENTION: Input should be a valid number, unable to parse string as a number\n"
    )

    with subprocess.Popen([*command, "--set", "retention=60"], env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "at https://ehr.example/fhir (Ctrl-C ends it)" in server.stdout.readline()
        finally:
            server.terminate()


def test_help_explains_every_setting() -> None:
    shown = io.StringIO()
    pydoc.Helper(output=shown)(Settings)
    text = " ".join(shown.getvalue().replace("|", " ").split())
    for name, field in Settings.model_fields.items():
        assert f"{name}: {' '.join((field.description or '').split())}" in text
