"""Our concrete paths against a FHIRPath engine that evaluates HL7's own expressions, on made-up resources.

Each value of such a resource carries its FHIR type, so that what the engine finds beyond ours can be told to be of a
type that the parameter cannot be matched on. `resolve()` is rewritten to a test of the reference's text: the engine
cannot resolve.
"""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.models import models
from generate.parameters import APPLICABLE

from fhir_bulk_middleware.fhir.definitions import Definitions, SearchParameter, definitions
from fhir_bulk_middleware.fhir.expression import compile_path
from fhir_bulk_middleware.fhir.version import FhirVersion

MODELS = {FhirVersion.R4: "r4", FhirVersion.R4B: "r4", FhirVersion.R5: "r5"}
ROUNDS = 1

_RESOLVE = re.compile(r"\.where\(resolve\(\) is (\w+)\)")
_AS = re.compile(r"\(([\w.]+) as (\w+)\)")  # `as` is for one value only; HL7 means each
_STEP = re.compile(r"(?P<key>\w+)(?:\.where\((?:resolve\(\) is (?P<target>\w+)|(?P<name>\w+)='(?P<text>[^']*)')\))?(?:\.|$)")


class Maker:
    """Makes resources of one type that have values at many of the paths its parameters lead to."""

    def __init__(self, known: Definitions, type_: str, seed: int) -> None:
        self._known, self._type = known, type_
        self._random = random.Random(f"{type_} {seed}")  # noqa: S311 - a repeatable choice, no secret
        self._count = 0
        self._chosen: dict[str, str] = {}
        elements = known.elements(type_).values()
        self._choices = {key for element in elements if element.choice for key in element.keys}

    def resource(self) -> dict[str, Any]:
        made: dict[str, Any] = {"resourceType": self._type}
        paths = list(self._paths())
        self._random.shuffle(paths)
        for path, type_ in paths:
            self._put(made, path, type_)
        return made

    def _paths(self) -> Iterator[tuple[str, str]]:
        for element in self._known.elements(self._type).values():
            if element.name not in {"contained", "extension", "modifierExtension"}:
                yield from zip(element.keys, element.types, strict=False)
        for parameter in self._known.parameters(self._type).values():
            for path in parameter.paths:
                yield path.path, path.type
            for root in parameter.roots:
                for path in (path for component in root.components for path in component.paths):
                    yield f"{root.path}.{path.path}".strip("."), path.type

    def _put(self, node: dict[str, Any], path: str, type_: str) -> None:
        """Put a value at a path, unless the path is another choice than one made before; now and then by chance not."""
        steps = list(_STEP.finditer(path))
        bare = ".".join(step["key"] for step in steps)
        suffix = type_[0].upper() + type_[1:]
        other_choice = bare.endswith(suffix) and self._chosen.setdefault(bare.removesuffix(suffix), suffix) != suffix
        if other_choice or not steps or self._tossed(0.2):
            return
        for step in steps[:-1]:
            node = self._inner(node, step)
        node[steps[-1]["key"]] = [self._value(steps[-1], type_) for _ in range(self._random.randint(1, 2))]

    def _inner(self, node: dict[str, Any], step: re.Match[str]) -> dict[str, Any]:
        if step["key"] in self._choices and step["key"] not in node:
            return {}
        inner = self._random.choice(node.setdefault(step["key"], [{"id": self._tag("Inline")}]))
        if not isinstance(inner, dict):
            return {}
        if step["name"]:
            inner[step["name"]] = step["text"] if self._tossed(0.5) else "other"
        return inner

    def _value(self, step: re.Match[str], type_: str) -> Any:
        if type_[0].islower():
            return self._tag(type_)
        value = {"id": self._tag(type_)}
        if type_ == "Reference":
            others = ["Patient", "Practitioner", "Group", "Device"]
            target = step["target"] if step["target"] and self._tossed(0.5) else self._random.choice(others)
            value["reference"] = f"{target}/1"
        if step["name"]:
            value[step["name"]] = step["text"] if self._tossed(0.5) else "other"
        return value

    def _tossed(self, chance: float) -> bool:
        return self._random.random() < chance

    def _tag(self, type_: str) -> str:
        self._count += 1
        return f"{type_}#{self._count}"


def found_by_us(parameter: SearchParameter, resource: dict[str, Any]) -> set[str]:
    paths = [root.path for root in parameter.roots] or [path.path for path in parameter.paths]
    values = [value for path in paths for value in compile_path(path)(resource)]
    return {json.dumps(value, sort_keys=True) for value in (values[:1] if parameter.first else values)}


def found_by_engine(parameter: SearchParameter, resource: dict[str, Any], version: FhirVersion) -> set[str]:
    expression = _RESOLVE.sub(r".where(reference.startsWith('\1/'))", parameter.expression or "")
    expression = _AS.sub(r"\1.ofType(\2)", expression).replace(".as(", ".ofType(")
    expression = expression.replace("Resource.", f"{resource['resourceType']}.")
    values = fhirpathpy.evaluate(resource, expression, {}, models[MODELS[version]])
    return {json.dumps(value, sort_keys=True) for value in values}


def type_of(text: str) -> str:
    value = json.loads(text)
    tag = value["id"] if isinstance(value, dict) else str(value)
    return str(tag).partition("#")[0]


@pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
def test_walks_find_what_the_expression_finds(version: FhirVersion) -> None:
    known = definitions(version)
    compared = nonempty = 0
    model_of = FhirVersion.R4 if version is FhirVersion.R4B else version  # the engine has no model of R4B
    for type_ in sorted(known.resource_types & definitions(model_of).resource_types):
        for seed in range(ROUNDS):
            resource = Maker(known, type_, seed).resource()
            for parameter in known.parameters(type_).values():
                if parameter.unsupported or parameter.holds:
                    continue
                ours, theirs = found_by_us(parameter, resource), found_by_engine(parameter, resource, version)
                extra = {text for text in theirs - ours if type_of(text) in APPLICABLE.get(parameter.type, ())}
                assert not ours - theirs, (type_, parameter, resource)
                assert not extra, (type_, parameter, resource)
                compared += 1
                nonempty += bool(ours)
    assert compared > 1500
    assert nonempty > compared / 2
