"""Every public definition of these packages says what its signature cannot."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTED = [  # a package enters this list when it has no gaps, and stays
    "client/nestor",
    "server/nestor_server",
    "worker/nestor_engine",
    "worker/nestor_worker",
]


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources(name: str) -> list[Path]:
    return sorted(ROOT.glob(name if name.endswith(".py") else f"{name}/**/*.py"))


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """The public classes, functions and methods, by their qualified names; those inside functions are private."""
    for node in body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name.startswith("_"):
                    continue
                yield prefix + name, node
                if isinstance(node, ast.ClassDef):
                    yield from definitions(node.body, f"{prefix}{name}.")
            case ast.If() | ast.Try():
                yield from definitions(node.body + node.orelse, prefix)


def undocumented(source: str) -> list[str]:
    """The public definitions without a docstring, or with one that only lists errors."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["module"]
    for name, node in definitions(tree.body):
        docstring = ast.get_docstring(node) or ""
        if not docstring.partition("Raises:")[0].strip():
            found.append(name)
    return found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_definition_has_a_docstring(name: str):
    files = sources(name)
    assert files, f"{name} does not exist"
    gaps = {str(path.relative_to(ROOT)): undocumented(path.read_text()) for path in files}
    assert {path: names for path, names in gaps.items() if names} == {}


def test_the_search_finds_what_it_looks_for():
    source = '''
"""A module."""
def f(): ...
def g():
    """
    Raises:
        ValueError
    """
def _private(): ...
class A:
    """A class."""
    def method(self): ...
    async def documented(self):
        """Does it."""
if True:
    class B: ...
'''
    assert undocumented(source) == ["f", "g", "A.method", "B"]
