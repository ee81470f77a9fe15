"""No code reads or writes a pickle, because loading one executes code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("client", "server", "worker", "migrations", "examples", "benchmarks", "testbed")
    for path in ROOT.glob(f"{folder}/**/*.py")
)

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "copyreg",
    "kombu.serialization",
}
CALLS = {
    "torch.load",
    "torch.save",
    "torch.export.load",
    "torch.export.save",
    "torch.jit.load",
    "np.load",
    "numpy.load",
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _violations(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"line {node.lineno}: {name.name}" for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
            yield from (f"line {node.lineno}: {name}" for name in names & (MODULES | CALLS))
        elif isinstance(node, ast.Attribute) and _dotted(node) in CALLS:
            yield f"line {node.lineno}: {_dotted(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            yield f"line {node.lineno}: {node.func.id}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_uses_pickle_or_evaluates_text(path: Path):
    assert list(_violations(ast.parse(path.read_text()))) == []


def test_the_search_finds_what_it_looks_for():
    planted = "import pickle\nfrom torch import load\nimport torch\ntorch.load('x')\neval('1')\n"
    assert len(list(_violations(ast.parse(planted)))) == 4


def test_celery_takes_json_alone():
    from nestor_server.scheduling.task_queue import celery_app
    from nestor_server.settings import Settings

    configuration = celery_app(Settings()).conf
    assert configuration.task_serializer == "json"
    assert list(configuration.accept_content) == ["json"]
