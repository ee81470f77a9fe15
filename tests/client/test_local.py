"""What only the in-process backend has: the user's own thread, and exceptions with their traceback."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
import torch

import nestor
from nestor import lifecycle
from nestor.errors import ConfigInvalid, InvalidInput, TrialFailed
from nestor.hparams import L2
from nestor.schemas import State
from nestor_engine.hparams import compose
from nestor_engine.program import load
from tests.client.problems import ridge, squared_error

ROOT = Path(__file__).parents[2]
QUICK = {"inner": nestor.Adam(0.05), "inner_steps": 1, "show_progress_bar": False}


def test_the_problem_runs_in_the_users_thread_and_in_another_when_not_waited_for():
    threads = set()
    problem = ridge()
    problem.train_loss = lambda outputs, batch: threads.add(threading.get_ident()) or squared_error(outputs, batch)
    study = nestor.create_study()
    study.optimize(problem, 2, **QUICK)
    assert threads == {threading.get_ident()}
    trial = study.optimize(problem, 2, **QUICK, wait=False)
    assert trial.wait().state is State.complete
    assert len(threads) == 2


def test_what_cannot_be_exported_can_run_here():
    problem = ridge()
    problem.train_loss = lambda outputs, batch: squared_error(outputs, batch) * (1.0 if outputs.sum() > 0 else 2.0)
    assert nestor.create_study().optimize(problem, 2, **QUICK).state is State.complete


def test_an_exception_in_the_problem_keeps_its_traceback():
    problem, calls = ridge(), []

    def fail_later(outputs, batch):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("not today")
        return squared_error(outputs, batch)

    problem.train_loss = fail_later
    with pytest.raises(TrialFailed, match="own functions failed with RuntimeError: not today") as caught:
        nestor.create_study().optimize(problem, 50, **QUICK)
    assert caught.value.__cause__ is not None
    assert traceback.extract_tb(caught.value.__cause__.__traceback__)[-1].name == "fail_later"


def test_large_hyperparameters_are_kept_sparsely_but_first_best_and_last_always():
    torch.manual_seed(0)
    model = torch.nn.Linear(200, 100)
    x, y = torch.randn(20, 200), torch.randn(20, 100)
    problem = nestor.Problem(model, L2(model, init=-2.0), squared_error, squared_error, train=(x, y), val=(x + 0.1, y))
    trial = nestor.create_study().optimize(problem, 150, **QUICK)
    kept = trial.hparams_steps
    assert {0, trial.best_step, 150} <= set(kept)
    assert len(kept) <= 150 / 2 + 3


def test_distributions_are_bounded_and_a_pause_does_not_change_which_are_kept(monkeypatch):
    monkeypatch.setattr(lifecycle, "MAX_DISTRIBUTIONS", 5)
    straight = nestor.create_study().optimize(ridge(), 30, **QUICK).hparam_summary("l2.weight").distributions
    assert straight.number == [0, 8, 16, 24, 30]

    def pause(study: nestor.Study, trial: nestor.Trial) -> None:
        if trial.record.step == 13:
            trial.pause()

    trial = nestor.create_study().optimize(ridge(), 30, **QUICK, callbacks=[pause])
    assert trial.hparam_summary("l2.weight").distributions.number == [0, 4, 8, 12, 13]
    trial.resume().wait()
    assert trial.hparam_summary("l2.weight").distributions == straight


def test_hyperparameters_are_read_in_the_order_of_their_declaration():
    problem = ridge()
    problem.hparams = compose([{"z": torch.ones(2)}, {"a": torch.ones((), dtype=torch.float64)}, L2(problem.model)])
    problem.val_loss = lambda out, batch, hparams: squared_error(out, batch) + hparams["z"].sum() * hparams["a"]
    declared = ["z", "a", "l2.weight", "l2.bias"]
    trial = nestor.create_study().optimize(problem, 2, **QUICK)
    for values in (trial.hparams, trial.best_hparams, trial.hparams_at(0), trial.hparams.transformed):
        assert list(values) == declared
    assert list(trial.hparams.numpy()) == declared
    assert [list(step.hyperparameters) for step in trial.steps] == [declared, declared]
    program = problem.export()
    assert list(load(program.graphs, program.tensors).hparams) == declared


def test_a_background_trial_does_not_keep_the_process_from_ending():
    code = """
import nestor
from tests.client.problems import ridge
trial = nestor.create_study().optimize(ridge(), 1_000_000, wait=False)
next(trial.stream())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_users_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    study, problem = nestor.create_study(), ridge()
    torch.manual_seed(3)
    study.optimize(problem, 2, **QUICK)
    gc.collect()
    assert torch.rand(1) == expected


def test_several_devices_are_for_servers_and_not_for_every_method():
    study = nestor.create_study()
    with pytest.raises(InvalidInput, match=r"one device\. Leave devices_per_trial=1, or use a server's study"):
        study.optimize(ridge(), 1, **QUICK, devices_per_trial=2)
    kfac = nestor.Implicit(nestor.KFAC(), nestor.Direct())
    with pytest.raises(ConfigInvalid, match="Use GaussNewton, or another preconditioner, or one device"):
        study.optimize(ridge(), 1, show_progress_bar=False, response=kfac, devices_per_trial=2)
    assert study.trials == []
