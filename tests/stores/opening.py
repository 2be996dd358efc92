"""Opens fresh files at the same moments as its brothers: `python opening.py FOLDER FILES BEGIN`; prints what failed."""

import sys
import time
from pathlib import Path

from writing import SCHEMA, insert

from fhir_bulk_middleware.stores.sqlite.database import Database

APART = 0.02


def main() -> None:
    folder, files, begin = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    for number in range(files):
        database = Database(folder / f"{number}.db", [SCHEMA], synchronous="NORMAL")
        while time.time() < begin + number * APART:
            pass
        try:
            database.write_here(insert)
        except Exception as error:  # noqa: BLE001 - told to who started this
            sys.stdout.write(f"{error}\n")
        database.close()


if __name__ == "__main__":
    main()
