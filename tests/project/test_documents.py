"""What the documents show is true: their code runs, in this process and against a real server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from torch import nn
from torch.nn import functional as F

import nestor
import nestor_engine
from nestor.hparams import L2
from nestor.remote.client import Client
from nestor.schemas import State
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
WEIGHTS = 3 * 40 + 3
PRODUCTS = {  # of the third step, for the options of docs/methods.md: the first estimates the norm with ten
    "exact": WEIGHTS + 1,
    "t1_t2": 1,
    "hessian": 20 + 1,
    "gauss_newton": 2 + 2,
    "fisher": 20 + 1,
    "fisher_by_example": 20 + 1,
    "hoag": 10 + 2,
    "kfac": 1,
    "unrolled": 0,
    "hypernetwork": 5 + 2,
    "direct_only": 0,
    "sketched": 4 + 2,
    "kfac_preconditioned": 4 + 2,
    "adam_preconditioned": 4 + 2,
    "richardson": 1 + 1,
    "nystrom": 20 + 1,
}


def _shell(example: Example) -> None:
    done = subprocess.run(["bash", "-euc", example.parsed], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _run(document: str) -> Document:
    parsers = [SkipParser(), PythonCodeBlockParser(), CodeBlockParser("bash", _shell)]
    parsed = Sybil(parsers).parse(ROOT / document)
    for example in parsed.examples():
        example.evaluate()
    return parsed


def test_the_code_in_the_readme_runs(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "NESTOR_URL", server.url)
    monkeypatch.setitem(os.environ, "NESTOR_TOKEN", server.token)

    readme = _run("README.md")

    assert readme.namespace["decays"].shape == (64, 20)
    with Client(server.url, token=server.token) as client:
        (trial,) = client.trials(client.find_study("from the shell").id)
    assert trial.n_steps == 30
    assert trial.state in (State.queued, State.running, State.complete)


def test_every_method_of_the_table_tunes_something_with_the_products_it_names():
    named = _run("docs/methods.md").namespace
    torch.manual_seed(0)
    model, x = nn.Linear(40, 3), torch.randn(60, 40)
    batch = (x, torch.arange(60) % 3)
    loss = lambda out, batch: F.cross_entropy(out, batch["y"])
    problem = nestor.Problem(model, L2(model, per="tensor", init=-3.0), loss, loss, train=batch, val=batch)
    before = problem.bilevel().hparams["l2"]
    for method, products in PRODUCTS.items():
        trial = nestor.create_study(method).optimize(
            problem, n_steps=3, response=named[method], show_progress_bar=False
        )
        assert torch.equal(trial.hparams["l2"], before) == (method == "direct_only")
        assert (method, trial.last_step.products) == (method, products)


def test_every_kind_of_hyperparameters_that_is_shown_can_be_tuned():
    torch.manual_seed(0)
    shown = _run("docs/hyperparameters.md").namespace
    assert shown["report"].findings == ()
    assert shown["pictures"].shape == (10, 16)
    assert not torch.equal(shown["scales"], torch.ones(4))
    for problem in (shown["problem"], shown["playing"], shown["own"]):
        before = problem.bilevel().hparams
        *_, last = nestor_engine.optimize(problem.bilevel(), problem.data, nestor.Config(n_steps=2))
        assert [name for name, value in before.items() if torch.equal(last.state.hparams[name], value)] == []
