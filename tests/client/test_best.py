"""The best value, step, hyperparameters and weights belong to one step, on both backends."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor import Trial
from nestor.errors import CheckpointNotFound, InvalidInput, LossMaximized, MetricUnknown, RankingDiffers
from nestor.local.backend import here
from nestor.schemas import EventType, State, Study, StudyPatch
from tests.client.conftest import QUICK
from tests.client.problems import overfitting, ridge, squared_error

STILL = {"inner": nestor.SGD(1e-12), "inner_steps": 1, "outer": nestor.SGD(1e-12), "show_progress_bar": False}
OVERFIT = {"inner": nestor.Adam(0.1), "inner_steps": 5, "outer": nestor.SGD(1e-12), "show_progress_bar": False}
SAMPLED = {"val_batch_size": 7, "evaluate_every": 2}


def measured(model: nn.Module) -> tuple[float, float]:
    """The loss and the metric of a model on all validation examples, by hand."""
    val = overfitting().data.val
    with torch.no_grad():
        outputs = model(val["x"])
    return F.mse_loss(outputs, val["y"]).item(), -(outputs - val["y"]).abs().mean().item()


@pytest.fixture(scope="module")
def overfit(new_study) -> Trial:
    return new_study().optimize(overfitting(), 11, **OVERFIT, **SAMPLED)


def test_steps_are_compared_by_all_validation_examples_so_that_standing_weights_have_one_value():
    torch.manual_seed(0)
    x, y = torch.randn(5_000, 8), torch.randint(0, 3, (5_000,))
    net, loss = nn.Linear(8, 3), lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
    problem = nestor.Problem(net, nestor.hparams.L2(net), loss, loss, train=(x[:64], y[:64]), val=(x, y))
    trial = nestor.create_study().optimize(problem, 12, **STILL, val_batch_size=100, evaluate_every=3)
    with torch.no_grad():
        right = F.cross_entropy(net(x), y).item()
    assert [step.value for step in trial.steps if step.value is not None] == pytest.approx([right] * 4, rel=1e-5)
    assert trial.best_value == pytest.approx(right, rel=1e-5)
    assert max(abs(step.val_loss - right) for step in trial.steps) > 1e-2  # luck
    assert {step.val_examples for step in trial.steps} == {100}


def test_the_best_value_is_that_of_the_best_weights_and_the_value_that_of_the_last(overfit):
    values = {step.number: step.value for step in overfit.steps if step.value is not None}
    assert list(values) == [2, 4, 6, 8, 10, 11]
    best = min(values, key=lambda number: values[number])
    assert (overfit.best_step, overfit.best_value, overfit.value) == (best, values[best], values[11])
    assert best < 11
    model = nn.Linear(20, 1)
    assert overfit.load_weights(model) == overfit.load_weights(model, step="best") == best
    assert measured(model)[0] == pytest.approx(overfit.best_value, rel=1e-5)
    assert overfit.load_weights(model, step=best) == best
    assert measured(model)[0] == pytest.approx(overfit.best_value, rel=1e-5)
    assert overfit.load_weights(model, step="latest") == overfit.load_weights(model, 11) == 11
    assert measured(model)[0] == pytest.approx(overfit.value, rel=1e-5)
    assert torch.equal(overfit.best_hparams["l2.weight"], overfit.hparams_at(best)["l2.weight"])


def test_an_end_much_worse_than_the_best_step_is_logged_once_in_the_words_of_the_verdict(overfit):
    logged = [event.data for event in overfit.events() if event.type is EventType.log]
    (warning,) = [line["text"] for line in logged if line["level"] == "warning"]
    assert warning == f"{overfit.verdict.sentence} {overfit.verdict.remedy}"
    assert f"After step {overfit.best_step} the result became worse" in warning
    assert f"went from {overfit.best_value:.4g} to {overfit.value:.4g}." in warning


@pytest.mark.parametrize(
    ("step", "error", "sentence"),
    [
        (99, CheckpointNotFound, "has no checkpoint of step 99"),
        ("worst", InvalidInput, 'step=\'worst\': it must be "best", "latest" or the number of a step'),
        (-1, InvalidInput, "step=-1: it must be"),
        (True, InvalidInput, "step=True: it must be"),
        (None, InvalidInput, "step=None: it must be"),
    ],
)
def test_weights_of_other_steps_are_refused(overfit, step, error, sentence):
    with pytest.raises(error, match=sentence):
        overfit.load_weights(nn.Linear(20, 1), step=step)


def test_a_study_ranks_steps_and_trials_by_its_metric_and_direction(new_study):
    study = new_study(metric="closeness", direction="maximize")
    trial = study.optimize(overfitting(), 5, **OVERFIT, **SAMPLED)
    still = study.optimize(overfitting(), 4, **STILL, **SAMPLED)
    for one in (trial, still):
        values = {step.number: step.metrics["closeness"] for step in one.steps if step.value is not None}
        best = max(values, key=lambda number: values[number])
        assert (one.best_step, one.best_value, one.value) == (best, values[best], list(values.values())[-1])
    model = nn.Linear(20, 1)
    trial.load_weights(model)
    assert measured(model)[1] == pytest.approx(trial.best_value, rel=1e-5)
    ranked = sorted((trial, still), key=lambda one: one.best_value)
    assert study.best_trial.number == ranked[-1].number
    shown = study.record
    assert study.best_value == shown.best_value == ranked[-1].best_value
    assert (shown.best_trial, shown.best_trial_id) == (ranked[-1].number, ranked[-1].id)
    assert trial.record.created_at < trial.record.last_activity_at
    assert (study.record.metric, study.record.direction) == ("closeness", "maximize")
    figure: Any = nestor.visualization.plot_optimization_history(study)
    (curve, *_) = figure.to_dict()["data"]
    assert list(curve["y"]) == [step.metrics["closeness"] for step in trial.steps if step.value is not None]


def test_a_metric_that_the_problem_lacks_is_refused_with_those_that_it_has(place):
    study = nestor.create_study(f"study {uuid4()}", server=place, metric="f1", direction="maximize")
    with pytest.raises(MetricUnknown, match="by the metric 'f1', and the metrics of the problem are: 'mae'"):
        study.optimize(ridge(), 2, **QUICK)
    assert study.trials == []


def test_a_study_is_loaded_by_the_ranking_that_it_has(place):
    name = f"study {uuid4()}"
    first = nestor.create_study(name, server=place, metric="f1", direction="maximize")
    same: list[dict[str, Any]] = [{}, {"metric": "f1"}, {"direction": "maximize", "metric": "f1"}]
    for given in same:
        assert nestor.create_study(name, server=place, load_if_exists=True, **given).id == first.id
    others: list[dict[str, Any]] = [{"metric": "auc"}, {"direction": "minimize"}]
    for given in others:
        with pytest.raises(RankingDiffers, match=r"ranks its trials by f1 \(maximize\), and this asks for"):
            nestor.create_study(name, server=place, load_if_exists=True, **given)
    plain = nestor.create_study(f"study {uuid4()}", server=place).record
    assert (plain.metric, plain.direction) == (None, "minimize")


def test_what_ranks_trials_changes_until_the_first_one(place):
    backend, study = place or here, nestor.create_study(f"study {uuid4()}", server=place)

    def patch(**changes: Any) -> tuple[str | None, str]:
        changed = backend.change_study(study.id, StudyPatch(**changes))
        kept = set(StudyPatch.model_fields) & set(Study.model_fields)  # the rest goes on with the trial that runs
        assert changed.model_dump(include=kept) == backend.study(study.id).model_dump(include=kept)
        return changed.metric, changed.direction

    with pytest.raises(LossMaximized, match="only a metric can be maximized"):
        patch(direction="maximize")
    assert patch(metric="mae", direction="maximize") == ("mae", "maximize")
    with pytest.raises(LossMaximized, match="only a metric can be maximized"):
        patch(metric=None)
    assert patch(direction=None, tags=["t"]) == ("mae", "minimize")
    assert patch(metric="f1", direction="maximize") == ("f1", "maximize")
    with pytest.raises(MetricUnknown, match="by the metric 'f1'"):  # also by the handle from before the change
        study.optimize(ridge(), 2, **QUICK)
    assert patch(metric="mae") == ("mae", "maximize")
    study.optimize(ridge(), 2, **QUICK, wait=False)
    others: list[dict[str, Any]] = [{"metric": "f1"}, {"direction": None}, {"metric": None, "direction": "minimize"}]
    for changes in others:
        with pytest.raises(RankingDiffers, match=r"ranks its trials by mae \(maximize\), and this asks for"):
            patch(**changes)
    with pytest.raises(RankingDiffers):  # before it is said that no loss is maximized
        patch(metric=None)
    assert patch(metric="mae", direction="maximize", user_attrs={"k": 1}) == ("mae", "maximize")
    assert (study.user_attrs, study.tags) == ({"k": 1}, ("t",))


def test_a_step_at_which_the_user_stops_the_trial_is_evaluated(new_study):
    study, seen = new_study(), list[int]()

    def stop(study, trial):
        seen.append(trial.last_step.number)
        if trial.last_step.number == 3:
            study.stop()

    trial = study.optimize(ridge(), 100_000, **QUICK, evaluate_every=50_000, callbacks=[stop])
    steps = trial.steps
    assert [step.number for step in steps] == seen == [step.number for step in trial.stream()]
    assert [step.number for step in steps if step.value is not None] == [len(steps)] == [trial.best_step]
    assert (trial.value, trial.best_value) == (steps[-1].value, steps[-1].value)
    assert trial.last_step == steps[-1]
    model, val = nn.Linear(4, 1), ridge().data.val
    assert trial.load_weights(model) == len(steps)
    assert squared_error(model(val["x"]), val).item() == pytest.approx(trial.value, rel=1e-5)


def test_in_this_process_the_step_is_the_one_that_asked_and_is_recorded_again():
    def pause(study, trial):
        if trial.last_step.number == 3:
            trial.pause()

    trial = nestor.create_study().optimize(ridge(), 9, **QUICK, evaluate_every=50, callbacks=[pause])
    assert (trial.state, len(trial.steps)) == (State.paused, 3)
    kinds = [(event.type.value, event.data.get("number", event.data.get("step"))) for event in trial.events()]
    kinds = [kind for kind in kinds if kind[0] in ("step", "rewind")]
    assert kinds == [("step", 1), ("step", 2), ("step", 3), ("rewind", 2), ("step", 3)]
    whole = nestor.create_study().optimize(ridge(), 9, **QUICK, evaluate_every=3)
    trial.resume().wait()
    assert [step.val_loss for step in trial.steps] == [step.val_loss for step in whole.steps]
    values = [step.value for step in whole.steps]
    assert [step.value for step in trial.steps] == [None, None, values[2], *[None] * 5, values[8]]


def test_a_canceled_trial_is_not_evaluated():
    def cancel(study, trial):
        if trial.last_step.number == 3:
            trial.cancel()

    trial = nestor.create_study().optimize(ridge(), 9, **QUICK, evaluate_every=50, callbacks=[cancel])
    assert trial.state is State.cancelled
    assert (trial.value, trial.best_step, trial.best_value) == (None, None, None)
    with pytest.raises(CheckpointNotFound, match="has no checkpoint of a best step: none was evaluated yet"):
        trial.load_weights(nn.Linear(4, 1))
    assert trial.load_weights(nn.Linear(4, 1), step="latest") == 3


def test_a_trial_starts_from_the_best_step_of_another(new_study, overfit):
    study, model = new_study(), nn.Linear(20, 1)
    start = nestor.WarmStart(trial=overfit.id, step="best")
    trial = study.optimize(overfitting(), 1, **STILL, warm_start=start)
    assert trial.spec.warm_start == nestor.WarmStart(trial=overfit.id, step=overfit.best_step)
    trial.load_weights(model)
    assert measured(model)[0] == pytest.approx(overfit.best_value, rel=1e-5)
    alone = nestor.WarmStart(trial=overfit.id, step="best", weights=False)
    assert study.optimize(overfitting(), 1, **STILL, warm_start=alone).spec.warm_start.step == overfit.best_step
