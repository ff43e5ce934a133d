"""Mutants made by a machine: each comparison, condition, operator, number and so on of a file changed in turn.

Not every change that can be thought of, but those of which the others say nothing new: a comparison becomes its two
neighbours and its opposite, an operator its counterpart, a condition loses either half. What a mutant is called is
independent of the lines above it: file, function, the expression, and what it becomes.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Lt: ("<", ("<=", "!=", ">=")),
    ast.LtE: ("<=", ("<", "==", ">")),
    ast.Gt: (">", (">=", "!=", "<=")),
    ast.GtE: (">=", (">", "==", "<")),
    ast.Eq: ("==", ("!=", "<=", ">=")),
    ast.NotEq: ("!=", ("==", "<", ">")),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
}
PAIRS: Final = (
    ("any", "all"),
    ("amax", "amin"),
    ("maximum", "minimum"),
    ("max", "min"),
    ("ge", "gt"),
    ("zeros_like", "ones_like"),
    ("zeros", "ones"),
    ("isnan", "isinf"),
    ("isposinf", "isneginf"),
    ("nan", "inf"),
    ("add", "sub"),
    ("mul", "div"),
)
COUNTERPARTS: Final = {a + ending: b + ending for pair in PAIRS for a, b in (pair, pair[::-1]) for ending in ("", "_")}
"""Functions, methods and constants by name; in PyTorch's spelling for in-place ones too."""
DROPPED: Final = {"detach", "clamp", "clamp_", "clip", "neg", "neg_", "relu", "relu_", "abs"}
"""Methods whose result is replaced by what they are called on."""


class Change(NamedTuple):
    """A file's text with one place changed."""

    path: str
    function: str
    old: str
    new: str
    line: int
    text: str

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.path, self.function, self.old, self.new

    @property
    def rank(self) -> str:
        """Where it stands in an order that has nothing to do with what notices it, and which no other code changes."""
        return hashlib.sha256("\n".join(self.name).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.path}:{self.line} in {self.function}\n  - {self.old}\n  + {self.new}"


def changes(path: str, text: str) -> list[Change]:
    """Every mutant of a file."""
    maker = Maker(path, text)
    maker.visit(ast.parse(text))
    return maker.made


def used(texts: Iterable[str], roots: Iterable[str]) -> set[str]:
    """The functions and classes of these files that the roots use, directly or not, as far as their names say it."""
    uses: dict[str, set[str]] = {}
    for text in texts:
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                attributes = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                uses.setdefault(node.name, set()).update(names | attributes)
    found, new = set[str](), set(roots)
    while new:
        found |= new
        new = {name for user in new for name in uses.get(user, ())} - found
    return found


class Maker(ast.NodeVisitor):
    """Walks a file and notes each change. Positions are in bytes, as the parser counts them."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.source = path, text.encode()
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.made: list[Change] = []
        self.parents: list[ast.AST] = []
        self.functions: list[str] = []

    def start(self, node: Any) -> int:
        return int(self.starts[node.lineno - 1] + node.col_offset)

    def end(self, node: Any) -> int:
        return int(self.starts[node.end_lineno - 1] + node.end_col_offset)

    def code(self, node: ast.AST) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def replace(self, start: int, end: int, new: str) -> None:
        """Note a change, shown with the expression or the head of the statement around it."""
        shown = (node for node in reversed(self.parents) if isinstance(node, ast.expr | ast.stmt))
        around = next(node for node in shown if not isinstance(node, ast.Constant | ast.Attribute | ast.Name))
        first, last, source = self.start(around), self.end(around), self.source
        if isinstance(around, ast.FunctionDef):  # the default of an argument
            first, last = source.rindex(b"\n", 0, start) + 1, source.index(b"\n", end)
        elif isinstance(around, ast.If | ast.While | ast.With | ast.For | ast.ClassDef):
            last = self.start(around.body[0])
        before, after = source[first:last], source[first:start] + new.encode() + source[end:last]
        old, fresh = (" ".join(part.decode().split()) for part in (before, after))
        text = (source[:start] + new.encode() + source[end:]).decode()
        function, line = ".".join(self.functions) or "<module>", source.count(b"\n", 0, start) + 1
        self.made.append(Change(self.path, function, old, fresh, line, text))

    def visit(self, node: ast.AST) -> None:
        self.parents.append(node)
        super().visit(node)
        self.parents.pop()

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params", "ops", "op"):
                continue  # not evaluated (from __future__ import annotations), or not a place of its own
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    # What no check is about: the words of errors, what is said to type checkers and to readers.
    def leave(self, node: ast.AST) -> None:
        pass

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = leave

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) == "__all__":
            return
        if isinstance(node.targets[0], ast.Subscript):
            self.replace(self.start(node), self.end(node), "pass")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    visit_ClassDef = visit_FunctionDef

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        words = any(isinstance(operand, ast.Constant) and isinstance(operand.value, str) for operand in operands)
        for left, kind, right in zip(operands, node.ops, operands[1:], strict=False):
            old, others = COMPARISONS[type(kind)]
            for new in others[:1] if words else others:  # the order of words means nothing
                self.replace_between(left, right, old, new)
        self.generic_visit(node)

    def replace_between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        between = self.source[self.end(left) : self.start(right)].decode()
        pattern = r"\s+".join(map(re.escape, old.split()))
        found = re.search(pattern, between)
        assert found is not None, between
        at = self.end(left)
        self.replace(at + len(between[: found.start()].encode()), at + len(between[: found.end()].encode()), new)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC:
            self.replace_between(node.left, node.right, *ARITHMETIC[type(node.op)])
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            self.keep_one(node, [node.left, node.right])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.replace_between(left, right, old, new)
        for i in range(len(node.values)):
            rest = f" {old} ".join(f"({self.code(value)})" for j, value in enumerate(node.values) if j != i)
            self.replace(self.start(node), self.end(node), f"({rest})")
        self.generic_visit(node)

    def keep_one(self, node: ast.AST, parts: list[Any]) -> None:
        for part in parts:
            self.replace(self.start(node), self.end(node), f"({self.code(part)})")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        value = node.operand.value if isinstance(node.operand, ast.Constant) else None
        if isinstance(node.op, ast.USub) and isinstance(value, int | float):
            self.parents.pop()  # a number with its sign is seen as one
            self.number(node, -value)
            self.parents.append(node)
            return
        self.keep_one(node, [node.operand])
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.keep_one(node, [node.body, node.orelse])
        self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.While) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):  # those have changes of their own
            self.replace(self.start(node.test), self.end(node.test), f"not ({self.code(node.test)})")
        self.generic_visit(node)

    visit_While = visit_If

    def visit_With(self, node: ast.With) -> None:
        context = node.items[-1]
        silences_warnings = "errstate" in ast.unparse(context)
        if context.optional_vars is None and not silences_warnings:
            self.replace(self.start(node), self.end(context.context_expr), "if True")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace(self.start(node), self.end(node), "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(self.start(node), self.end(node), "pass")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ("strict", "frozen"):  # what is true of every call anyway
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in DROPPED and ast.unparse(node.func.value) not in ("np", "torch"):
                dot = self.source.rindex(b".", 0, self.end(node.func))
                self.replace(dot, self.end(node), "")
            if node.func.attr == "where" and len(node.args) == 3:
                where, condition, yes, no = map(self.code, (node.func, *node.args))
                self.replace(self.start(node), self.end(node), f"{where}({condition}, {no}, {yes})")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in COUNTERPARTS:
            self.replace(self.end(node) - len(node.attr), self.end(node), COUNTERPARTS[node.attr])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(self.start(node), self.end(node), str(not value))
        elif isinstance(value, int | float):
            self.number(node, value)

    def number(self, node: ast.AST, value: float) -> None:
        for new in (value + 1, value - 1):
            if new != value:  # as it is where the float is large
                self.replace(self.start(node), self.end(node), repr(new))
