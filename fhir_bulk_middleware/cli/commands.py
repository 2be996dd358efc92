"""The type of argparse's list of commands, which has no public name of its own."""

from argparse import ArgumentParser
from typing import Protocol

__all__ = ["Commands"]


class Commands(Protocol):
    """What a command adds itself to."""

    def add_parser(self, name: str, *, help: str) -> ArgumentParser:  # noqa: A002 - argparse's name
        """The parser of a new command."""
        ...
