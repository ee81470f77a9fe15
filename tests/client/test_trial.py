"""Trials from submission to result, on both backends."""

from __future__ import annotations

import importlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import torch

import nestor
from nestor.errors import (
    ArgumentInvalid,
    CallbacksWithoutWait,
    CheckpointNotFound,
    ChoiceUnknown,
    EntriesNotRecorded,
    EntryUnknown,
    HyperparametersNotFound,
    HyperparameterUnknown,
    IllegalTransition,
    InvalidInput,
    OptionOutOfRange,
    OptionTypeWrong,
    TooManyEntries,
    TrialFailed,
)
from nestor.schemas import State, TensorSummary
from nestor_engine import optimize
from tests.client.conftest import N_STEPS, QUICK, Finished
from tests.client.problems import ridge, squared_error

ENDLESS = {**QUICK, "n_steps": 100_000, "wait": False}


@pytest.fixture
def trial(finished: Finished) -> nestor.Trial:
    return finished.trial


def test_each_step_is_seen_by_callbacks_recorded_and_streamed_once(finished, trial):
    steps = trial.steps
    assert [step.number for step in steps] == finished.called_with == list(range(1, N_STEPS + 1))
    assert list(trial.stream()) == list(trial.stream()) == steps
    assert list(trial.stream(after=9)) == steps[9:]
    assert [step.number for step in steps if step.test_loss is not None] == [5, 10, 12]
    assert all(step.val_metrics["mae"] > 0 for step in steps)


def test_a_finished_trial_says_how_it_went(finished, trial):
    assert trial.state is State.complete
    assert trial.error is None
    assert trial.user_attrs == {"k": [1]}
    values = {step.number: step.value for step in trial.steps if step.value is not None}
    assert list(values) == [5, 10, 12]
    assert trial.value == values[12] == trial.last_step.value
    assert trial.best_value == min(values.values()) == values[trial.best_step]
    assert trial.spec.n_steps == N_STEPS
    assert trial.spec.inner.lr == 0.05
    assert finished.study.best_trial.id == trial.id
    assert finished.study.best_value == trial.best_value
    assert finished.study.record.trial_counts == {"complete": 1}
    assert "complete" in trial._repr_html_()


def test_all_that_happens_is_recorded_in_its_order_with_who_and_why(trial):
    events = list(trial.events())
    expected: list[tuple[str, Any]] = [("state", "queued"), ("state", "running"), ("snapshot", 0), ("log", 0)]
    for step in trial.steps:
        expected += [("step", step.number), ("snapshot", step.number), *[("log", step.number)] * len(step.warnings)]
    expected += [("state", "complete"), ("end", "complete")]
    about = {"state": "state", "end": "state", "step": "number", "snapshot": "step", "log": "step"}
    assert [(event.type.value, event.data[about[event.type]]) for event in events] == expected
    assert [event.seq for event in events[:-1]] == list(range(1, len(events)))
    assert all(("at" in event.data) == (event.type not in ("step", "end")) for event in events)

    submitted, claimed, completed = (event.data for event in events if event.type == "state")
    assert (submitted["why"], submitted["by"].split()[0]) == ("submitted", "user")
    assert (claimed["why"], claimed["attempt"]) == ("a worker is free", 1)
    assert (completed["why"], completed["by"]) == (f"all {N_STEPS} steps are taken", claimed["by"])
    begun = events[3].data
    assert begun["level"] == "info"
    assert begun["text"].startswith("runs on ")
    assert begun["text"].endswith(", from the beginning")
    (attempt,) = trial.attempts
    assert (attempt.worker, attempt.state, attempt.why) == (claimed["by"], State.complete, completed["why"])


def test_a_trial_says_what_can_be_asked_of_it(new_study, trial):
    assert trial.allowed_actions == ("extend",)
    running = new_study().optimize(ridge(), **ENDLESS)
    next(running.stream())
    assert running.allowed_actions == ("stop", "cancel", "pause", "prune")
    running.cancel()
    assert running.wait().allowed_actions == ()


def test_a_bar_shows_where_a_trial_stands(trial, capfd):
    trial.wait(show_progress_bar=True)
    shown = capfd.readouterr().err
    assert f"{N_STEPS}/{N_STEPS}" in shown
    assert f"val {trial.last_step.val_loss:.4g}, mae " in shown
    assert f"all val {trial.value:.4g}" in shown
    assert "|hypergradient| " in shown


def test_hyperparameters_come_as_tensors(finished, trial):
    assert set(trial.hparams) == {"l2.weight", "l2.bias"}
    assert trial.hparams["l2.weight"].shape == (1, 4)
    assert trial.hparams["l2"].keys() == {"l2.weight", "l2.bias"}
    assert trial.hparams.numpy()["l2.bias"].tolist() == trial.hparams["l2.bias"].tolist()
    assert torch.equal(trial.hparams.transformed["l2.weight"], trial.hparams["l2.weight"].exp())
    assert torch.equal(finished.study.best_hparams["l2.bias"], trial.hparams_at(trial.best_step)["l2.bias"])
    with pytest.raises(KeyError, match="There is no hyperparameter 'l1'"):
        trial.hparams["l1"]


def test_hyperparameters_of_every_step_are_kept(trial):
    assert trial.hparams_steps == tuple(range(N_STEPS + 1))
    assert torch.equal(trial.hparams_at(0)["l2.weight"], torch.full((1, 4), -2.0))
    assert torch.equal(trial.hparams_at(N_STEPS)["l2.weight"], trial.hparams["l2.weight"])
    assert not torch.equal(trial.hparams_at(1)["l2.weight"], trial.hparams_at(2)["l2.weight"])
    with pytest.raises(HyperparametersNotFound, match="of step 99"):
        trial.hparams_at(99)


def test_trained_weights_come_back_into_the_model(trial):
    problem, other = ridge(), torch.nn.Linear(4, 1)
    assert trial.load_weights(other, step="latest") == N_STEPS
    test, last = problem.data.test, trial.last_step
    assert test is not None
    assert last is not None
    assert squared_error(other(test["x"]), {"y": test["y"]}).item() == pytest.approx(last.test_loss, rel=1e-5)
    with pytest.raises(InvalidInput, match=r"'weight' has the shape \(1, 4\), and in the model it has \(1, 5\)"):
        trial.load_weights(torch.nn.Linear(5, 1))


def test_both_places_compute_what_the_engine_computes(trial):
    problem, options = ridge(), {name: value for name, value in QUICK.items() if name != "show_progress_bar"}
    config = nestor.Config(n_steps=N_STEPS, **options)
    expected = [step.val_loss for step in optimize(problem.bilevel(), problem.data, config)]
    assert [step.val_loss for step in trial.steps] == pytest.approx(expected, rel=1e-5)


def test_trials_come_as_a_frame(finished, trial):
    frame = finished.study.trials_dataframe()
    assert frame[["number", "state", "step", "user_attrs_k"]].values.tolist() == [[0, "complete", N_STEPS, [1]]]
    assert frame["best_value"][0] == trial.best_value
    assert frame["duration"][0] == trial.record.finished_at - trial.record.started_at


def test_hyperparameters_come_as_a_frame_of_quantiles(trial):
    spread = trial.trajectory("l2")
    assert list(spread.index) == list(range(N_STEPS + 1))
    assert (spread["count"] == 5).all()
    assert (spread["5%"] <= spread["50%"]).all()
    assert spread.loc[0, ["min", "max", "std"]].tolist() == [-2.0, -2.0, 0.0]
    assert "50%" not in trial.trajectory("l2.bias", quantiles=False)


def test_entries_that_stand_out_are_those_of_the_hyperparameters(trial):
    start, last = (trial.hparams_at(step).numpy()["l2.weight"].flatten() for step in (0, N_STEPS))
    top = trial.top("l2.weight", k=3)
    order = np.argsort(-abs(last.astype(float) - start), kind="stable")[:3]
    assert top.index.tolist() == order.tolist()
    assert top["name"].tolist() == [f"weight, row 0, column {i}" for i in order]
    assert top["value"].tolist() == last[order].tolist()
    assert top["used"].to_numpy() == pytest.approx(np.exp(last[order]))
    assert top["change"].to_numpy() == pytest.approx(last[order] - start[order], rel=1e-6)
    assert trial.top("l2.weight", by="highest", k=1).index[0] == last.argmax()
    assert trial.top("l2.weight", by="lowest", k=1).index[0] == last.argmin()
    by_gradient = trial.top("l2.weight", by="gradient")["gradient"].abs()
    assert len(by_gradient) == last.size
    assert by_gradient.is_monotonic_decreasing
    norm = trial.last_step.hyperparameters["l2.weight"].gradient_norm
    assert float((by_gradient**2).sum() ** 0.5) == pytest.approx(norm, rel=1e-6)
    assert trial.top("l2.bias", step=3)["value"].tolist() == trial.hparams_at(3).numpy()["l2.bias"].flatten().tolist()


def test_the_course_of_entries_comes_as_a_frame(trial):
    course = trial.values_of("l2.weight", [3, (0, 1)])
    assert list(course.index) == list(range(N_STEPS + 1))
    assert list(course.columns) == ["weight, row 0, column 3", "weight, row 0, column 1"]
    for step in (0, 5, N_STEPS):
        expected = trial.hparams_at(step).numpy()["l2.weight"][0, [3, 1]]
        assert course.loc[step].tolist() == expected.tolist()
    used = trial.values_of("l2.bias", 0, form="used")
    assert used.to_numpy() == pytest.approx(np.exp(trial.values_of("l2.bias", 0).to_numpy()))


def test_an_entry_is_named_by_its_index_or_its_position(trial):
    third = trial.values_of("l2.weight", 3)
    assert list(third.columns) == ["weight, row 0, column 3"]
    for one in (
        np.int64(3),
        [3],
        np.array([3]),
        (0, 3),
        [(0, 3)],
        [[0, 3]],
        np.array([[0, 3]]),
        np.array(3),
        (np.int64(0), 3),
        iter([3]),
    ):
        pd.testing.assert_frame_equal(trial.values_of("l2.weight", one), third)
    several = ([0, 2], (0, 2), np.array([0, 2]), range(0, 3, 2))
    columns = [list(trial.values_of("l2.weight", one).columns) for one in several]
    assert columns[0] == columns[2] == columns[3] == ["weight, row 0, column 0", "weight, row 0, column 2"]
    assert columns[1] == ["weight, row 0, column 2"]  # a tuple is one position


def test_entries_that_do_not_exist_are_refused_alike(trial):
    for unknown in (trial.top, trial.hparam_summary, lambda name: trial.values_of(name, 0)):
        with pytest.raises(HyperparameterUnknown, match=r"no hyperparameter 'l3'; it has 'l2\.weight', 'l2\.bias'"):
            unknown("l3")
    for missing in (trial.hparams_at, lambda step: trial.top("l2.weight", step=step)):
        with pytest.raises(HyperparametersNotFound, match=r"of step 99 \(stored: 0, 1, 2") as caught:
            missing(99)
        assert type(caught.value) is HyperparametersNotFound
    with pytest.raises(EntriesNotRecorded, match=r"Step 0 has no record of .* 'l2\.weight' by gradient"):
        trial.top("l2.weight", by="gradient", step=0)
    for index in (4, -1, (1, 0), (0, 0, 0)):
        with pytest.raises(EntryUnknown, match="the flat indices 0 to 3"):
            trial.values_of("l2.weight", [index])
    for index in ("a", "3", 3.5, [3.5], [17.0], [True], [(0, 1.0)], [[0, [1]]], None):
        with pytest.raises(OptionTypeWrong, match=r"index=.*: it must be a whole number"):
            trial.values_of("l2.weight", index)
    with pytest.raises(TooManyEntries, match="101 entries"):
        trial.values_of("l2.weight", [0] * 101)
    with pytest.raises(ChoiceUnknown, match="by='size'"):
        trial.top("l2.weight", by="size")
    with pytest.raises(ChoiceUnknown, match="form='raw'"):
        trial.values_of("l2.weight", 0, form="raw")
    for k in (0, 33):
        with pytest.raises(OptionOutOfRange, match="it must be a whole number from 1 to 32"):
            trial.top("l2.weight", k=k)


def test_the_course_of_a_hyperparameter_is_summarized_without_its_entries(trial):
    found = trial.hparam_summary("l2.weight")
    assert (found.shape, found.dtype, found.transform, found.least) == ((1, 4), "float32", "exp", None)
    assert found.columns["number"] == list(range(1, N_STEPS + 1))
    for name in TensorSummary.model_fields:
        assert found.columns[name] == [getattr(step.hyperparameters["l2.weight"], name) for step in trial.steps]
    assert found.distributions.number == list(range(N_STEPS + 1))
    for step, quantiles, counts in zip(
        found.distributions.number, found.distributions.quantiles, found.distributions.counts, strict=True
    ):
        entries = trial.hparams_at(step).numpy()["l2.weight"].astype(np.float64)
        assert quantiles == pytest.approx(np.quantile(entries, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]), rel=1e-12)
        assert sum(counts) == 4
    *_, median = curves(nestor.visualization.plot_hyperparameter_bands(trial, "l2.weight"))
    assert list(median["y"]) == pytest.approx(trial.trajectory("l2.weight")["50%"].tolist(), rel=1e-12)


def test_the_course_of_a_single_entry_has_no_distributions(trial):
    found = trial.hparam_summary("l2.bias", max_points=100)
    assert found.columns["min"] == found.columns["max"] == found.columns["mean"]
    assert found.distributions.number == []


def test_the_course_of_an_unknown_hyperparameter_is_refused(trial):
    with pytest.raises(HyperparameterUnknown, match=r"no hyperparameter 'l2'; it has 'l2\.weight', 'l2\.bias'"):
        trial.hparam_summary("l2")
    with pytest.raises(OptionOutOfRange, match=r"max_points=5: it must be a whole number from 29 to 10,000"):
        trial.hparam_summary("l2.weight", max_points=5)


def test_figures_show_what_was_recorded(finished, trial):
    curve, best = curves(nestor.visualization.plot_optimization_history(finished.study))
    assert list(curve["y"]) == [step.value for step in trial.steps if step.value is not None]
    assert list(best["y"]) == [trial.best_value]
    names = {curve["name"] for curve in curves(nestor.visualization.plot_trial(trial))}
    losses = {"training", "validation batch", "validation", "test"}
    assert losses | {"validation batch mae", "validation mae", "test mae", "hypergradient norm"} <= names
    *_, median = curves(nestor.visualization.plot_hyperparameter_bands(trial, "l2"))
    assert list(median["y"]) == trial.trajectory("l2")["50%"].tolist()


def curves(figure) -> list[dict]:
    return figure.to_dict()["data"]


def test_what_cannot_be_done_is_refused(trial):
    with pytest.raises(IllegalTransition, match="A trial that is complete cannot pause"):
        trial.pause()
    assert trial.stop().state is State.complete


@pytest.fixture(scope="module")
def three_steps() -> list[float]:
    """The validation losses of the first three steps, and the test loss after them."""
    problem, options = ridge(), {name: value for name, value in QUICK.items() if name != "show_progress_bar"}
    steps = list(optimize(problem.bilevel(), problem.data, nestor.Config(n_steps=3, **options)))
    assert steps[-1].test_loss is not None
    return [*(step.val_loss for step in steps), steps[-1].test_loss]


def stop_study(study: nestor.Study, trial: nestor.Trial) -> None:
    study.stop()


def stop_trial(study: nestor.Study, trial: nestor.Trial) -> None:
    trial.stop()


def return_prune(study: nestor.Study, trial: nestor.Trial) -> object:
    return nestor.PRUNE


def raise_pruned(study: nestor.Study, trial: nestor.Trial) -> None:
    from optuna import TrialPruned

    raise TrialPruned("it will not be the best")


def ended_by(study: nestor.Study, ask: Any, n_steps: int) -> nestor.Trial:
    """A trial whose callback asks for an end at step 3, and is called for no other step after it."""
    seen = list[int]()

    def watch(study: nestor.Study, trial: nestor.Trial) -> object:
        assert trial.last_step is not None
        seen.append(trial.last_step.number)
        return ask(study, trial) if trial.last_step.number == 3 else None

    trial = study.optimize(ridge(), n_steps, **QUICK, callbacks=[watch])
    assert seen == [step.number for step in trial.steps] == [1, 2, 3]
    assert trial.last_step is not None
    assert (trial.record.step, trial.last_step.number, trial.hparams_steps) == (3, 3, (0, 1, 2, 3))
    assert trial.allowed_actions == ("extend",)
    return trial


@pytest.mark.parametrize(
    ("ask", "n_steps", "state", "why"),
    [
        (stop_study, 100_000, State.complete, "stopped early, as was asked for"),
        # On a server, all steps are taken before the callback sees the third.
        (raise_pruned, 12, State.pruned, "pruned, as was asked for"),
    ],
)
def test_a_trial_ends_after_the_step_at_which_a_callback_asked_for_it(new_study, three_steps, ask, n_steps, state, why):
    study = new_study()
    trial = ended_by(study, ask, n_steps)
    assert (trial.state, trial.attempts[-1].why) == (state, why)
    # Its results are those of a trial of three steps.
    assert [step.val_loss for step in trial.steps] == pytest.approx(three_steps[:3], rel=1e-5)
    model, test = torch.nn.Linear(4, 1), ridge().data.test
    assert trial.load_weights(model) == 3
    assert test is not None
    assert squared_error(model(test["x"]), {"y": test["y"]}).item() == pytest.approx(three_steps[3], rel=1e-5)
    assert study.best_trial.id == trial.id


@pytest.mark.parametrize("ask", [stop_trial, return_prune], ids=["stop", "prune"])
@pytest.mark.parametrize("n_steps", [3, 12])
def test_a_trial_of_this_process_ends_after_the_step_of_its_callback_and_is_extended(ask, n_steps):
    trial = ended_by(nestor.create_study(), ask, n_steps)
    assert trial.state is (State.complete if ask is stop_trial else State.pruned)
    assert trial.extend(2).wait().record.step == 5


def test_a_trial_ends_when_its_time_is_up_and_a_pause_uses_none_of_it(new_study):
    began = time.monotonic()
    trial = new_study().optimize(ridge(), **ENDLESS, trace=False, timeout=2.0)
    next(trial.stream())
    trial.pause()
    assert any(event.type == "state" and event.data["state"] == "paused" for event in trial.events())
    paused, record = time.monotonic(), trial.record
    assert 0 < record.seconds < 2.0
    time.sleep(0.5)
    pause = time.monotonic() - paused
    ended = trial.resume().wait().record
    assert 1.95 < ended.seconds < time.monotonic() - began - pause
    assert (ended.state, ended.step) == (State.complete, trial.steps[-1].number)
    assert record.step < ended.step < 100_000
    assert [attempt.why for attempt in trial.attempts] == ["paused, as was asked for", "its time is up"]
    extended = trial.extend(2).wait().record
    assert (extended.step, extended.spec.timeout) == (ended.step + 2, None)


def test_a_time_that_cannot_be_is_refused(new_study):
    for timeout in (0, -1.0, float("nan"), "1h"):
        with pytest.raises(InvalidInput, match="timeout="):
            new_study().optimize(ridge(), 1, **QUICK, timeout=timeout)


def test_attributes_and_tags_of_a_trial_are_set_at_any_time(new_study):
    study = new_study()
    trial = study.optimize(ridge(), 1, **QUICK, user_attrs={"a": 1, "b": {"x": 1}}, tags=["first"])
    other = study.get_trial(trial.id)
    trial.set_user_attr("test f1", 0.91)
    other.set_user_attr("b", {"y": None})
    other.set_user_attr("c", None)
    trial.set_tags(["second", "third"])
    expected = {"a": 1, "b": {"y": None}, "c": None, "test f1": 0.91}
    assert trial.user_attrs == other.user_attrs == study.trial(0).user_attrs == expected
    assert other.tags == trial.tags == ("second", "third")
    assert trial.spec.tags == ("first",)
    assert study.trials_dataframe()["user_attrs_test f1"].tolist() == [0.91]
    for wrong in (
        lambda: trial.set_user_attr("d", {1}),
        lambda: trial.set_user_attr(1, 1),
        lambda: trial.set_tags("x"),
    ):
        with pytest.raises(InvalidInput):
            wrong()
    assert other.user_attrs == expected


def test_an_exception_in_a_callback_ends_the_watching_and_says_what_became_of_the_trial(new_study):
    study = new_study()

    def fail(study, trial):
        raise ValueError("a mistake of the user's")

    with pytest.raises(ValueError, match="a mistake of the user's") as caught:
        study.optimize(ridge(), 100_000, **QUICK, callbacks=[fail])
    assert "trial 0" in caught.value.__notes__[0].lower()
    (trial,) = study.trials
    assert not trial.state.finished
    trial.cancel()
    assert trial.wait().state is State.cancelled
    assert trial.steps


def test_a_paused_trial_goes_on_where_it_was(new_study):
    trial = new_study().optimize(ridge(), **ENDLESS)
    next(trial.stream())
    trial.pause()
    events = trial.events()
    assert any(event.type == "state" and event.data["state"] == "paused" for event in events)
    reached = trial.record.step
    assert trial.state is State.paused

    trial.resume()
    later = trial.stream(after=reached)
    assert next(later).number == reached + 1
    trial.stop().stop()
    assert trial.wait().state is State.complete


def test_an_extended_trial_is_the_one_that_was_given_all_its_steps_at_once(new_study):
    study = new_study()
    scheduled = {**QUICK, "evaluate_every": 3}
    at_once = study.optimize(ridge(), 6, **scheduled)
    in_two = study.optimize(ridge(), 3, **scheduled)
    assert in_two.extend(3).state is not State.complete
    assert in_two.wait().record.n_steps == 6
    assert [step.val_loss for step in in_two.steps] == [step.val_loss for step in at_once.steps]
    assert torch.equal(in_two.hparams["l2.weight"], at_once.hparams["l2.weight"])
    assert [(attempt.number, attempt.state) for attempt in in_two.attempts] == [
        (1, State.complete), (2, State.complete)
    ]  # fmt: skip


def test_a_trial_that_was_stopped_early_is_extended_from_the_step_that_it_reached(new_study):
    trial = new_study().optimize(ridge(), **ENDLESS)
    next(trial.stream())
    reached = trial.stop().wait().record.step
    assert trial.extend(2).wait().record.step == reached + 2


def test_early_stopping_ends_a_trial_and_steps_that_are_asked_for_are_taken_all_the_same(new_study):
    trial = new_study().optimize(ridge(), 500, **QUICK, early_stopping=nestor.EarlyStopping(patience=1), wait=False)
    ended = trial.wait().record
    assert (ended.state, trial.steps[-1].number) == (State.complete, ended.step)
    losses = [step.held_out_loss for step in trial.steps]
    assert (ended.best_value, ended.best_step) == (min(losses), ended.step - 1)
    assert torch.equal(trial.best_hparams["l2.weight"], trial.hparams_at(ended.best_step)["l2.weight"])
    extended = trial.extend(4).wait().record
    assert (extended.step, extended.spec.early_stopping.min_steps) == (ended.step + 4, ended.step + 4)


def test_folds_take_turns_and_exchange_no_examples_that_have_entries_of_their_own(new_study):
    study = new_study()
    trial = study.optimize(ridge(), 4, **QUICK, folds=nestor.Folds(3))
    assert (trial.spec.folds.count, len(trial.steps)) == (3, 4)
    problem = ridge(per_example=True)
    with pytest.raises(InvalidInput, match="an entry for each training example"):
        study.optimize(problem, 4, **QUICK, folds=nestor.Folds(3))


def test_the_next_trial_of_a_program_need_not_trace_its_products_again(client, worker):
    del worker
    study = nestor.create_study(f"study {uuid4()}", server=client)
    first = study.optimize(ridge(), 3, **QUICK, trace=True)
    again = study.optimize(ridge(), 3, **QUICK)  # which alone would be too short for a trace to pay
    assert [step.traced for step in (*first.steps, *again.steps)] == [True] * 6
    assert [step.val_loss for step in again.steps] == [step.val_loss for step in first.steps]


def test_a_priority_is_kept_and_changed(new_study):
    trial = new_study().optimize(ridge(), 1, **QUICK, priority=-1)
    assert (trial.record.priority, trial.spec.priority) == (-1, -1)
    assert trial.prioritize(-2).record.priority == -2
    with pytest.raises(InvalidInput, match="priority=-1001: it must be at least -1000 and at most 1000"):
        trial.prioritize(-1001)


def test_a_failed_trial_is_retried_and_fails_again_for_the_same_reason(new_study):
    diverging = {"inner": nestor.SGD(1e8), "inner_steps": 20}
    trial = new_study().optimize(ridge(), 50, **diverging, show_progress_bar=False, wait=False)
    with pytest.raises(TrialFailed):
        trial.wait()
    assert trial.retry().error is None
    with pytest.raises(TrialFailed, match="Try a smaller learning rate"):
        trial.wait()
    assert [attempt.state for attempt in trial.attempts] == [State.failed] * 2
    with pytest.raises(IllegalTransition, match=r"A trial that is failed cannot extend\. From here it can: retry"):
        trial.extend(1)


def test_a_warm_started_trial_begins_with_what_another_reached(finished, trial, new_study):
    study = new_study()
    warm = study.optimize(ridge(), 1, **QUICK, warm_start=trial)
    cold = study.optimize(ridge(), 1, **QUICK)
    assert torch.equal(warm.hparams_at(0)["l2.weight"], trial.hparams["l2.weight"])
    assert warm.steps[0].val_loss < cold.steps[0].val_loss
    assert (warm.spec.warm_start.trial, warm.spec.warm_start.step) == (trial.id, N_STEPS)

    start = nestor.WarmStart(trial=trial.id, step=5, weights=False)
    tuned = study.optimize(ridge(), 1, **QUICK, warm_start=start)
    assert torch.equal(tuned.hparams_at(0)["l2.bias"], trial.hparams_at(5)["l2.bias"])
    assert tuned.steps[0].val_loss > warm.steps[0].val_loss
    model, data = torch.nn.Linear(4, 1), ridge().data
    scalar = nestor.hparams.L2(model, per="global")
    other = nestor.Problem(model, scalar, squared_error, squared_error, train=data.train, val=data.val)
    for reached in (trial, start):
        with pytest.raises(InvalidInput, match="hyperparameter 'l2'"):
            study.optimize(other, 1, **QUICK, warm_start=reached)
    with pytest.raises(CheckpointNotFound, match="has no checkpoint of step 1"):
        study.optimize(ridge(), 1, **QUICK, warm_start=nestor.WarmStart(trial=trial.id, step=1))


def test_a_callback_stops_the_trial_of_its_own_thread():
    study = nestor.create_study()

    def run(n: int) -> nestor.Trial:
        stop = lambda study, trial: study.stop() if trial.last_step.number == n else None
        return study.optimize(ridge(), 8, **QUICK, callbacks=[stop])

    with ThreadPoolExecutor(4) as pool:
        assert [trial.record.step for trial in pool.map(run, range(2, 6))] == [2, 3, 4, 5]


def test_study_stop_outside_of_a_callback_ends_all_its_trials(new_study):
    study = new_study()
    running, waiting = (study.optimize(ridge(), **ENDLESS) for _ in range(2))
    next(running.stream())
    study.stop()
    assert [trial.wait().state for trial in (running, waiting)] == [State.complete] * 2
    assert [trial.number for trial in study.trials] == [0, 1]


def test_a_training_that_diverges_fails_with_the_step_and_a_remedy(new_study):
    study = new_study()
    with pytest.raises(TrialFailed, match=r"Trial 0 failed: Step \d+: .* not finite.* Try a smaller learning rate"):
        study.optimize(ridge(), 50, inner=nestor.SGD(1e8), inner_steps=20, show_progress_bar=False)
    (trial,) = study.trials
    assert trial.state is State.failed
    assert "Try a smaller learning rate" in trial.error
    assert all(math.isfinite(step.val_loss) for step in trial.steps)
    with pytest.raises(TrialFailed):
        list(trial.stream())


def test_a_problem_with_a_mistake_is_refused_before_anything_starts(new_study):
    study = new_study()
    problem = ridge(val_loss=lambda outputs, batch: squared_error(outputs, batch).item())
    with pytest.raises(nestor.ProblemInvalid, match="val_loss"):
        study.optimize(problem, N_STEPS, **QUICK)
    assert study.trials == []


def test_an_argument_that_is_not_a_problem_is_refused_by_name(new_study):
    study = new_study()
    with pytest.raises(ArgumentInvalid, match=r"problem is Linear.* Pass a nestor\.Problem"):
        study.optimize(torch.nn.Linear(1, 1), N_STEPS, **QUICK)
    assert study.trials == []


def test_callbacks_require_wait(new_study):
    with pytest.raises(CallbacksWithoutWait, match="Callbacks require wait=True"):
        new_study().optimize(ridge(), N_STEPS, wait=False, callbacks=[print])


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every problem that is traced for its export."""
    export, calls = importlib.import_module("nestor_engine.program.export"), list[str]()
    traced = export._trace_all

    def counting(*given: Any) -> Any:
        calls.append("export")
        return traced(*given)

    monkeypatch.setattr(export, "_trace_all", counting)
    return calls


@pytest.mark.parametrize("wait", [True, False])
def test_a_submission_to_a_server_exports_the_problem_once(client, worker, exports, wait: bool):
    del worker
    study, problem = nestor.create_study(f"study {uuid4()}", server=client), ridge()
    trial = study.optimize(problem, 1, **QUICK, wait=wait)
    assert exports == ["export"]
    assert trial.wait().state is State.complete
    assert problem.check().ok
    assert len(exports) == 2


def test_a_submission_in_this_process_exports_nothing(exports):
    nestor.create_study().optimize(ridge(), 1, **QUICK)
    assert exports == []
