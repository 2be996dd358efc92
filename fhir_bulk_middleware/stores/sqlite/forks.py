"""Closes open databases before the process forks (`os.fork`, gunicorn's `--preload`, `multiprocessing` by fork)."""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable
from typing import Protocol

__all__ = ["abandon", "watch"]


class _Forkable(Protocol):
    def before_fork(self) -> None: ...

    def after_fork(self) -> None: ...


_watched: "weakref.WeakSet[_Forkable]" = weakref.WeakSet()
_abandoned: list[sqlite3.Connection] = []
_lock = threading.Lock()


def watch(database: _Forkable) -> None:
    """Call a database's `before_fork` and `after_fork` as long as it exists."""
    with _lock:
        _watched.add(database)


def abandon(connections: Iterable[sqlite3.Connection]) -> None:
    """Keep the parent's connections referenced in the child, so that they are never closed here."""
    _abandoned.extend(connections)


def _before() -> None:
    with _lock:
        databases = list(_watched)
    for database in databases:
        database.before_fork()
    _lock.acquire()


def _in_parent() -> None:
    _lock.release()


def _in_child() -> None:
    global _lock  # noqa: PLW0603 - its holder does not exist in the child
    _lock = threading.Lock()
    for database in list(_watched):
        database.after_fork()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
