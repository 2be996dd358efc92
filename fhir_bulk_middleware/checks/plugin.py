"""The pytest plugin: `pytest -p fhir_bulk_middleware.checks.plugin --fhir-bulk-adapter module:factory` runs each check as a test.

It is no entry point (`pytest11`): pytest would then load it, and rewrite the assertions of all modules of this package, in every
test run of everybody who has the package installed. It imports nothing until its option is given.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption", "pytest_configure"]


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Add the option."""
    parser.getgroup("fhir-bulk").addoption(
        "--fhir-bulk-adapter",
        metavar="MODULE:FACTORY",
        help="read the data of this storage adapter, and run each check of `fhir-bulk check` as a test",
    )


def pytest_configure(config: "pytest.Config") -> None:
    """Add the tests, if the option is given."""
    factory = config.getoption("--fhir-bulk-adapter")
    if factory is not None:
        from fhir_bulk_middleware.checks.items import Checks  # noqa: PLC0415 - only when it is asked for

        config.pluginmanager.register(Checks(factory), "fhir-bulk-checks")
