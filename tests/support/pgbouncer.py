"""A real PgBouncer before the PostgreSQL of the tests: the program `pgbouncer`, or the one that TEST_PGBOUNCER names."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

__all__ = ["bouncer"]

_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {connections}
max_client_conn = 500
admin_users = postgres
"""


@contextmanager
def bouncer(dsn: str, *, mode: str = "transaction", connections: int = 3) -> Generator[str]:
    """The DSN through a PgBouncer, while the context is open.

    Args:
        dsn: of the server, whose host is a folder.
        mode: its `pool_mode`.
        connections: the number of server connections, which all clients share.
    """
    program = os.environ.get("TEST_PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer here: install it, or name it in TEST_PGBOUNCER")
    said = conninfo_to_dict(dsn)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "pgbouncer.ini")
        host, port, user = (
            str(said.get(name) or default) for name, default in (("host", ""), ("port", 5432), ("user", "postgres"))
        )
        file.write_text(_CONFIGURATION.format(host=host, port=port, user=user, own=own, mode=mode, connections=connections))
        owner = Path(host).owner() if os.getuid() == 0 else None  # it refuses to run as root, and opens the folder of the server
        with subprocess.Popen([program, str(file)], stderr=subprocess.DEVNULL, user=owner) as process:
            try:
                through = make_conninfo(dsn, host="127.0.0.1", port=own, sslmode="disable", gssencmode="disable")
                _wait_for(through, process)
                yield through
            finally:
                process.terminate()


def _wait_for(dsn: str, process: "subprocess.Popen[bytes]") -> None:
    while True:
        assert process.poll() is None, "pgbouncer ended"
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            continue
        return
