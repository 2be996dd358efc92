"""Gives processes a share of a core each, by the kernel's control groups, so that others on the same machine have the rest."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["quota"]

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 10_000
"""Microseconds: so short that a process stops and goes on many times within an export."""


@contextmanager
def quota(processes: Sequence[int], share: float) -> Generator[bool]:
    """Limit each process to a share of a core while the context is open, or until it ends.

    Args:
        processes: their ids.
        share: such as 0.4 of a core.

    Yields:
        Whether that is possible: it needs root, and control groups with the controller `cpu`.
    """
    given = round(share * _PERIOD)
    if (_ROOT / "cpu" / "cpu.cfs_quota_us").exists():
        parent, limits = _ROOT / "cpu", {"cpu.cfs_period_us": f"{_PERIOD}", "cpu.cfs_quota_us": f"{given}"}
    else:
        parent, limits = _ROOT, {"cpu.max": f"{given} {_PERIOD}"}
    made: list[Path] = []
    try:
        try:
            for process in processes:
                group = parent / f"fhir-bulk-benchmark-{os.getpid()}-{process}"
                group.mkdir()
                made.append(group)
                for name, value in limits.items():
                    (group / name).write_text(value)
                (group / "cgroup.procs").write_text(f"{process}")
        except OSError:
            limited = False
        else:
            limited = True
        yield limited
    finally:
        for group in made:
            for left in (group / "cgroup.procs").read_text().split():
                (parent / "cgroup.procs").write_text(left)
            group.rmdir()
