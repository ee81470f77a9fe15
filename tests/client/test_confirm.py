"""What a trial reports is beside what its best hyperparameters reach from the first initialization."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from nestor import Problem, Study, Trial
from nestor.errors import NotFinished, NothingToConfirm, NothingTuned, OptionInvalid, TrialFailed
from nestor.hparams import L2, ExampleWeights, LabelCorrection
from nestor.local.backend import here
from nestor.schemas import Confirm, State
from tests.client.conftest import QUICK
from tests.client.problems import ridge

N_TRAIN, N_VAL, STEPS, INNER_STEPS = 30, 20, 6, 4
INNER = nestor.Adam(0.03)
TUNED: dict[str, Any] = {
    "inner": INNER,
    "inner_steps": INNER_STEPS,
    "batch_size": 8,
    "outer": nestor.Adam(0.3),
    "evaluate_every": 2,
    "seed": 5,
    "show_progress_bar": False,
}
Split = tuple[Tensor, Tensor]


def errors(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs - batch["y"]).square().mean(1)


def splits() -> tuple[Split, Split, Split]:
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    truth = draw(6, 1)

    def split(n: int, noise: float) -> Split:
        x = draw(n, 6)
        return x, x @ truth + noise * draw(n, 1)

    return split(N_TRAIN, 2.0), split(N_VAL, 0.1), split(200, 0.1)


def weighted(train: Split | None = None) -> Problem:
    """Noisy training data with a weight for each example."""
    torch.manual_seed(1)
    given, val, test = splits()
    train = train or given
    model = nn.Linear(6, 1)
    kinds = [L2(model, per="tensor", init=-4.0), ExampleWeights(len(train[0]))]
    metrics = {"mae": lambda outputs, batch: (outputs - batch["y"]).abs().mean()}
    return Problem(model, kinds, errors, errors, metrics=metrics, train=train, val=val, test=test)


@pytest.fixture(scope="module")
def study(new_study) -> Study:
    return new_study(metric="mae", direction="minimize")


@pytest.fixture(scope="module")
def tuned(study) -> Trial:
    return study.optimize(weighted(), STEPS, **TUNED)


def plainly_trained(trial: Trial, problem: Problem, hparams: dict[str, Tensor], seed: int) -> Any:
    """Training by `nestor.fit`, from the first initialization, on the problem's training data."""
    steps = INNER_STEPS * (trial.best_step or 0)
    fit: dict[str, Any] = {"n_steps": steps, "inner": INNER, "batch_size": TUNED["batch_size"], "seed": seed}
    return nestor.fit(problem.bilevel(), problem.data.train, hparams=hparams, **fit)


def judged(problem: Problem, fitted: Any, hparams: dict[str, Tensor], split: str) -> dict[str, float]:
    return nestor.evaluate(problem.bilevel(), fitted.params, fitted.buffers, hparams, problem.data.splits[split])


def test_trainings_are_those_of_fit_under_the_best_hyperparameters(tuned):
    assert tuned.best_step is not None
    found = tuned.confirm(seeds=1)
    alone, together = found.runs
    assert [(run.on, run.seed, run.state) for run in found.runs] == [
        ("train", 6, State.complete),
        ("train+val", 6, State.complete),
    ]
    assert (found.trial, found.step, found.tuned.value) == (tuned.id, tuned.best_step, tuned.best_value)
    raw = {name: torch.from_numpy(values) for name, values in tuned.best_hparams.numpy().items()}

    fitted = plainly_trained(tuned, weighted(), raw, seed=6)
    assert alone.value == pytest.approx(judged(weighted(), fitted, raw, "val")["mae"], rel=1e-5)
    on_test = judged(weighted(), fitted, raw, "test")
    assert alone.test_loss == pytest.approx(on_test["loss"], rel=1e-5)
    assert alone.test_metrics["mae"] == pytest.approx(on_test["mae"], rel=1e-5)

    # Validation examples train, too, with the largest weight of a training example, and judge no longer.
    train, val, _ = splits()
    both = weighted((torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])))
    weights = raw["example_weights"]
    wider = raw | {"example_weights": torch.cat([weights, weights.max().expand(N_VAL)])}
    fitted = plainly_trained(tuned, both, wider, seed=6)
    assert together.value is None
    assert together.test_loss == pytest.approx(judged(both, fitted, wider, "test")["loss"], rel=1e-5)


def test_trainings_are_trials_that_tune_nothing_and_are_not_ranked(study, tuned):
    tuned.confirm(seeds=1)
    runs = [study.trial(run.number) for run in tuned.confirmation.runs]
    for run in runs:
        assert run.record.spec.response == nestor.Frozen()
        assert run.record.n_steps == tuned.best_step
        assert run.verdict is not None
        alone = run.record.spec.train_on == "train"
        expected = ("yes", "frozen") if alone else ("with care", "validation_trained")
        assert (run.verdict.answer, run.verdict.code) == expected
        for name, values in tuned.best_hparams.numpy().items():
            assert (run.hparams.numpy()[name] == values).all()
    assert study.best_trial.id == tuned.id
    assert study.best_value == study.record.best_value == tuned.best_value
    with pytest.raises(NothingTuned, match=r"trained under fixed hyperparameters"):
        runs[0].confirm()


def test_trainings_that_exist_are_not_repeated(study, tuned):
    first = tuned.confirm(seeds=1)
    assert tuned.confirm(seeds=1) == tuned.confirmation == first
    start = nestor.WarmStart(trial=tuned.id, step="best", weights=False)
    own = TUNED | {"response": nestor.Frozen(), "warm_start": start, "seed": 6}
    study.optimize(weighted(), 1, **own)  # a training of the user's own
    assert tuned.confirmation == first
    more = tuned.confirm(2, "train")
    assert {run.trial for run in first.runs} < {run.trial for run in more.runs}
    assert [(run.on, run.seed) for run in more.runs] == [("train", 6), ("train+val", 6), ("train", 7)]
    assert len(more.numbers("train")["value"]) == 2
    assert more.std("train")["value"] > 0
    assert "± " in str(more)


def until_finished(trial: Trial) -> list[State]:
    """The states of a trial's trainings once no more of them runs."""
    for _ in range(1200):
        states = [run.state for run in trial.confirmation.runs]
        if all(state.finished for state in states):
            return states
        time.sleep(0.05)
    raise AssertionError(states)


def test_trainings_that_nobody_waits_for_run_by_themselves(new_study):
    trial = new_study().optimize(ridge(), 3, **QUICK)
    found = trial.confirm(seeds=2, on="train", wait=False)
    assert [(run.on, run.seed) for run in found.runs] == [("train", 1), ("train", 2)]
    assert until_finished(trial) == [State.complete] * 2
    assert trial.confirm(seeds=2, on="train", wait=False) == trial.confirm(2, "train") == trial.confirmation


def test_in_this_process_the_call_returns_while_the_trainings_run():
    opened = threading.Event()
    opened.set()

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        assert opened.wait(60)
        return errors(outputs, batch)

    train, val, _ = splits()
    model = nn.Linear(6, 1)
    trial = nestor.create_study().optimize(Problem(model, L2(model), loss, loss, train=train, val=val), 2, **TUNED)
    opened.clear()
    found = trial.confirm(seeds=1, wait=False)
    assert len(found.runs) == 2
    assert not any(run.state.finished for run in found.runs)
    again = trial.confirm(seeds=1, wait=False)  # each has its one thread already
    assert [run.trial for run in again.runs] == [run.trial for run in found.runs]
    opened.set()
    assert until_finished(trial) == [State.complete] * 2
    attempts = [nestor.get_trial(run.trial).attempts for run in found.runs]
    assert [len(each) for each in attempts] == [1, 1]


def test_a_training_that_was_left_waiting_runs_when_it_is_asked_for_again():
    trial = nestor.create_study().optimize(ridge(), 2, **QUICK)
    here.confirm(trial.id, Confirm(seeds=1), watched=True)  # as a call that was interrupted before it read any event
    assert {run.state for run in trial.confirmation.runs} == {State.queued}
    trial.confirm(seeds=1, wait=False)
    assert until_finished(trial) == [State.complete] * 2


def test_a_flattering_number_is_told_from_a_real_one():
    """Weights that were warm-started know the validation data, and their last hyperparameters alone do not."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 40, generator=generator), torch.randint(0, 2, (24,), generator=generator)  # nothing to learn
    torch.manual_seed(0)
    model = nn.Linear(40, 2)
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    problem = Problem(
        model,
        L2(model, per="weight", init=-2.0).with_prior(0),
        loss,
        loss,
        train=(x[:12], y[:12]),
        val=(x[12:], y[12:]),
    )
    whole: dict[str, Any] = TUNED | {"batch_size": 12, "evaluate_every": 10}
    trial = nestor.create_study().optimize(problem, 100, **whole)
    found = trial.confirm(seeds=2, on="train")
    assert found.tuned.value is not None
    assert found.mean("train")["value"] > 2 * found.tuned.value


def test_only_a_finished_trial_with_a_best_step_is_confirmed():
    trial = nestor.create_study().optimize(ridge(), 10**6, **QUICK, evaluate_every=10**6, wait=False)
    with pytest.raises(NotFinished, match=r"is (running|queued), so that its best step may change"):
        trial.confirm()
    trial.cancel().wait()
    with pytest.raises(NothingToConfirm, match=r"none of its steps was evaluated"):
        trial.confirm()


def test_examples_without_a_weight_of_their_own_cannot_train_and_the_error_says_what_can():
    train, val, test = splits()
    labels = [(y > 0).long().squeeze(1) for _, y in (train, val, test)]
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    data: dict[str, Any] = {
        name: (x, y) for name, (x, _), y in zip(("train", "val", "test"), (train, val, test), labels, strict=True)
    }
    problem = Problem(model, LabelCorrection(labels[0], 2), loss, loss, **data)
    trial = nestor.create_study().optimize(problem, 2, **TUNED)
    assert trial.confirm(seeds=1, on="train").runs[0].state is State.complete
    with pytest.raises(TrialFailed, match=r'label_correction.*on="train"'):
        trial.confirm(seeds=2, on=("train+val", "train"))
    # The first failure did not keep the others from running.
    ended = {(run.on, run.seed): run.state for run in trial.confirmation.runs}
    assert ended == {
        ("train", 6): State.complete,
        ("train", 7): State.complete,
        ("train+val", 6): State.failed,
        ("train+val", 7): State.failed,
    }


@pytest.mark.parametrize(
    "wrong", [{"seeds": 0}, {"seeds": "3"}, {"seeds": True}, {"on": "val"}, {"on": ()}, {"on": 3}, {"wait": 0}], ids=str
)
def test_a_wrong_request_is_refused(wrong):
    trial = nestor.create_study().optimize(ridge(), 1, **QUICK)
    with pytest.raises(nestor.errors.InvalidInput):
        trial.confirm(**wrong)


def test_validation_examples_train_only_under_fixed_hyperparameters():
    with pytest.raises(OptionInvalid, match=r"steer the hyperparameters.*response=Frozen\(\)"):
        nestor.Config(n_steps=1, train_on="train+val")
    frozen = nestor.Config(n_steps=2, train_on="train+val", response=nestor.Frozen())
    trial = nestor.create_study().optimize(ridge(), config=frozen, show_progress_bar=False)
    assert [step.hypergradient_norm for step in trial.steps] == [0.0, 0.0]
    assert (trial.hparams.numpy()["l2.weight"] == trial.hparams_at(0).numpy()["l2.weight"]).all()
    assert Confirm().seeds == 3
