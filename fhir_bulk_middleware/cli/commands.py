"""The type of argparse's subparsers, which argparse does not export."""

from argparse import ArgumentParser
from typing import Protocol

__all__ = ["Commands"]


class Commands(Protocol):
    """Protocol of the subparsers that each command adds itself to."""

    def add_parser(self, name: str, *, help: str) -> ArgumentParser:  # noqa: A002 - argparse's name
        """Add a command and return its parser."""
        ...
