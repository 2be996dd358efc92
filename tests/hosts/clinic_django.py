"""A host on Django: its middleware, sync and async views, static files, and no lifespan."""

import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import django
from clinic_parts import CHUNKS, digest, static_folder
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.middleware.gzip import GZipMiddleware
from django.urls import path, re_path
from django.views.decorators.http import require_http_methods
from django.views.static import serve

BASE = "/fhir"


def own_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Marks each answer, and answers some requests itself."""

    def middleware(request: HttpRequest) -> Any:
        if request.headers.get("X-Blocked") == "yes":
            return HttpResponse("blocked by the clinic", status=403)
        answer = get_response(request)
        answer.headers["X-Clinic"] = "open"
        return answer

    return middleware


def metadata(_: HttpRequest) -> HttpResponse:
    return JsonResponse({"resourceType": "CapabilityStatement", "status": "active"})


@require_http_methods(["GET", "POST", "DELETE"])
def patients(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.method} patients {sorted(request.GET.lists())}", content_type="text/plain")


@require_http_methods(["GET", "PUT", "DELETE"])
async def patient(request: HttpRequest, id: str) -> HttpResponse:  # noqa: A002 - the host's own name
    return HttpResponse(f"{request.method} {id} {request.get_full_path()}", content_type="text/plain")


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(digest(request.body), status=201, headers={"Location": request.build_absolute_uri()})


async def _chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


async def _broken() -> AsyncIterator[bytes]:
    yield CHUNKS[0]
    raise RuntimeError("the clinic's stream breaks")


async def stream(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_chunks(), content_type="text/plain")


async def broken_stream(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_broken(), content_type="text/plain")


def fault(_: HttpRequest) -> HttpResponse:
    raise RuntimeError("a fault of the clinic")


def cookies(request: HttpRequest) -> HttpResponse:
    answer = HttpResponse(str(sorted(request.COOKIES.items())))
    answer.set_cookie("first", "1", httponly=True, samesite="Strict")
    answer.set_cookie("second", "2", path="/fhir")
    return answer


def named(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.build_absolute_uri()} {request.META.get('SCRIPT_NAME')!r}")


def moved(_: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/fhir/Patient/1")


@require_http_methods(["POST"])
def nothing(_: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


urlpatterns = [
    path("fhir/metadata", metadata),
    path("fhir/Patient", patients),
    path("fhir/Patient/<str:id>", patient),
    path("fhir/Binary/<str:id>", patient),
    path("fhir/$reindex", patients),
    path("notes/<path:id>", patient),
    path("echo", echo),
    path("stream", stream),
    path("broken-stream", broken_stream),
    path("fault", fault),
    path("cookies", cookies),
    path("named/", named),
    path("moved", moved),
    path("nothing", nothing),
    re_path(r"^static/(?P<path>.*)$", serve, {"document_root": static_folder()}),
]


def app() -> Any:
    """The host."""
    GZipMiddleware.max_random_bytes = 0  # else two answers to one request differ
    settings.configure(
        ROOT_URLCONF=sys.modules[__name__],
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="x",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.gzip.GZipMiddleware",
            "django.middleware.common.CommonMiddleware",
            f"{__name__}.own_middleware",
        ],
        APPEND_SLASH=True,
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    )
    django.setup()
    return get_asgi_application()
