"""Every message of zk0's errors, findings and warnings, gathered from the code: what troubleshooting.md explains."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HOLE = "\0"
"""Stands in a template for what is known only when the message is said."""
FOLDERS = ("zk0", "flows", "tasks", "deployments")
ADDED = ("append", "extend")
"""Methods that put something into a list."""
NAMED = 99
"""Place of an argument that is always given by name."""
RAISED = {"ValueError": (0,), "ColumnError": (1,), "PydanticCustomError": (1, 2), "during": (0,)}
"""What else has a text that reaches users, and the arguments that are it: config faults, faults of a column,
and what was being done when a library raised."""
FINDINGS = ("error", "warning")
"""Methods that make a finding of check, what was seen, and remedy; or, of the logger, write a line."""
SAID = {
    "DataFinding": (NAMED, "seen"),
    "Told": (NAMED, "words"),
    "Finding": (2, "seen"),
    "turned_away": (1, "why"),
    "append_line": (1, "text"),
}
"""What else is called with a text that is shown: the place of it, and its name."""
REMEDIES = ("remedy", "hint", "REMEDY", "FIX", "RECORD_AGAIN", "CONVERT", "known", "there", "where", "named")
"""Parameters, variables and constants that say what to do, or where, not what is wrong."""
THINGS = (
    *("path", "folder", "home", "config", "client", "clients", "task", "work", "item", "run", "url"),
    *("request", "node", "store", "process", "content", "model", "ca", "self", "cls", "data", "label"),
    *("value", "values", "metrics", "record", "num_rounds", "federation"),
)
"""Names of what a message is about: they stand in it, and no text of a message is found through them."""
PASSED_ON = (
    *("join", "format", "get", "removeprefix", "removesuffix", "rstrip", "strip", "encode", "decode", "fromkeys"),
    *("list", "sorted", "tuple", "str", "next", "iter", "printable", "shorten", "first_of"),
)
"""What gives the text that it is called on, or those that it is given."""


@dataclass
class Code:
    """What is known of all modules, as far as messages come from it."""

    files: dict[ast.AST, str] = field(default_factory=dict)
    functions: dict[str, list[ast.FunctionDef]] = field(default_factory=lambda: defaultdict(list))
    constants: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[str, list[ast.Call]] = field(default_factory=lambda: defaultdict(list))
    owner: dict[ast.AST, ast.FunctionDef | None] = field(default_factory=dict)
    """The function that a node stands in."""
    fields: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    """Field of a class -> classes, and its place among their fields."""
    modules: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """File -> the names of modules that it imports."""

    def read(self, file: Path, name: str) -> None:
        """Add a module."""
        self._visit(ast.parse(file.read_text(encoding="utf-8")), None, name)

    def _visit(self, node: ast.AST, owner: ast.FunctionDef | None, file: str) -> None:
        self.owner[node], self.files[node] = owner, file
        if isinstance(node, ast.FunctionDef):
            self.functions[node.name].append(node)
            owner = node
        if owner is None and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    self.constants[target.id].append(node.value)
        if isinstance(node, ast.ClassDef):
            targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            for place, field_ in enumerate(item.id for item in targets if isinstance(item, ast.Name)):
                self.fields[field_].append((node.name, place))
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.modules[file] |= {item.asname or item.name for item in node.names if item.name.islower()}
        if isinstance(node, ast.Call) and (name := called(node)):
            self.calls[name].append(node)
        for child in ast.iter_child_nodes(node):
            self._visit(child, owner, file)

    def may_call(self, call: ast.Call, function: ast.FunctionDef) -> bool:
        """Whether a call may be one of a function of that name: a private one is called in its own module, and what
        is called on a module stands in it (`os.write` is none of ours)."""
        mine, theirs = self.files[call], self.files[function]
        if function.name.startswith("_") and mine != theirs:
            return not any(self.files[item] == mine for item in self.functions[function.name])
        on = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(on, ast.Name) and on.id in self.modules[mine]:
            return on.id in Path(theirs).with_suffix("").parts
        return True


def called(node: ast.Call) -> str | None:
    """The name of what is called, without what it is called on."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)


@dataclass
class Messages:
    """Follows what errors and findings are made of, back to the texts in the code."""

    code: Code
    found: dict[str, str] = field(default_factory=dict)
    """Template -> where it stands."""
    _done: set[tuple[ast.AST | str, int | None]] = field(default_factory=set)

    def constructed(self, errors: dict[str, tuple[int, ...]]) -> None:
        """Follow the text of every call of an error, a finding or the logger's warnings.

        Args:
            errors: name of an error -> the places of its text among the arguments.
        """
        for name, places in errors.items():
            for call in self.code.calls[name]:
                for place in places:
                    self._argument(call, place, "message")
        for name in FINDINGS:
            for call in self.code.calls[name]:
                on_logger = ast.unparse(call.func).endswith("logger." + name)
                self._argument(call, 0 if on_logger else 1, "seen")
        for name, (place, key) in SAID.items():
            for call in self.code.calls[name]:
                self._argument(call, place, key)
        self._printed()
        for function in self.code.functions["__str__"]:
            self._returns(function)

    def _printed(self) -> None:
        """Follow the lines for a log or a terminal that are said outright."""
        for name in ("say", "tell", "write"):
            for call in self.code.calls[name]:
                outright = any(isinstance(item, ast.JoinedStr | ast.BinOp) for item in call.args[:1])
                if outright if name != "write" else ast.unparse(call.func) == "sys.stderr.write":
                    self._follow(call.args[0])

    def _argument(self, call: ast.Call, place: int, name: str) -> None:
        if any(isinstance(item, ast.Constant) and item.value == "ok" for item in call.args):
            return  # a finding where all is well
        given = [item.value for item in call.keywords if item.arg == name]
        if place < len(call.args) and not any(isinstance(item, ast.Starred) for item in call.args[: place + 1]):
            given.append(call.args[place])
        for item in given:
            self._follow(item)

    def _follow(self, node: ast.expr, place: int | None = None) -> None:
        """Find the texts that an expression may be; of what gives several values the one at a place."""
        if (node, place) in self._done:
            return
        self._done.add((node, place))
        match node:
            case ast.Constant(value=str(text)):
                self._say(text, node)
            case ast.JoinedStr(values=values):
                self._joined(values, node)
            case ast.Call():
                self._call(node, place)
            case ast.Name(id=name):
                self._name(name, node, place)
            case ast.Attribute(value=ast.Name(id="request" | "task" | "config" | "client")):
                pass
            case ast.Attribute(attr=name):
                self._attribute(name)
            case ast.Tuple(elts=values) if place is not None and place < len(values):
                self._follow(values[place])
            case _:
                for value in _inside(node):
                    self._follow(value, place)

    def _attribute(self, name: str) -> None:
        """What classes with such a field are made with, and what is put into it later."""
        if name in THINGS:
            return
        for kind, at in self.code.fields[name]:
            if kind == "Leaf":  # what leaves a client is described, not complained of
                continue
            for call in self.code.calls[kind]:
                self._argument(call, at, name)
        for value in _added(self.code, name):
            self._follow(value)
        for function in self.code.functions.get(name, ()):
            if any(ast.unparse(item) == "property" for item in function.decorator_list):
                self._returns(function)

    def _joined(self, values: list[ast.expr], node: ast.expr) -> None:
        """A text with holes; what comes after the last semicolon is the remedy, and is not followed."""
        text = "".join(str(item.value) if isinstance(item, ast.Constant) else HOLE for item in values)
        self._say(text, node)
        fault = text.rpartition("; ")[0] or text
        holes = [item.value for item in values if isinstance(item, ast.FormattedValue)]
        for item in holes[: fault.count(HOLE)]:
            self._follow(item)

    def _say(self, text: str, node: ast.AST) -> None:
        text = " ".join(re.sub(r"\{[^{}]*\}", HOLE, text).replace("%s", HOLE).split())
        self.found.setdefault(text, f"{self.code.files[node]}:{getattr(node, 'lineno', 0)}")

    def _call(self, node: ast.Call, place: int | None) -> None:
        name = called(node)
        if name in PASSED_ON:
            for item in (node.func.value if isinstance(node.func, ast.Attribute) else node.func, *node.args):
                self._follow(item, place)
        if name == "partial" and isinstance(node.args[0], ast.Name):
            name = node.args[0].id
        elif isinstance(node.func, ast.Name) and (name not in self.code.functions or self._is_local(node.func)):
            self._follow(node.func, place)
            return
        for function in self.code.functions.get(name or "", ()):
            if name != called(node) or self.code.may_call(node, function):
                self._returns(function, place)

    def _is_local(self, name: ast.Name) -> bool:
        """Whether a name is a parameter or a variable, and thus no function of that name elsewhere."""
        owner = self.code.owner[name]
        while owner is not None:
            if name.id in _parameters(owner) or any(_assigned(owner, name.id)):
                return True
            owner = self.code.owner[owner]
        return False

    def _returns(self, function: ast.FunctionDef, place: int | None = None) -> None:
        for inner in ast.walk(function):
            if isinstance(inner, ast.Return | ast.Yield | ast.YieldFrom) and self.code.owner[inner] is function:
                self._follow(inner.value or ast.Constant(None), place)

    def _name(self, name: str, node: ast.AST, place: int | None) -> None:
        owner = self.code.owner[node]
        if name in REMEDIES or name in THINGS:
            return
        while owner is not None:
            for value, at in _assigned(owner, name):
                self._follow(value, place if at is None else at)
            names = _parameters(owner)
            if name in names:
                self._given(owner, names.index(name), name)
            owner = self.code.owner[owner]
        for value in self.code.constants.get(name, ()):
            self._follow(value, place)
        if isinstance(node, ast.Name) and not self._is_local(node):  # a function that is called later, from a table
            for function in self.code.functions.get(name, ()):
                if self.code.files[function] == self.code.files[node]:
                    self._returns(function, place)

    def _given(self, function: ast.FunctionDef, place: int, name: str) -> None:
        """What callers give for a parameter that ends in a message."""
        if (function, place) in self._done or function.name == "__init__":
            return
        self._done.add((function, place))
        bound = bool(function.args.args) and function.args.args[0].arg in ("self", "cls")
        for call in self.code.calls[function.name]:
            if self.code.may_call(call, function):
                self._argument(call, place - bound, name)


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [item.arg for item in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def _inside(node: ast.expr) -> list[ast.expr]:
    """What an expression gives on, as it is."""
    match node:
        case ast.BinOp(op=ast.Div()):  # a path
            inside = []
        case ast.BinOp(left=left, right=right):  # what is added after a semicolon is the remedy
            inside = [left] if ast.unparse(left).rstrip("'\"").endswith("; ") else [left, right]
        case ast.IfExp(body=body, orelse=other):
            inside = [body, other]
        case ast.BoolOp(values=values) | ast.Dict(values=values):
            inside = values
        case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Set(elts=values):
            inside = values
        case ast.Starred(value=value) | ast.NamedExpr(value=value) | ast.Subscript(value=value):
            inside = [value]
        case ast.ListComp(elt=value) | ast.GeneratorExp(elt=value) | ast.SetComp(elt=value):
            inside = [value]
        case _:
            inside = []
    return inside


def _assigned(function: ast.FunctionDef, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """What a name is given in a function; with its place where that gives several values."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _matching(target, value, name)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                yield from _matching(target, value, name)
            case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                yield value, None
            case ast.NamedExpr(target=ast.Name(id=found), value=value) if found == name:
                yield value, None
            case ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr=way), args=[value]) if (
                found == name and way in ADDED
            ):
                yield value, None


def _added(code: Code, name: str) -> Iterator[ast.expr]:
    """What is put into a list that is an attribute."""
    for way in ADDED:
        for call in code.calls[way]:
            if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "attr", None) == name:
                yield from call.args


def _matching(target: ast.expr, value: ast.expr, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value, None
    elif isinstance(target, ast.Tuple):
        for place, item in enumerate(target.elts):
            if isinstance(item, ast.Name) and item.id == name:
                yield value, place


def messages(root: Path, errors: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Template of a message, or of a part of one -> where it stands in the code.

    Args:
        root: of the repository.
        errors: name of an error -> the places of its text among the arguments.
    """
    code = Code()
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            code.read(file, file.relative_to(root).as_posix())
    gathered = Messages(code)
    gathered.constructed(errors)
    return gathered.found
