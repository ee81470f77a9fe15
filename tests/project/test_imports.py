"""The four packages are built of folders that one can keep in mind, and import each other one way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

from tests.support.import_contracts import AllowListContract

ROOT = Path(__file__).parents[2]
PACKAGES = {"nestor": "client", "nestor_server": "server", "nestor_worker": "worker", "nestor_engine": "worker"}
FOLDERS = sorted(
    path.parent.relative_to(ROOT)
    for package, source in PACKAGES.items()
    for path in (ROOT / source / package).rglob("__init__.py")
)
MOST = 10  # modules of a folder, besides __init__ and __main__
# One module for each thing of a kind, all of one form: who knows one knows where the next is.
COLLECTIONS = {
    "nestor/cli",
    "nestor/errors",
    "nestor/schemas",
    "nestor_engine/hparams",
    "nestor_engine/solvers",
    "nestor_server/routes",
}


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_folder_holds_ten_modules_at_most(folder: Path):
    modules = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    assert len(modules) <= MOST or "/".join(folder.parts[1:]) in COLLECTIONS, sorted(modules)


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    assert list(cycles(graph)) == []


def test_a_cycle_is_found():
    assert sorted(map(sorted, cycles(graph_of(("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"))))) == [["a", "b", "c"]]


def test_the_import_contracts_of_the_project_are_kept():
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def broken(graph: grimp.ImportGraph, **options: Any) -> list[str]:
    contract = AllowListContract("a list", {"root_packages": ["a", "b"]}, options)
    return (contract.check(graph, verbose=False).metadata or {})["imports"]


def test_a_contract_finds_what_is_not_on_its_list():
    graph = graph_of(("a", "b.errors"), ("a.x", "b.client"), ("a.x", "a"), ("a.x", "torch"), ("b.client", "a.x"))
    assert broken(graph, importers=["a"], of=["b"], allowed=["b.errors"]) == ["a.x imports b.client"]
    assert broken(graph, importers=["a"], of=["b"], allowed=["b"]) == []
    assert broken(graph, importers=["a"], of=["b"]) == ["a imports b.errors", "a.x imports b.client"]


def test_a_contract_without_packages_is_about_all_but_the_standard_library():
    graph = graph_of(("a", "json"), ("a", "b"), ("a.x", "torch"), ("a.x", "a"), ("b", "torch"))
    assert broken(graph, importers=["a"], allowed=["b"]) == ["a.x imports torch"]


def graph_of(*imports: tuple[str, str]) -> grimp.ImportGraph:
    graph = grimp.ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    return graph


def cycles(graph: grimp.ImportGraph) -> Iterator[set[str]]:
    """The sets of modules that import each other, directly or not."""
    left = set(graph.modules)
    while left:
        module = left.pop()
        if graph.find_modules_directly_imported_by(module) and graph.find_modules_that_directly_import(module):
            downstream = graph.find_downstream_modules(module)
            circle = {other for other in graph.find_upstream_modules(module) if other in downstream}
            if circle:
                left -= circle
                yield circle | {module}
