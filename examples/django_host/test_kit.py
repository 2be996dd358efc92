"""The conformance kit for `DjangoStorage`. Run it: `CLINIC_STATE=$(mktemp -d) pytest django_host/test_kit.py`."""

import json
import os
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import transaction

from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, Samples

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_host.settings")
django.setup()

from django_host.models import ROWS, Observation, Patient, Trace  # noqa: E402
from django_host.storage import DjangoStorage  # noqa: E402


class ClinicSamples(Samples):
    """Two types; an observation lies with one patient or with none, and there is nothing outside of compartments."""

    outside_type = None
    types = frozenset({"Observation"})

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """Two patients cannot share an observation here."""
        return None if len(patients) > 1 else super().record(id_, *patients, text=text)

    def outside(self, id_: str) -> str | None:
        """There is nothing else."""
        return None

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str | None:
        """There is the subject alone."""
        return self.record(id_, reference) if path == "subject" else None

    def naming(self, id_: str, patient: str, outside: str) -> str | None:
        """There is nothing to name."""
        return None


class Desk:
    """Saves and deletes rows as the clinic does."""

    async def put(self, *resources: str) -> None:
        """In one transaction."""
        await sync_to_async(self._save)([json.loads(each) for each in resources])

    async def delete(self, type_: str, id_: str) -> None:
        """With what cascades."""
        await ROWS[type_].objects.filter(id=id_).adelete()

    @transaction.atomic
    def _save(self, resources: list[dict[str, Any]]) -> None:
        for content in resources:
            if content["resourceType"] == "Patient":
                Patient(id=content["id"], name=content["name"][0]["text"]).save()
                continue
            type_, _, id_ = content["subject"]["reference"].partition("/")
            patient = id_ if type_ == "Patient" else None
            Observation(id=content["id"], patient_id=patient, text=content["code"]["text"]).save()


@pytest.fixture(scope="module")
def tables() -> None:
    """Django makes them."""
    call_command("migrate", run_syncdb=True, verbosity=0)


class TestDjangoStorage(ResourceStoreSuite):
    """What the adapter implements is checked, the rest is skipped by name."""

    @pytest.fixture
    def store(self, tables: None) -> DjangoStorage:
        """The adapter over empty tables."""
        for model in (Observation, Patient, Trace):
            model.objects.all().delete()
        return DjangoStorage()

    @pytest.fixture
    def writer(self, store: DjangoStorage) -> Desk:
        """The clinic."""
        return Desk()

    @pytest.fixture
    def samples(self) -> Samples:
        """What fits into the columns."""
        return ClinicSamples()
