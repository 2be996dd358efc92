"""The checks as items of a pytest session."""

from typing import Any

import anyio

from fhir_bulk_middleware.checks.bounds import Bounds
from fhir_bulk_middleware.checks.factory import NoAdapter, adapter_of, released
from fhir_bulk_middleware.checks.finding import Finding, Outcome, Remark
from fhir_bulk_middleware.checks.report import CHECKS, client, report
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["CheckItem", "Checks"]


class Checks:
    """The checks of one adapter. The first item that runs runs all of them, in one event loop.

    Args:
        factory: `module:factory`.
    """

    def __init__(self, factory: str) -> None:
        self._factory = factory
        self._findings: dict[str, Finding] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add an item for each check, before -k and -m choose."""
        items += [CheckItem.from_parent(session, name=f"fhir-bulk check: {name}", check=name, checks=self) for name, _ in CHECKS]

    def finding(self, name: str) -> Finding:
        """What came of a check.

        Raises:
            NoAdapter: the factory makes none.
        """
        if not self._findings:
            self._findings = {finding.check: finding for finding in anyio.run(self._run)}
        return self._findings[name]

    async def _run(self) -> list[Finding]:
        async with released(adapter_of(self._factory)) as adapter:
            return (await report(adapter, Bounds(), client())).findings


class CheckItem(pytest.Item):
    """One check as a test: it fails with the sentences of its faults, and is skipped if it could not be checked."""

    def __init__(self, *, check: str, checks: Checks, **given: Any) -> None:
        super().__init__(**given)
        self._check = check
        self._checks = checks

    def runtest(self) -> None:
        """Look at what came of the check."""
        try:
            finding = self._checks.finding(self._check)
        except NoAdapter as error:
            pytest.fail(f"--fhir-bulk-adapter: {error}", pytrace=False)
        if finding.outcome is Outcome.FAIL:
            pytest.fail("\n".join([finding.promise, *map(_line, finding.faults)]), pytrace=False)
        if finding.outcome is Outcome.NOT_CHECKED:
            pytest.skip(" ".join(map(_line, finding.gaps)))


def _line(remark: Remark) -> str:
    return f"{remark.what} {remark.do}".rstrip()
