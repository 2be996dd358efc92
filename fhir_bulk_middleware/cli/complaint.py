"""Errors that the command line reports without a traceback."""

from importlib.util import find_spec

__all__ = ["Complaint", "need"]


class Complaint(Exception):  # noqa: N818 - a message to the user
    """A message to the user, with the fault and its remedy; it ends the program with exit code 2."""


def need(command: str, *modules: str) -> None:
    """Check that modules of the extra `demo` are installed.

    Raises:
        Complaint: a module is missing; the message names the extra.
    """
    missing = [module for module in modules if not _there(module)]
    if missing:
        raise Complaint(
            f"fhir-bulk {command} needs {' and '.join(missing)}, which the extra brings: pip install 'fhir-bulk-middleware[demo]'"
        )


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # `sys.modules[name]` is None
        return False
