"""The clinic's tables: columns, no FHIR. `as_fhir` makes a resource of a row; a trace is kept of rows that were deleted."""

from datetime import UTC
from typing import Any, ClassVar

from django.db import models
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver


class Row(models.Model):
    """What all exported tables have. `QuerySet.update` sets no `updated`: pass it, or the change is in no export."""

    id = models.CharField(primary_key=True, max_length=64)
    updated = models.DateTimeField(auto_now=True, db_index=True)

    type: ClassVar[str]
    owner: ClassVar[str]
    """The column with the id of the patient in whose compartment a row lies."""

    class Meta:
        """No table of its own."""

        abstract = True

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"

    def as_fhir(self) -> dict[str, Any]:
        """The resource, which begins with its type, its id and its meta."""
        updated = self.updated.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {"resourceType": self.type, "id": self.id, "meta": {"lastUpdated": updated}, **self.elements()}

    def elements(self) -> dict[str, Any]:
        """The other elements."""
        raise NotImplementedError


class Patient(Row):
    """A person."""

    type, owner = "Patient", "id"
    name = models.CharField(max_length=200)

    def elements(self) -> dict[str, Any]:
        """The name."""
        return {"name": [{"text": self.name}]}


class Observation(Row):
    """Something that was observed, usually on a patient."""

    type, owner = "Observation", "patient_id"
    patient = models.ForeignKey(Patient, null=True, on_delete=models.CASCADE, db_constraint=False)
    text = models.CharField(max_length=500)

    def elements(self) -> dict[str, Any]:
        """Text and subject."""
        subject = {"subject": {"reference": f"Patient/{self.patient_id}"}} if self.patient_id else {}
        return {"status": "final", "code": {"text": self.text}, **subject}


class Trace(models.Model):
    """A row that was deleted, and whose it was."""

    type = models.CharField(max_length=64)
    resource_id = models.CharField(max_length=64)
    patient = models.CharField(max_length=64, null=True)  # noqa: DJ001 - no patient is not a patient without an id
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        """At most one for each resource."""

        constraints: ClassVar = [models.UniqueConstraint(fields=["type", "resource_id"], name="one_trace")]

    def __str__(self) -> str:
        return f"{self.type}/{self.resource_id}"


@receiver(post_delete)
def leave_a_trace(sender: object, instance: models.Model, **_: object) -> None:
    """In the transaction that deletes. Django sends this signal for `QuerySet.delete` and for cascades too."""
    if isinstance(instance, Row):
        patient = getattr(instance, instance.owner)
        Trace.objects.update_or_create(type=instance.type, resource_id=instance.id, defaults={"patient": patient})


@receiver(post_save)
def lift_the_trace(sender: object, instance: models.Model, **_: object) -> None:
    """A resource that was created again is not deleted."""
    if isinstance(instance, Row):
        Trace.objects.filter(type=instance.type, resource_id=instance.id).delete()


ROWS: dict[str, type[Row]] = {model.type: model for model in (Patient, Observation)}
