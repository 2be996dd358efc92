"""What is told to a person instead of a traceback."""

from importlib.util import find_spec

__all__ = ["Complaint", "need"]


class Complaint(Exception):  # noqa: N818 - it is told, not raised to be mended
    """One clear sentence about what is wrong and what would be right; it ends the program with exit code 2."""


def need(command: str, *modules: str) -> None:
    """See that the modules of the extra `demo` are there.

    Raises:
        Complaint: one is missing; it names the extra.
    """
    missing = [module for module in modules if not _there(module)]
    if missing:
        raise Complaint(
            f"fhir-bulk {command} needs {' and '.join(missing)}, which the extra brings: pip install 'fhir-bulk-middleware[demo]'"
        )


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # it was made impossible to import
        return False
