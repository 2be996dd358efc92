"""Django's ASGI application with bulk export around it. Run it: `uvicorn django_host.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_host.settings")
django = get_asgi_application()  # before the models are imported

from django.conf import settings  # noqa: E402

from django_host.access import DjangoTokens  # noqa: E402
from django_host.storage import DjangoStorage  # noqa: E402
from fhir_bulk_middleware import BulkData, BulkDataMiddleware, FileOutputStore, SQLiteJobStore  # noqa: E402

bulk = BulkData(
    resources=DjangoStorage(),
    verifier=DjangoTokens(),
    jobs=SQLiteJobStore(settings.STATE / "jobs.db"),
    outputs=FileOutputStore(settings.STATE / "exports"),
)
application = BulkDataMiddleware(django, bulk, base="/fhir")
