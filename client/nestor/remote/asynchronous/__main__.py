"""Writes the modules of this package from those of `nestor.remote`: `python -m nestor.remote.asynchronous`.

The synchronous code is the only source. What waits becomes `async def`, its calls get `await`, and the classes around
it get the prefix "Async"; what does not wait is imported from the synchronous module. A test compares the files with
what this writes. It needs ruff, which is installed for development.

Code that shall be converted follows these rules:

* A call that waits is written `name(…)`, `self.name(…)`, or on one of `RECEIVERS`.
* A statement behind the comment "# synchronous only" is left out.
* An iterator that waits is read by `for`, `yield from` or `list`, and not in a comprehension.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, TARGET = "nestor.remote", "nestor.remote.asynchronous"
MODULES = (
    "transport",
    "event_stream",
    "uploads",
    "connection",
    "administration",
    "blobs",
    "hyperparameters",
    "client",
)

# What waits in the libraries, and what to call instead.
WAITING = {
    "time.sleep": "asyncio.sleep",
    "offload": "asyncio.to_thread",
    "self._http.request": "self._http.request",
    "self._http.close": "self._http.aclose",
    "response.read": "response.aread",
    "get": "get",  # the argument of `_pages`
}
ITERATORS = {"EventSource(response).iter_sse": "EventSource(response).aiter_sse"}
CONTEXTS = frozenset({"self._http.stream", "transport.stream", "self._slots"})
RECEIVERS = frozenset({"", "self", "self._transport", "self._connected", "transport", "pauses", *MODULES})
RENAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
TEXTS = {
    "httpx.Client(": "httpx.AsyncClient(",
    "threading.Semaphore(": "asyncio.Semaphore(",
    "`with Client() as client:`": "`async with AsyncClient() as client:`",
    "A client can be pickled, and so can its studies and trials.": "A client can be pickled.",
    "Callable[[dict[str, str]], Page[Item]]": "Callable[[dict[str, str]], Awaitable[Page[Item]]]",
    '"""One user of one server.\n': (
        '"""One user of one server, for asyncio: the methods of `Client`, to be awaited.\n\n'
        "    Requests can wait at the same time, as in `await asyncio.gather(…)`. A client serves one event loop.\n"
    ),
}
IMPORTS = """
import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
"""
SYNCHRONOUS_ONLY = "# synchronous only"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Names:
    """The names of functions that wait, of those that return iterators that wait, and of classes that have some."""

    functions: set[str] = field(default_factory=set[str])
    iterators: set[str] = field(default_factory=set[str])
    classes: set[str] = field(default_factory=set[str])

    def waits(self, node: ast.AST) -> bool:
        """Whether `node` is a call to be awaited."""
        return isinstance(node, ast.Call) and (ast.unparse(node.func) in WAITING or _named(node, self.functions))

    def iterates(self, node: ast.AST) -> bool:
        """Whether `node` is a call that returns an asynchronous iterator."""
        return isinstance(node, ast.Call) and (ast.unparse(node.func) in ITERATORS or _named(node, self.iterators))


def package() -> dict[str, str]:
    """The text of each module of this package, by the name of its file."""
    sources = {name: (HERE.parent / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    names = _names(list(trees.values()))
    return {f"{name}.py": _tidied(_module(name, sources[name], trees[name], names)) for name in MODULES}


def _named(call: ast.Call, names: set[str]) -> bool:
    receiver, _, name = ast.unparse(call.func).rpartition(".")
    return receiver in RECEIVERS and name in names


def _names(trees: list[ast.Module]) -> Names:
    """Found by repetition: who calls what waits waits, too."""
    names, known = Names(), -1
    while known != (known := len(names.functions) + len(names.iterators)):
        for function in (node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)):
            own = list(_own(function))
            if _is_waiting(function, names):
                yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own)
                if not _is_context(function):
                    (names.iterators if yields else names.functions).add(function.name)
            elif any(isinstance(node, ast.Return) and node.value and names.iterates(node.value) for node in own):
                names.iterators.add(function.name)
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.ClassDef) and _is_converted(node, names):
            names.classes.add(node.name)
    names.classes |= {  # also those that only inherit what waits
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(getattr(base, "id", None) in names.classes for base in node.bases)
    }
    return names


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _is_waiting(function: Function, names: Names) -> bool:
    if function.name in RENAMED:
        return True
    return any(
        names.waits(node)
        or (isinstance(node, ast.For) and names.iterates(node.iter))
        or (isinstance(node, ast.With) and _opens(node))
        or (isinstance(node, ast.YieldFrom) and names.iterates(node.value))
        or (isinstance(node, ast.Call) and _lists(node, names))
        for node in _own(function)
    )


def _opens(node: ast.With) -> bool:
    opened = [item.context_expr for item in node.items]
    return any(ast.unparse(one.func if isinstance(one, ast.Call) else one) in CONTEXTS for one in opened)


def _lists(call: ast.Call, names: Names) -> bool:
    return ast.unparse(call.func) == "list" and len(call.args) == 1 and names.iterates(call.args[0])


def _is_context(function: Function) -> bool:
    return any(ast.unparse(decorator) == "contextmanager" for decorator in function.decorator_list)


def _is_converted(node: ast.stmt, names: Names) -> bool:
    """Whether a definition is written anew, in place of being imported."""
    inside = ast.walk(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else ()
    return any(
        isinstance(one, Function) and (_is_waiting(one, names) or one.name in names.iterators) for one in inside
    ) or (isinstance(node, ast.ClassDef) and node.name in names.classes)


# --- writing --------------------------------------------------------------------------------------


class _Text:
    """A source whose parts are replaced by position."""

    def __init__(self, source: str) -> None:
        self._lines = source.encode().splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._source = source.encode()
        self._edits: list[tuple[int, int, int, str]] = []

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self.start(node) : self.end(node)].decode()

    def last_line(self, node: ast.stmt) -> str:
        return self._lines[(node.end_lineno or node.lineno) - 1].decode()

    def first_of(self, node: ast.stmt) -> int:
        """Where the statement begins, with its decorators."""
        return self._starts[min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))]) - 1]

    def remove(self, node: ast.stmt) -> None:
        """Remove the lines of a statement, with the comments before it."""
        first = node.lineno - 1
        while self._lines[first - 1].lstrip().startswith(b"#"):
            first -= 1
        self.replace(self._starts[first], self._starts[node.end_lineno or node.lineno], "")

    def replace(self, start: int, end: int, text: str) -> None:
        self._edits.append((start, end, len(self._edits), text))

    def insert(self, at: int, text: str) -> None:
        self.replace(at, at, text)

    def part(self, start: int, end: int) -> str:
        """The edited text between two positions."""
        done, at = "", start
        for first, last, _, text in sorted(edit for edit in self._edits if start <= edit[0] and edit[1] <= end):
            done += self._source[at:first].decode() + text
            at = max(at, last)
        return done + self._source[at:end].decode()


def _module(name: str, source: str, tree: ast.Module, names: Names) -> str:
    text = _Text(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    kept: list[ast.stmt] = []
    imported: list[str] = []
    for node in tree.body[1:]:  # behind the docstring
        if isinstance(node, ast.ImportFrom | ast.Import | ast.If):
            continue
        if _is_converted(node, names) or _is_logger(node):
            kept.append(node)
        else:
            imported += _defined(node)
    for node in ast.walk(tree):
        _convert(node, text, names, parents)
    docstring = ast.get_docstring(tree) or ""
    about = f"Written by `python -m {TARGET}` from {SOURCE}.{name}."
    parts = [f'"""{docstring}\n\n{about}\n"""']
    parts += [_import(node, text, names) for node in tree.body[1:] if isinstance(node, ast.ImportFrom | ast.Import)]
    parts.append(IMPORTS)
    if imported:
        parts.append(f"from {SOURCE}.{name} import {', '.join(sorted(imported))}")
    parts += [text.of(node) for node in tree.body if isinstance(node, ast.If)]
    parts += [text.part(text.first_of(node), text.end(node)) for node in kept]
    written = "\n\n".join(parts) + "\n"
    for old, new in TEXTS.items():
        written = written.replace(old, new)
    for cls in names.classes:
        if not cls.startswith("_"):
            written = re.sub(rf"(?<![\w.`]){cls}\b", f"Async{cls}", written)
    return written


def _is_logger(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.value) == "logging.getLogger(__name__)"


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.Assign(targets=targets):
            named = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            return [one.id for one in named]
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            raise ValueError(f"line {node.lineno} has a statement that this cannot convert")


def _import(node: ast.ImportFrom | ast.Import, text: _Text, names: Names) -> str:
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(SOURCE):
        return text.of(node)
    lines: list[str] = []
    for alias in node.names:
        is_module = node.module == SOURCE and alias.name in MODULES
        converted = is_module or alias.name in names.classes or alias.name in names.functions | names.iterators
        module = f"{node.module}".replace(SOURCE, TARGET, 1) if converted else node.module
        lines.append(f"from {module} import {alias.name}")
    return "\n".join(lines)


def _convert(node: ast.AST, text: _Text, names: Names, parents: dict[ast.AST, ast.AST]) -> None:
    match node:
        case ast.FunctionDef():
            _convert_function(node, text, names)
        case ast.For() if names.iterates(node.iter):
            text.insert(text.start(node), "async ")
            _rename(node.iter, text)
        case ast.With() if _opens(node):
            text.insert(text.start(node), "async ")
        case ast.Expr(value=ast.YieldFrom(value=iterated)):
            function = next(one for one in _ancestors(node, parents) if isinstance(one, ast.FunctionDef))
            if _is_waiting(function, names):  # asynchronous generators do not have `yield from`
                indent = " " * (node.col_offset + 4)
                prefix = "async " if names.iterates(iterated) else ""
                text.replace(text.start(node), text.start(iterated), f"{prefix}for item in ")
                text.insert(text.end(node), f":\n{indent}yield item")
        case ast.Call() if _lists(node, names):
            text.replace(text.start(node), text.start(node.args[0]), "[item async for item in ")
            text.replace(text.end(node.args[0]), text.end(node), "]")
        case ast.Call() if names.waits(node) and not _is_in_lambda(node, parents):
            inner = isinstance(parents[node], ast.Attribute | ast.Subscript | ast.Call) and not _is_argument(
                node, parents
            )
            text.insert(text.start(node), "(await " if inner else "await ")
            _rename(node, text)
            if inner:
                text.insert(text.end(node), ")")
        case ast.stmt() if SYNCHRONOUS_ONLY in text.last_line(node) and not hasattr(node, "body"):
            text.remove(node)
        case _:
            pass


def _convert_function(node: ast.FunctionDef, text: _Text, names: Names) -> None:
    waiting = _is_waiting(node, names)
    if waiting:
        text.insert(text.start(node), "async ")
        if node.name in RENAMED:
            at = text.start(node) + len("def ")
            text.replace(at, at + len(node.name), RENAMED[node.name])
        for decorator in node.decorator_list:
            if ast.unparse(decorator) == "contextmanager":
                text.replace(text.start(decorator), text.end(decorator), "asynccontextmanager")
    yields = any(isinstance(one, ast.Yield | ast.YieldFrom) for one in _own(node))
    if node.returns is not None and ((waiting and yields) or node.name in names.iterators):
        annotation = re.sub(r"\b(Iterator|Generator)\b", r"Async\1", text.of(node.returns))
        text.replace(text.start(node.returns), text.end(node.returns), annotation)


def _rename(node: ast.expr, text: _Text) -> None:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        new = {**WAITING, **ITERATORS}.get(called, called)
        if new != called:
            text.replace(text.start(node.func), text.end(node.func), new)


def _ancestors(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node]
        yield node


def _is_in_lambda(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    return any(isinstance(one, ast.Lambda) for one in _ancestors(node, parents))


def _is_argument(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    match parents[node]:
        case ast.Call(func=func):
            return func is not node
        case ast.Subscript(slice=index):
            return index is node
        case _:
            return False


def _tidied(written: str) -> str:
    """Without imports that nothing uses, and formatted."""
    name = f"--stdin-filename={HERE / 'written.py'}"  # for the settings of the project
    for _ in range(2):  # TYPE_CHECKING is unused once its block is empty
        written = _ruff("check", "--fix", "--exit-zero", "--select=F401,I", name, given=written)
        written = written.replace("if TYPE_CHECKING:\n    pass\n", "")
    return _ruff("format", name, given=written)


def _ruff(*options: str, given: str) -> str:
    command = [sys.executable, "-m", "ruff", *options, "--quiet", "-"]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True, encoding="utf-8").stdout


if __name__ == "__main__":
    for file, content in package().items():
        (HERE / file).write_text(content, encoding="utf-8")
