"""The part of FHIRPath in which HL7 writes search parameters, parsed into a tree.

Only the generator needs it: what a running server evaluates are the concrete JSON paths that `lowering` makes of
these trees.
"""

import re
from dataclasses import dataclass


class FhirPathError(ValueError):
    """The text is not in the part of FHIRPath that search parameters use."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, a number or a boolean."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class Member:
    """`base.name`; without a base the name is the first of its path (a type, or an element of the context)."""

    base: "Node | None"
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """`base.name(arguments)`; without a base it is called on the context."""

    base: "Node | None"
    name: str
    arguments: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Index:
    """`base[position]`."""

    base: "Node"
    position: int


@dataclass(frozen=True, slots=True)
class Operation:
    """`left operator right`, for `|`, `=`, `!=`, `and`, `or`, `as` and `is` (the last two with a type name)."""

    operator: str
    left: "Node"
    right: "Node"


Node = Literal | Member | Call | Index | Operation

_TOKEN = re.compile(r"\s*(?:(?P<string>'[^']*')|(?P<number>\d+)|(?P<name>%?[A-Za-z_]\w*)|(?P<sign>!=|[.()\[\]|=,]))")

# Loosest first, as FHIRPath's table of precedence has them.
_PRECEDENCE = (frozenset({"or"}), frozenset({"and"}), frozenset({"=", "!="}), frozenset({"|"}), frozenset({"as", "is"}))


def parse(text: str) -> Node:
    """The tree of one expression.

    Raises:
        FhirPathError: If the text is not wholly understood.
    """
    parser = _Parser(_tokens(text))
    node = parser.operation(0)
    if parser.peek():
        raise FhirPathError(f"unexpected {parser.peek()!r} in {text!r}")
    return node


def branches(text: str) -> list[str]:
    """The sides of a union, from left to right, each as its own text; anything else is its own only branch."""
    sides, depth = [""], 0
    for token in _tokens(text, spaces=True):
        depth += {"(": 1, ")": -1}.get(token.strip(), 0)
        if token.strip() == "|" and depth == 0:
            sides.append("")
        else:
            sides[-1] += token
    return [side.strip() for side in sides if side.strip()]


def first_name(node: Node) -> str | None:
    """The name that the leftmost path of a tree begins with: for HL7's expressions, the resource type."""
    match node:
        case Member(base=None, name=name):
            return name
        case Member(base=base) | Call(base=base) | Index(base=base):
            return None if base is None else first_name(base)
        case Operation(left=left):
            return first_name(left)
        case Literal():
            return None


def _tokens(text: str, *, spaces: bool = False) -> list[str]:
    """The tokens of a text; with `spaces`, each with the white space that stood before it."""
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise FhirPathError(f"cannot read {text[position:]!r}")
        found.append(match.group() if spaces else match.group(match.lastgroup or 0))
        position = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def operation(self, level: int) -> Node:
        if level == len(_PRECEDENCE):
            return self._path()
        node = self.operation(level + 1)
        while self.peek() in _PRECEDENCE[level]:
            operator = self._take()
            node = Operation(operator, node, self.operation(level + 1))
        return node

    def _path(self) -> Node:
        node = self._head()
        while self.peek() in {".", "["}:
            if self._take() == "[":
                node = Index(node, int(self._take()))
                self._expect("]")
            else:
                node = self._invocation(node)
        return node

    def _head(self) -> Node:
        ahead = self.peek()
        if ahead == "(":
            self._take()
            node = self.operation(0)
            self._expect(")")
            return node
        if ahead.startswith("'"):
            return Literal(self._take()[1:-1])
        if ahead.isdigit():
            return Literal(int(self._take()))
        if ahead in {"true", "false"}:
            return Literal(self._take() == "true")
        return self._invocation(None)

    def _invocation(self, base: Node | None) -> Node:
        name = self._take()
        if not name.lstrip("%").isidentifier():
            raise FhirPathError(f"expected a name, found {name!r}")
        if self.peek() != "(":
            return Member(base, name)
        self._take()
        arguments: list[Node] = []
        while self.peek() != ")":
            arguments.append(self.operation(0))
            if self.peek() != ")":
                self._expect(",")
        self._take()
        return Call(base, name, tuple(arguments))

    def _take(self) -> str:
        token = self.peek()
        if not token:
            raise FhirPathError("the expression ends too early")
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        found = self._take()
        if found != token:
            raise FhirPathError(f"expected {token!r}, found {found!r}")
