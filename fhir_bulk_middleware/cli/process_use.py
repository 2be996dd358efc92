"""CPU time and memory of a process and of all its descendants, from Linux's `/proc`."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fhir_bulk_middleware.cli.complaint import Complaint

__all__ = ["ProcessUse"]

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What a process and its descendants have used.

    Attributes:
        cpu: seconds of CPU time so far, those of ended and awaited children included.
        peak: the sum of the largest resident sizes of the processes that live, in bytes.
    """

    cpu: float
    peak: int

    @classmethod
    def of(cls, pid: int) -> "ProcessUse":
        """The use of a process now.

        Raises:
            Complaint: there is no such process, or the system has no `/proc`.
        """
        try:
            used, waiting = [_one(pid)], _children(pid)
        except (OSError, ValueError, IndexError) as error:
            raise Complaint(f"--pid: {pid} is no process whose use can be read here ({error})") from error
        while waiting:
            child = waiting.pop()
            with suppress(OSError):  # it ended meanwhile: its parent has its CPU time
                used.append(_one(child))
                waiting += _children(child)
        return cls(sum(cpu for cpu, _ in used), sum(peak for _, peak in used))


def _children(pid: int) -> list[int]:
    tasks = (_PROC / str(pid) / "task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _one(pid: int) -> tuple[float, int]:
    # The name of a process, in brackets, may have spaces: what comes behind the last bracket has none.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    status = dict(line.split(":", 1) for line in (_PROC / str(pid) / "status").read_text().splitlines())
    return ticks / os.sysconf("SC_CLK_TCK"), int(status.get("VmHWM", "0 kB").split()[0]) * 1024
