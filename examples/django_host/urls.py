"""The clinic's own routes: a login that gives tokens, and rows as FHIR."""

import json
from typing import Any

from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from django_host.access import LIFETIME, token_of
from django_host.models import Patient


@csrf_exempt
def token(request: HttpRequest) -> HttpResponse:
    """A bearer token for name and password of a Django user."""
    user = authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    if user is None:
        return HttpResponse(status=401)
    return JsonResponse({"access_token": token_of(user), "token_type": "bearer", "expires_in": LIFETIME.seconds})


@csrf_exempt
def patient(request: HttpRequest, id_: str) -> HttpResponse:
    """Read, write or delete a patient. Who may do so is left out here; it is Django's business."""
    if request.method == "DELETE":
        Patient.objects.filter(id=id_).delete()
        return HttpResponse(status=204)
    if request.method == "PUT":
        Patient(id=id_, name=json.loads(request.body)["name"]).save()
        return HttpResponse(status=200)
    found = Patient.objects.filter(id=id_).first()
    return HttpResponse(status=404) if found is None else JsonResponse(found.as_fhir())


def metadata(request: HttpRequest) -> JsonResponse:
    """The CapabilityStatement of the clinic; `BulkDataMiddleware` adds the exports to it."""
    content: dict[str, Any] = {"resourceType": "CapabilityStatement", "status": "active", "kind": "instance"}
    return JsonResponse({**content, "fhirVersion": "4.0.1", "rest": [{"mode": "server"}]})


urlpatterns = [
    path("token", token),
    path("fhir/metadata", metadata),
    path("fhir/Patient/<str:id_>", patient),
]
