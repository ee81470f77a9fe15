"""What `import nestor` provides, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nestor
import nestor.hparams
from nestor import options

HEAVY = ("torch", "pandas", "plotly", "sklearn", "numpy", "httpx", "pydantic", "nestor_engine")


def python(code: str, *, without: str = "") -> str:
    """Run `code` in a fresh interpreter, in which the module `without` cannot be imported."""
    hidden = f"import sys; sys.modules[{without!r}] = None\n" if without else ""
    done = subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_nestor_loads_nothing_heavy():
    loaded = python(f"import sys, nestor; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_the_client_for_a_server_loads_no_torch():
    code = "import sys, nestor; nestor.Client, nestor.create_study, nestor.Trial, nestor.visualization"
    assert python(f"{code}; print('torch' in sys.modules, 'pandas' in sys.modules)") == "False False"


@pytest.mark.parametrize("module", [nestor, nestor.hparams], ids=lambda module: module.__name__)
def test_every_name_resolves_and_is_listed(module):
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("module", [nestor, nestor.hparams], ids=lambda module: module.__name__)
def test_type_checkers_see_the_same_names_as_the_interpreter(module):
    """The names of the TYPE_CHECKING block are those of `__all__`."""
    tree = ast.parse(Path(module.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    shown = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    if None in shown:  # `from nestor.options import *`
        shown = shown - {None} | vars(options).keys() & set(options.public_names())
    assert shown == set(module.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Probelm'"):
        _ = nestor.Probelm


@pytest.mark.parametrize("name", ["nestor.Problem", "nestor.hparams.L2"])
def test_without_torch_the_extra_to_install_is_named(name):
    code = f"""
import nestor
try:
    {name}
except nestor.errors.MissingExtra as error:
    print(error)
"""
    printed = python(code, without="torch")
    assert printed == f"{name} needs torch, which is not installed. Install it: pip install 'nestor[worker]'."


def test_without_plotly_the_extra_to_install_is_named():
    code = """
import nestor
try:
    nestor.visualization.plot_optimization_history([])
except nestor.errors.MissingExtra as error:
    print(error)
"""
    printed = python(code, without="plotly")
    assert "needs plotly, which is not installed. Install it: pip install 'nestor[viz]'" in printed
