"""A process that writes line after line, and makes many checkpoints: `python writing.py PATH LINES`."""

import sqlite3
import sys
from pathlib import Path

from fhir_bulk_middleware.stores.sqlite import checkpoints
from fhir_bulk_middleware.stores.sqlite.database import Database

SCHEMA = "CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT)"


def insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO line (text) VALUES (hex(randomblob(500)))")


if __name__ == "__main__":
    checkpoints._COMMITS = 5
    database = Database(Path(sys.argv[1]), [SCHEMA], synchronous="NORMAL")
    for _ in range(int(sys.argv[2])):
        database.write_here(insert)
    database.close()
