"""Typed trees of the FHIRPath in HL7's search parameters, made from what `fhirpathpy` parses."""

import re
from dataclasses import dataclass
from typing import Any

from fhirpathpy.parser import parse as parse_fhirpath


class FhirPathError(ValueError):
    """The text is not FHIRPath, or it uses a construct that no search parameter of HL7 uses."""


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

_OPERATORS = frozenset({"|", "=", "!=", "and", "or"})
_PIECE = re.compile(r"'[^']*'|[()|]|[^'()|]+|'")


def parse(text: str) -> Node:
    """The tree of one expression.

    Raises:
        FhirPathError: If the text is not understood completely.
    """
    whole = f"({text})"
    try:
        tree = parse_fhirpath(whole)["children"][0]  # type: ignore[no-untyped-call]  # it ships no types
    except Exception as error:  # the parser raises exceptions of several unrelated classes
        raise FhirPathError(f"cannot read {text!r}") from error
    # The parser stops silently at a token that it does not expect; the text of the root shows how far it came.
    if _unspaced(tree["text"]) != _unspaced(whole):
        raise FhirPathError(f"cannot read all of {text!r}")
    return _node(tree)


def branches(text: str) -> list[str]:
    """The operands of a top-level union, from left to right, as text; an expression without one is its own only branch."""
    found, depth = [""], 0
    for piece in _PIECE.findall(text):
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += piece
    return [branch.strip() for branch in found if branch.strip()]


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


def _unspaced(text: str) -> str:
    return "".join(text.split())


def _node(tree: dict[str, Any]) -> Node:  # noqa: C901, PLR0911 - a case per form
    """Convert one node of the parser. Its `terminalNodeText` must be complete: the parser records its own repairs there."""
    match (tree["type"], *tree["terminalNodeText"]), tree.get("children", []):
        case ("TermExpression" | "InvocationTerm" | "LiteralTerm",), [inner]:
            return _node(inner)
        case ("ParenthesizedTerm", "(", ")"), [inner]:
            return _node(inner)
        case ("InvocationExpression", "."), [base, invocation]:
            return _invocation(_node(base), invocation)
        case ("MemberInvocation" | "FunctionInvocation",), _:
            return _invocation(None, tree)
        case ("ExternalConstantTerm",), [{"type": "ExternalConstant", "children": [{"text": name}]}]:
            return Member(None, f"%{name}")
        case ("IndexerExpression", "[", "]"), [base, position]:
            return Index(_node(base), _position(_node(position)))
        case ("TypeExpression", operator), [left, {"type": "TypeSpecifier", "text": name}]:
            return Operation(operator, _node(left), Member(None, name))
        case (_, operator), [left, right] if operator in _OPERATORS:
            return Operation(operator, _node(left), _node(right))
        case ("StringLiteral", text), []:
            return Literal(text[1:-1])
        case ("NumberLiteral", text), [] if text.isdigit():
            return Literal(int(text))
        case ("BooleanLiteral", text), []:
            return Literal(text == "true")
    raise FhirPathError(f"{tree['type']} is not used by search parameters: {tree.get('text', tree['terminalNodeText'])!r}")


def _invocation(base: Node | None, tree: dict[str, Any]) -> Node:
    match tree:
        case {"type": "MemberInvocation", "terminalNodeText": [], "children": [{"type": "Identifier", "text": name}]}:
            return Member(base, name)
        case {
            "type": "FunctionInvocation",
            "children": [{"terminalNodeText": ["(", ")"], "children": [{"type": "Identifier", "text": name}, *lists]}],
        }:
            return Call(base, name, tuple(_node(argument) for each in lists for argument in each["children"]))
    raise FhirPathError(f"expected a name, found {tree}")


def _position(node: Node) -> int:
    if isinstance(node, Literal) and isinstance(node.value, int):
        return node.value
    raise FhirPathError("a position must be a number")
