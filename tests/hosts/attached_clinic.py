"""One of the small hosts as a server serves it: `HOST` names it, `WAY` is `bare`, `install` or `around`.

With us, the host serves FHIR where it did before, with exports and its own deletes; at `/clinic`, a second mount answers deletes.
"""

import importlib
import os
from typing import Any

from clinic_parts import FOLDER


def _attached(app: Any, base: str, way: str) -> Any:
    from fhir_bulk_middleware import (
        AIDBOX,
        BulkData,
        BulkDataMiddleware,
        FileOutputStore,
        JoseTokenVerifier,
        Settings,
        SQLiteJobStore,
        SQLiteResourceStore,
    )

    def bulk(name: str, **more: Any) -> BulkData:
        return BulkData(
            resources=SQLiteResourceStore(FOLDER / "store.db"),
            verifier=JoseTokenVerifier(
                jwks=FOLDER / "keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir"
            ),
            jobs=SQLiteJobStore(FOLDER / f"{name}.db"),
            outputs=FileOutputStore(FOLDER / name),
            **more,
        )

    exports = bulk("exports", settings=Settings(worker_processes=1))
    deletes = bulk("deletes", settings=Settings(worker_processes=0), deletes=AIDBOX)
    if way == "install":
        deletes.install(app, "/clinic")
        exports.install(app, base)
        return app
    return BulkDataMiddleware(BulkDataMiddleware(app, deletes, "/clinic"), exports, base)


def _application() -> Any:
    host = importlib.import_module(f"clinic_{os.environ['HOST']}")
    app = host.app()
    way = os.environ["WAY"]
    return app if way == "bare" else _attached(app, host.BASE or "/", way)


application = _application()
