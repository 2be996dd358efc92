"""A process that locks a file and is stopped: what a debugger, a container's freezer or a bad disk makes of a writer."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import fcntl, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def locked_by_a_stopped_process(path: Path) -> Iterator[None]:
    """The file is locked while the context is open."""
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(path)])
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended instead of stopping"
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
