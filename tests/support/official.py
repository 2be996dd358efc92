"""HL7's definitions as a judge of what we emit: `fhir.resources` for elements, types and cardinalities, and what it leaves out.

What it leaves out is here by hand: FHIR's rules for JSON (nothing is empty, nothing null), required value sets, and the
invariants of the resources that we emit.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from fhir.resources import get_fhir_model_class as r5
from fhir.resources.R4B import get_fhir_model_class as r4b
from pydantic import BaseModel

from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.testing.dialect import ISSUE_TYPES

_CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} - set("\t\n\r")
_REST = "+"
"""Stands in a list of codes that `fhir.resources` does not have whole, such as that of task-status."""

_WITH_RESPONSES = frozenset({"batch-response", "transaction-response", "history"})
_WITH_REQUESTS = frozenset({"batch", "transaction", "history"})


def check(resource: Mapping[str, Any], *versions: FhirVersion) -> None:
    """Judge a resource by the definitions of these releases; R4 is judged by R4B, which differs in none of what we emit.

    Raises:
        AssertionError: it is not valid, and why.
    """
    problems = [*_empty(resource, resource["resourceType"])]
    for version in versions or tuple(FhirVersion):
        model = (r5 if version is FhirVersion.R5 else r4b)(resource["resourceType"])
        try:
            problems += _codes(model.model_validate(dict(resource)), resource["resourceType"])
        except ValueError as error:
            problems.append(f"{version}: {error}")
    problems += _INVARIANTS.get(resource["resourceType"], lambda _: iter(()))(resource)
    assert not problems, problems


@lru_cache(maxsize=10_000)
def check_body(body: bytes) -> None:
    """Judge the body of an answer: whatever we make ourselves, and of a Bundle the Bundle, not the data in it."""
    resource = json.loads(body)
    match resource["resourceType"]:
        case "OperationOutcome" | "OperationDefinition" | "CapabilityStatement" | "AuditEvent":
            check(resource)
        case "Bundle":
            for entry in resource.get("entry", ()):
                entry.pop("resource", None)
            check(resource)


def _empty(value: Any, path: str) -> Iterator[str]:
    match value:
        case None:
            yield f"{path} is null"
        case dict() | list() | "" if not value:
            yield f"{path} is empty"
        case str() if _CONTROLS & set(value):
            yield f"{path} has control characters"
        case dict():
            for name, member in value.items():
                yield from _empty(member, f"{path}.{name}")
        case list():
            for place, member in enumerate(value):
                yield from _empty(member, f"{path}[{place}]")


def _codes(model: BaseModel, path: str) -> Iterator[str]:
    """Codes that are in no required value set."""
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        allowed = extra.get("enum_values") if isinstance(extra, dict) else None
        value = getattr(model, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                yield from _codes(each, f"{path}.{name}")
            elif each is not None and isinstance(allowed, list) and str(each) not in allowed and _REST not in allowed:
                yield f"{path}.{name} is {each}, which is none of {allowed}"


def _outcome(resource: Mapping[str, Any]) -> Iterator[str]:
    for issue in resource["issue"]:
        if issue["code"] not in ISSUE_TYPES:
            yield f"issue.code is {issue['code']}"


def _bundle(resource: Mapping[str, Any]) -> Iterator[str]:
    type_ = resource["type"]
    urls = [entry["fullUrl"] for entry in resource.get("entry", ()) if "fullUrl" in entry]
    if len(urls) != len(set(urls)):
        yield "bdl-7: two entries have one fullUrl"
    for entry in resource.get("entry", ()):
        if ("request" in entry) != (type_ in _WITH_REQUESTS):
            yield f"bdl-3: request in a {type_}"
        if ("response" in entry) != (type_ in _WITH_RESPONSES):
            yield f"bdl-4: response in a {type_}"
        if any("/_history/" in url for url in urls):
            yield "bdl-8: fullUrl names a version"
        if "outcome" in entry.get("response", {}):
            yield from _outcome(entry["response"]["outcome"])


def _statement(resource: Mapping[str, Any]) -> Iterator[str]:
    if not any(name in resource for name in ("rest", "messaging", "document")):
        yield "cpb-1: nothing is described"
    if not any(name in resource for name in ("description", "software", "implementation")):
        yield "cpb-2: it does not say of what"
    for rest in resource.get("rest", ()):
        for entry in rest.get("resource", ()):
            names = [parameter["name"] for parameter in entry.get("searchParam", ())]
            if len(names) != len(set(names)):
                yield f"cpb-12: {entry['type']} has a search parameter twice"
        types = [entry["type"] for entry in rest.get("resource", ())]
        if len(types) != len(set(types)):
            yield "cpb-9: a type stands twice"
        for extension in rest.get("security", {}).get("extension", ()):
            parts = [part["url"] for part in extension.get("extension", ())]
            if extension["url"].endswith("/oauth-uris") and parts.count("authorize") != 1:
                yield "oauth-uris: authorize is 1..1"


def _definition(resource: Mapping[str, Any]) -> Iterator[str]:
    if not resource["name"].isalnum() or not resource["name"][0].isupper():
        yield "opd-0: the name is not one for machines"
    for parameter in resource.get("parameter", ()):
        if "targetProfile" in parameter and parameter["type"] not in {"Reference", "canonical"}:
            yield f"opd-3: {parameter['name']} has a target profile"


_INVARIANTS: dict[str, Any] = {
    "OperationOutcome": _outcome,
    "Bundle": _bundle,
    "CapabilityStatement": _statement,
    "OperationDefinition": _definition,
}
