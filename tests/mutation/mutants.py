"""Mutants of a module: each is its source with one small fault.

Own code, because the faults that mattered here are not among those of cosmic-ray 8.7, the tool that was tried: a call that is left out, a result that is always the same, `max` for `min`. Others are the usual ones:
another comparison, arithmetic with the other sign, `and` for `or`, a condition turned round, a number that is one more.

Annotations, docstrings, messages and names in `__slots__` are left alone: no test should notice them.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
}
OTHER_FUNCTION = {"max": "min", "min": "max", "any": "all", "all": "any"}
SILENT = {"debug", "info", "warning", "exception", "warn", "note"}  # calls that only tell somebody


Change = Callable[[ast.AST], ast.AST]
Fault = tuple[str, Change]


@dataclass(frozen=True, slots=True)
class Mutant:
    line: int
    what: str  # the kind of fault, and the function it is in
    module: str  # source of the module
    node: ast.AST  # of the module's tree
    change: Change

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"

    def lines(self) -> range:
        """Return the lines of the node that is changed; of a condition the first statement's is among them."""
        return range(self.line, getattr(self.node, "end_lineno", self.line) + 1)

    def source(self) -> str:
        """Return the source of the module with the fault."""
        return ast.unparse(self._tree())

    def code(self, path: str) -> CodeType:
        """Compile the module with the fault; lines are those of the module without it."""
        return compile(self._tree(), path, "exec", dont_inherit=True)

    def _tree(self) -> ast.Module:
        tree: ast.Module = _Replace(self.node, self.change).visit(ast.parse(self.module))
        return ast.fix_missing_locations(tree)


def faults_of(node: ast.AST) -> Iterator[Fault]:
    """Faults that may be put in the place of a node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = COMPARISONS[type(op)]
            yield f"{type(op).__name__} is {other.__name__}", lambda n: _with(n, ops=[other()])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC and not _is_text(node):
            sign = ARITHMETIC[type(op)]
            yield f"{type(op).__name__} is {sign.__name__}", lambda n: _with(n, op=sign())
        case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            sign = ARITHMETIC[type(op)]
            yield f"{type(op).__name__}= is {sign.__name__}=", lambda n: _with(n, op=sign())
        case ast.BoolOp(op=ast.And()):
            yield "and is or", lambda n: _with(n, op=ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield "or is and", lambda n: _with(n, op=ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not is left out", lambda n: operand
        case ast.Constant(value=bool(value)):
            yield f"{value} is {not value}", lambda n: _with(n, value=not value)
        case ast.Constant(value=int(value)):
            yield f"{value} is {value + 1}", lambda n: _with(n, value=value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in OTHER_FUNCTION:
            other_name = OTHER_FUNCTION[name]
            yield (
                f"{name} is {other_name}",
                lambda n: _with(n, func=ast.Name(other_name, ast.Load())),
            )
        case ast.Expr(value=ast.Call(func=function)) if _name(function) not in SILENT:
            yield f"{_name(function)}() is left out", lambda n: ast.Pass()
        case ast.If() | ast.While():
            yield (
                "the condition is turned round",
                lambda n: _with(n, test=ast.UnaryOp(ast.Not(), node.test)),
            )
        case ast.Continue():
            yield "continue is break", lambda n: ast.Break()
        case ast.Break():
            yield "break is continue", lambda n: ast.Continue()
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield "it returns None", lambda n: _with(n, value=ast.Constant(None))
            yield "it returns True", lambda n: _with(n, value=ast.Constant(value=True))


def _with(node: ast.AST, **changes: object) -> ast.AST:
    made = copy.copy(node)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in (node.left, node.right)
    )


class _Places(ast.NodeVisitor):
    """Nodes of functions in which a fault may be, with the function's name."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.AST, str]] = []
        self._inside: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._inside.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._inside.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._inside.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A message."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """A message too."""

    def generic_visit(self, node: ast.AST) -> None:
        if self._inside:
            self.found.append((node, ".".join(self._inside)))
        super().generic_visit(node)


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    places = _Places()
    places.visit(tree)
    made = [
        Mutant(getattr(node, "lineno", 0), f"{what}, in {inside}", source, node, change)
        for node, inside in places.found
        for what, change in faults_of(node)
    ]
    return sorted(made, key=lambda mutant: mutant.line)


class _Replace(ast.NodeTransformer):
    """Put a fault in the place of the node that is where `node` is."""

    def __init__(self, node: ast.AST, change: Change) -> None:
        self._place = _place(node)
        self._change = change
        self._done = False

    def visit(self, node: ast.AST) -> ast.AST:
        if not self._done and _place(node) == self._place:
            self._done = True
            return ast.copy_location(self._change(node), node)
        return super().visit(node)


def _place(node: ast.AST) -> tuple[object, ...]:
    return (
        type(node),
        getattr(node, "lineno", None),
        getattr(node, "col_offset", None),
        getattr(node, "end_lineno", None),
        getattr(node, "end_col_offset", None),
    )
