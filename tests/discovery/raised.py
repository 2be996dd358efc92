"""Which reasons the source can raise from a function on: a walk over the package's syntax trees along typed calls.

The package is annotated throughout, so annotations, assignments and constructor calls tell the class of nearly every receiver; a
protocol stands for each class that has all of its methods. A call whose receiver stays unknown is not followed.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import fhir_bulk_middleware

PACKAGE = Path(fhir_bulk_middleware.__file__).parent
OUTSIDE = {"demo", "cli", "testing", "stores", "smart", "workers", "jose"}
"""Rooms that no endpoint names: hosts bring them, or they run elsewhere."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Types = frozenset[str]
NONE: Types = frozenset()


@dataclass(frozen=True)
class Place:
    """A function of a module, or a method of a class."""

    module: str
    owner: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.owner}.{self.name}" if self.owner else f"{self.module}.{self.name}"


@dataclass
class Class:
    module: str
    bases: list[str]
    methods: dict[str, Function]
    attributes: dict[str, Types] = field(default_factory=dict)


@dataclass
class Module:
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)


def named(annotation: ast.expr | None) -> Types:
    """The names in an annotation: `Sequence[Job | None]` is a Sequence, a Job or None."""
    found: set[str] = set()
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= named(ast.parse(node.value, mode="eval").body)
    return frozenset(found)


def arguments(function: Function) -> dict[str, Types]:
    return {each.arg: named(each.annotation) for each in (*function.args.args, *function.args.kwonlyargs)}


class Source:
    """The package's modules, classes and functions."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.classes: dict[str, Class] = {}
        self.handed: defaultdict[str, set[Place]] = defaultdict(set)
        """Functions that are given to a dataclass, by the name of the field: how a value with a callable field calls them."""
        for path in sorted(PACKAGE.rglob("*.py")):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            if not OUTSIDE & {*parts}:
                self.modules[".".join(parts).removesuffix(".__init__")] = Module(ast.parse(path.read_text("utf-8")))
        for name, module in self.modules.items():
            self._read(name, module)
        for name, each in list(self.classes.items()) * 2:  # twice: attributes are made of attributes of other classes
            self._read_attributes(name, each)
        for name, module in self.modules.items():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.classes:
                    fields = zip(self.classes[node.func.id].attributes, node.args, strict=False)
                    for given, value in (*fields, *((each.arg or "", each.value) for each in node.keywords)):
                        if isinstance(value, ast.Name) and (place := self.function(name, value.id)):
                            self.handed[given].add(place)

    def _read(self, name: str, module: Module) -> None:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                methods = {each.name: each for each in node.body if isinstance(each, Function)}
                self.classes[node.name] = Class(name, [base.id for base in node.bases if isinstance(base, ast.Name)], methods)
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                        self.classes[node.name].attributes[each.target.id] = named(each.annotation)
            elif isinstance(node, ast.ImportFrom) and node.module in self.modules:
                for alias in node.names:
                    if (full := f"{node.module}.{alias.name}") in self.modules:
                        module.modules[alias.asname or alias.name] = full
                    else:
                        module.imported[alias.asname or alias.name] = (node.module, alias.name)
        module.functions = {each.name: each for each in module.tree.body if isinstance(each, Function)}

    def _read_attributes(self, name: str, class_: Class) -> None:
        """What methods assign to `self.x`."""
        for method in class_.methods:
            walk = Walk(self, Place(class_.module, name, method))
            for node in ast.walk(walk.body):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    attribute = node.targets[0].attr
                    class_.attributes[attribute] = class_.attributes.get(attribute, NONE) | walk.types(node.value)

    def function(self, module: str, name: str) -> Place | None:
        """The function that a name in a module stands for."""
        source, original = self.modules[module].imported.get(name, (module, name))
        return Place(source, None, original) if original in self.modules[source].functions else None

    def node(self, place: Place) -> Function:
        return self.classes[place.owner].methods[place.name] if place.owner else self.modules[place.module].functions[place.name]

    def methods(self, class_: str, name: str) -> Iterator[Place]:
        """What a call of a method may run: of the class or the first base that has it, of subclasses, of implementations."""
        for each in self.implementations(class_):
            lineage = [each]
            while lineage:
                current = lineage.pop(0)
                if current in self.classes and name in self.classes[current].methods:
                    yield Place(self.classes[current].module, current, name)
                    break
                lineage += self.classes[current].bases if current in self.classes else []

    def implementations(self, class_: str) -> list[str]:
        known = self.classes[class_]
        if "Protocol" not in known.bases:
            return [class_, *(name for name, each in self.classes.items() if class_ in each.bases)]
        return [name for name, each in self.classes.items() if known.methods and known.methods.keys() <= each.methods.keys()]


class Walk:
    """One function: what it raises, and what it calls."""

    def __init__(self, source: Source, place: Place) -> None:
        self.source, self.place, self.module = source, place, source.modules[place.module]
        self.body = source.node(place)
        self.locals = arguments(self.body)
        for node in (*ast.walk(self.body),) * 2:  # twice: a name may be used in a loop above its assignment
            self._assign(node)

    def _assign(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=[target], value=value) | ast.NamedExpr(target=target, value=value):
                pass
            case ast.withitem(optional_vars=ast.Name() as target, context_expr=value):
                pass
            case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
                pass
            case ast.comprehension(target=target, iter=value):
                pass
            case _:
                return
        for name in (each.id for each in ast.walk(target) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)):
            self.locals[name] = self.locals.get(name, NONE) | self.types(value)

    def types(self, node: ast.expr) -> Types:  # noqa: PLR0911 - a case per form
        """The classes that an expression's value may be of."""
        classes = self.source.classes
        match node:
            case ast.Await(value=value) | ast.Subscript(value=value):
                return self.types(value)
            case ast.Name(id="self") if self.place.owner:
                return frozenset({self.place.owner})
            case ast.Name(id=name):
                return self.locals.get(name, frozenset({name}) if name in classes else NONE)
            case ast.Attribute(value=value, attr=name):
                return NONE.union(*(self._attribute(each, name) for each in self.types(value) if each in classes))
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                return NONE.union(*(self._returned(each, name) for each in self.types(value) if each in classes))
            case ast.Call(func=ast.Name(id=name)):
                place = self.source.function(self.place.module, name)
                return named(self.source.node(place).returns) if place else frozenset({name} & classes.keys())
            case ast.IfExp(body=one, orelse=other):
                return self.types(one) | self.types(other)
            case ast.BoolOp(values=values):
                return NONE.union(*map(self.types, values))
            case ast.DictComp(value=value):
                return self.types(value)
        return NONE

    def _attribute(self, class_: str, name: str) -> Types:
        known = self.source.classes[class_]
        returned = named(known.methods[name].returns) if name in known.methods else NONE
        return known.attributes.get(name, NONE) | returned

    def _returned(self, class_: str, name: str) -> Types:
        methods = self.source.classes[class_].methods
        returned = named(methods[name].returns) if name in methods else NONE
        return frozenset({class_}) if "Self" in returned else returned

    def reasons(self) -> set[str]:
        """Each `Reason.X` that is named, but for those that something is compared with."""
        compared = {
            id(inner) for node in ast.walk(self.body) if isinstance(node, ast.Compare | ast.pattern) for inner in ast.walk(node)
        }
        return {
            node.attr
            for node in ast.walk(self.body)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "Reason"
            and id(node) not in compared
        }

    def calls(self) -> Iterator[Place]:
        """Each function and method that is named: called here, or handed on to be called."""
        classes = self.source.classes
        for node in ast.walk(self.body):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in self.module.modules:
                    if place := self.source.function(self.module.modules[name], attribute):
                        yield place
                case ast.Attribute(value=value, attr=attribute):
                    for each in self.types(value) & classes.keys():
                        yield from self.source.methods(each, attribute)
                        if attribute in classes[each].attributes:
                            yield from self.source.handed[attribute]
                case ast.Name(id=name) if name in classes:
                    yield from (place for made in ("__init__", "__post_init__") for place in self.source.methods(name, made))
                case ast.Name(id=name):
                    if place := self.source.function(self.place.module, name):
                        yield place


@cache
def source() -> Source:
    return Source()


@cache
def walked(place: Place) -> tuple[frozenset[str], frozenset[Place]]:
    walk = Walk(source(), place)
    return frozenset(walk.reasons()), frozenset(walk.calls())


def raised(starts: Iterable[Place]) -> dict[str, Place]:
    """The reasons that the functions can raise, or anything that they call, each with one function that names it."""
    found: dict[str, Place] = {}
    todo = list(starts)
    seen = {*todo}
    while todo:
        place = todo.pop(0)
        reasons, calls = walked(place)
        found = {**dict.fromkeys(reasons, place), **found}
        todo += calls - seen
        seen |= calls
    return found
