"""The error of a load."""

__all__ = ["LoadError"]


class LoadError(Exception):
    """A resource cannot be loaded; the message names file and line."""
