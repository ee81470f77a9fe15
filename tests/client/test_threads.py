"""Trials, checks and exports in several threads: equal results, and nothing of the process changes."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor.hparams import L2, Augmentation, Dropout, Hyperparameters
from nestor.schemas import State
from nestor_engine import fit
from tests.client.problems import ridge

ROOT = Path(__file__).parents[2]
QUICK = {"n_steps": 4, "inner_steps": 3, "batch_size": 16, "seed": 0, "show_progress_bar": False}


class DropPath(nn.Module):
    def forward(self, x):
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(0.7) / 0.7 if self.training else x


class Attending(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.embed, self.head, self.attend = nn.Linear(1, 4), nn.Linear(4, 3), attend

    def forward(self, x):
        h = self.embed(x[..., None])
        return self.head(self.attend(h).mean(1))


class MultiHead(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(4, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Last(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x[..., None])[0][:, -1])


class Sampling(nn.Module):
    """Attends to inputs that it samples."""

    def forward(self, x):
        chosen = torch.multinomial(x.detach().abs() + 0.1, 4)
        return x.gather(1, chosen).repeat(1, 2)


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x, noise):
        return x + self.scale * noise[:, :1]


def cross_entropy(outputs, batch):
    return F.cross_entropy(outputs, batch["y"])


def noisy(outputs, batch):
    return cross_entropy(outputs + 0.3 * torch.randn_like(outputs), batch) * torch.rand(())


def mlp(*layers):
    return nn.Sequential(nn.Linear(8, 8), *layers, nn.Linear(8, 3))


NETWORKS = {
    "dropout": lambda: mlp(nn.Dropout(0.5)),
    "alpha dropout": lambda: mlp(nn.AlphaDropout(0.3)),
    "drop path": lambda: mlp(nn.Tanh(), DropPath()),
    "rrelu": lambda: mlp(nn.RReLU()),
    "multinomial": lambda: mlp(Sampling()),
    "attention": lambda: Attending(lambda h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.3)),
    "multi-head attention": lambda: Attending(MultiHead()),
    "LSTM": lambda: Last(nn.LSTM(1, 5, 2, dropout=0.4, batch_first=True)),
    "noise in the losses": mlp,
    "augmentation": mlp,
    "tuned dropout": lambda: mlp(nn.Dropout(0.5)),
}


def problem(name="dropout"):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 8, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    kinds: list[Hyperparameters] = [L2(network, per="tensor", init=-4.0)]
    if name == "augmentation":
        kinds.append(Augmentation(Shift()))
    if name == "tuned dropout":
        kinds.append(Dropout(network))
    losses = (noisy, noisy) if name == "noise in the losses" else (cross_entropy, cross_entropy)
    return nestor.Problem(network, kinds, *losses, train=(x, y), val=(x, y), test=(x, y), metrics={"noisy": noisy})


def record(trial):
    return [(step.train_loss, step.val_loss, step.test_loss, step.test_metrics) for step in trial.steps]


@pytest.mark.parametrize("name", NETWORKS)
def test_background_trials_equal_a_sequential_one_and_leave_the_callers_random_numbers_alone(name):
    torch.manual_seed(1)
    expected_draws = [float(torch.rand(())) for _ in range(200)]
    study = nestor.create_study()
    sequential = study.optimize(problem(name), **QUICK)
    written = [problem(name) for _ in range(4)]
    torch.manual_seed(1)
    trials = [study.optimize(one, **QUICK, wait=False) for one in written]
    draws = [float(torch.rand(())) for _ in range(200)]
    assert all(trial.wait().state is State.complete for trial in trials)
    assert draws == expected_draws
    assert [record(trial) for trial in trials] == [record(sequential)] * 4
    # The trial has kernels and draws of its own; the engine in a runner uses torch's default ones.
    torch.manual_seed(5)
    engine = list(nestor_optimize(problem(name)))
    assert [(step.train_loss, step.val_loss, step.test_loss) for step in engine] == [
        numbers[:3] for numbers in record(sequential)
    ]


def nestor_optimize(written):
    from nestor_engine import Config, optimize

    return optimize(written.bilevel(), written.data, Config(**{k: v for k, v in QUICK.items() if "show" not in k}))


def test_a_trial_draws_nothing_from_the_caller_during_two_thousand_draws():
    torch.manual_seed(1)
    expected = torch.stack([torch.rand(()) for _ in range(2_000)])
    trial = nestor.create_study().optimize(problem(), **{**QUICK, "n_steps": 100_000}, wait=False)
    torch.manual_seed(1)
    draws = torch.stack([torch.rand(()) for _ in range(2_000)])
    running = not trial.state.finished
    trial.stop()
    trial.wait()
    assert running
    assert torch.equal(draws, expected)


def in_threads(*functions):
    failures = []

    def run(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_checks_and_exports_in_several_threads_beside_trials_and_a_training_loop_of_the_user():
    """The tracers patch `nn.Module` for all threads: neither the trial nor the user's training may notice."""
    study = nestor.create_study()
    sequential = study.optimize(problem("multi-head attention"), **{**QUICK, "n_steps": 30})
    exported = problem("multi-head attention").export()
    trial = study.optimize(problem("multi-head attention"), **{**QUICK, "n_steps": 30}, wait=False)
    reports, programs, done = [], [], threading.Event()
    shared = nn.Linear(4, 4)  # torch's tracer wraps the attributes of a network that has a module twice
    tied = nn.Sequential(shared, nn.Tanh(), shared)
    seen = set()

    def train():
        while not done.is_set():
            seen.add((type(tied[0]), type(shared.weight), tied(torch.ones(1, 4)).shape, torch.compiler.is_compiling()))

    training = threading.Thread(target=train)
    training.start()
    in_threads(
        *[lambda: reports.append(problem().check())] * 2,
        *[lambda: programs.append(problem("multi-head attention").export())] * 2,
    )
    done.set()
    training.join()
    trial.wait()
    assert [str(report) for report in reports] == ["The problem is in order."] * 2
    assert programs == [exported] * 2
    assert record(trial) == record(sequential)
    assert seen == {(nn.Linear, nn.Parameter, torch.Size([1, 4]), False)}


def test_draws_during_a_check_and_during_fit_do_not_disturb_the_caller():
    torch.manual_seed(1)
    expected = torch.stack([torch.rand(()) for _ in range(2_000)])
    written = problem()
    for work in (written.check, lambda: fit(written.bilevel(), written.data.train, n_steps=200)):
        started = threading.Event()
        worker = threading.Thread(target=lambda work=work, started=started: (started.set(), work()))
        torch.manual_seed(1)
        worker.start()
        started.wait()
        draws = torch.stack([torch.rand(()) for _ in range(2_000)])
        worker.join()
        assert torch.equal(draws, expected)


STATE = """
import logging, random, sys, warnings
import numpy as np, torch
import nestor, nestor_engine.problem.validation.checks
from tests.client.test_threads import QUICK, problem

def state():
    names = ["", *logging.root.manager.loggerDict]
    cuda = torch.backends.cuda
    return {
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "levels": {n: (logging.getLogger(n).level, logging.getLogger(n).disabled, list(logging.getLogger(n).filters),
                       [list(h.filters) for h in logging.getLogger(n).handlers]) for n in names if n in before_names},
        "warnings": (list(warnings.filters), warnings.showwarning),
        "kernels": (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark,
                    cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
                    cuda.cudnn_sdp_enabled(), torch._C._get_sdp_priority_order()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(),
                     torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
        "modes": (torch.overrides._get_current_function_mode_stack(), torch.nn.Module.__call__,
                  torch.nn.Module.__getattr__, torch.compiler.is_compiling, torch.random.default_generator),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }

import torch.export
before_names = {"", *logging.root.manager.loggerDict}
written, broken = problem(), problem("multinomial")
broken.train_loss = lambda outputs, batch: outputs.sum() if outputs.sum() > 0 else outputs.mean()
study = nestor.create_study()
for name, work in {
    "check": lambda: written.check(),
    "failing check": lambda: broken.check(),
    "export": lambda: written.export(),
    "trial": lambda: study.optimize(written, **QUICK),
    "background trial": lambda: study.optimize(written, **QUICK, wait=False).wait(),
}.items():
    before = state()
    work()
    after = state()
    for what in before:
        if before[what] != after[what]:
            print(name, "changed", what, before[what], after[what])
"""


def test_nothing_of_a_fresh_process_changes():
    result = subprocess.run([sys.executable, "-c", STATE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (result.stdout, result.stderr) == ("", "")


def test_what_the_model_prints_is_seen_and_what_torch_warns_about_in_other_threads_too(capsys):
    class Talking(nn.Linear):
        def forward(self, x):
            print("hello")
            return super().forward(x)

    written = ridge()
    talking = nestor.Problem(
        model := Talking(4, 1),
        L2(model),
        written.train_loss,
        written.val_loss,
        train=written.data.train,
        val=written.data.val,
    )
    done = threading.Event()

    def warn():
        number = 0
        while not done.is_set():
            warnings.warn(f"number {number}", stacklevel=1)
            number += 1
            time.sleep(0.001)
        sent.append(number)

    sent = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        other = threading.Thread(target=warn)
        other.start()
        assert talking.check().ok
        done.set()
        other.join()
    assert len([one for one in heard if str(one.message).startswith("number ")]) == sent[0]
    assert "hello" in capsys.readouterr().out


def test_a_log_level_that_the_user_sets_during_a_check_stays():
    class Setting(nn.Linear):
        def forward(self, x):
            logging.getLogger("torch").setLevel(logging.DEBUG)
            return super().forward(x)

    written = ridge()
    model = Setting(4, 1)
    before = logging.getLogger("torch").level
    try:
        nestor.Problem(
            model, L2(model), written.train_loss, written.val_loss, train=written.data.train, val=written.data.val
        ).check()
        assert logging.getLogger("torch").level == logging.DEBUG
    finally:
        logging.getLogger("torch").setLevel(before)
