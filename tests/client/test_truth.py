"""Whether the hypergradient of a trial predicts what retraining gives, by trials of the same study."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

import nestor
from nestor import Study, Trial
from nestor.errors import NotFinished, NothingToConfirm, NothingTuned, OptionInvalid, TrialFailed
from nestor.results.trainings.truth import Truth
from nestor.schemas import Nudge, Retrain, State, TruthReport, WarmStart
from nestor_engine.retraining import changed_by, nudges, predicted, retrained, unmoved
from tests.client.conftest import QUICK
from tests.client.problems import ridge

N_STEPS, SIZE = 4, 0.3
TUNED: dict[str, Any] = QUICK | {"batch_size": 8, "outer": nestor.Adam(0.2), "seed": 5}


@pytest.fixture(scope="module")
def study(new_study) -> Study:
    return new_study()


@pytest.fixture(scope="module")
def tuned(study) -> Trial:
    return study.optimize(ridge(), N_STEPS, **TUNED)


@pytest.fixture(scope="module")
def found(tuned) -> TruthReport:
    return tuned.truth(6, SIZE)


def config_of(**changes: Any) -> nestor.Config:
    options = {name: value for name, value in TUNED.items() if name != "show_progress_bar"}
    return nestor.Config(**{"n_steps": N_STEPS, **options, **changes})


def expect_equal(found: TruthReport, truth: Truth) -> None:
    assert found.value == pytest.approx(truth.value, rel=1e-5)
    assert found.predicted == pytest.approx(truth.predicted, rel=1e-3, abs=1e-6)
    assert found.real == pytest.approx(truth.real, rel=1e-3, abs=1e-6)
    assert found.score == pytest.approx(truth.score)
    assert found.interval == pytest.approx(truth.interval)
    assert str(found) == found.sentence == truth.sentence


def test_the_truth_of_hyperparameters_that_did_not_move_is_that_of_the_function(new_study):
    still = {"outer": nestor.SGD(1e-12)}  # less than the rounding of a float32
    trial = new_study().optimize(ridge(), N_STEPS, **TUNED | still)
    assert trial.best_step == N_STEPS
    expect_equal(trial.truth(6, SIZE), nestor.truth(ridge(), config_of(**still), retrainings=6, size=SIZE))


def test_the_hyperparameters_of_the_best_step_are_changed(tuned, found):
    best = {name: torch.from_numpy(values) for name, values in tuned.best_hparams.numpy().items()}
    problem = ridge()
    assert any(not best[name].equal(value) for name, value in problem.bilevel().hparams.items())
    bilevel = replace(problem.bilevel(), hparams=best)
    config = config_of(n_steps=tuned.best_step)
    *_, last = unmoved(bilevel, problem.data, config)
    changes = list(nudges(bilevel, 6, size=SIZE, seed=TUNED["seed"]))
    value = retrained(bilevel, problem.data, config)
    real = [retrained(changed_by(bilevel, change), problem.data, config) - value for change in changes]
    expect_equal(found, Truth(value, tuple(predicted(last.state.previous, changes)), tuple(real)))
    assert (found.trial, found.step, found.size) == (tuned.id, tuned.best_step, SIZE)


def test_trainings_are_trials_that_tune_nothing_and_are_not_ranked(study, tuned, found):
    best = tuned.best_hparams.numpy()["l2.weight"]
    assert [run.nudge for run in found.runs] == [None, 0, 1, 2, 3, 4, 5]
    unchanged, *changed = [study.trial(run.number) for run in found.runs]
    measured = unchanged.record.spec.response
    assert measured == nestor.Frozen(measured=tuned.record.spec.response)
    assert (unchanged.hparams.numpy()["l2.weight"] == best).all()
    assert all(step.hypergradient_norm > 0 for step in unchanged.steps)
    assert len(unchanged.last_step.predicted) == 100
    assert not unchanged.steps[0].predicted
    for run in changed:
        assert run.record.spec.response == nestor.Frozen()
        assert 0 < abs(run.hparams.numpy()["l2.weight"] - best).max() < 5 * SIZE
        assert (run.hparams.numpy()["l2.weight"] == run.hparams_at(0).numpy()["l2.weight"]).all()
    for run in (unchanged, *changed):
        assert (run.record.n_steps, run.record.spec.seed) == (tuned.best_step, TUNED["seed"])
        assert (run.verdict.answer, run.verdict.code) == ("yes", "retrained")
        assert not run.record.tunes
    assert study.best_trial.id == tuned.id
    with pytest.raises(NothingTuned, match=r"trained under fixed hyperparameters, so it tuned nothing"):
        unchanged.truth()


def test_trainings_that_exist_are_not_repeated(tuned, found):
    assert tuned.truth(6, SIZE) == tuned.truth_report(SIZE) == found
    more = tuned.truth(8, SIZE)
    assert [run.nudge for run in more.runs] == [None, *range(8)]
    assert more.runs[:7] == found.runs
    assert len(more.real) == 8
    assert tuned.truth_report(2 * SIZE).runs == ()
    assert tuned.truth_report(2 * SIZE).sentence == "Nothing was trained again yet. Call trial.truth()."


def test_trainings_that_confirm_and_those_that_show_the_truth_are_kept_apart(tuned, found):
    confirmation = tuned.confirm(seeds=1)
    assert not {run.trial for run in confirmation.runs} & {run.trial for run in found.runs}
    assert len(confirmation.runs) == 2
    assert tuned.truth_report(SIZE).runs[:7] == found.runs


def test_trainings_that_nobody_waits_for_run_by_themselves(new_study):
    trial = new_study().optimize(ridge(), 2, **TUNED)
    asked = trial.truth(5, wait=False)
    assert [run.nudge for run in asked.runs] == [None, 0, 1, 2, 3, 4]
    for _ in range(1200):
        report = trial.truth_report()
        if all(run.state.finished for run in report.runs):
            break
        assert report.score is None or len(report.real) >= 5
        time.sleep(0.05)
    assert {run.state for run in report.runs} == {State.complete}
    assert report.score is not None
    assert trial.truth(5) == report


def test_a_training_that_fails_is_named_and_the_others_are_kept(tuned):
    size = 300.0  # a decay of exp(300) is infinite
    with pytest.raises(TrialFailed, match="not finite"):
        tuned.truth(5, size)
    report = tuned.truth_report(size)
    states = [run.state for run in report.runs]
    assert states[0] is State.complete
    assert State.failed in states
    assert report.value is not None
    assert report.score is None
    complete = states[1:].count(State.complete)
    assert report.sentence == f"{complete} of 5 retrainings are complete. A score needs 5."
    again = tuned.truth(5, size, wait=False)  # what failed is submitted again
    assert len(again.runs) == len(states) + states.count(State.failed)


def test_only_a_finished_trial_with_a_best_step_has_a_truth():
    trial = nestor.create_study().optimize(ridge(), 10**6, **QUICK, evaluate_every=10**6, wait=False)
    with pytest.raises(NotFinished, match=r"is (running|queued), so that its best step may change"):
        trial.truth()
    trial.cancel().wait()
    for ask in (trial.truth, trial.truth_report):
        with pytest.raises(NothingToConfirm, match=r"none of its steps was evaluated"):
            ask()


@pytest.mark.parametrize(
    "wrong",
    [{"retrainings": 4}, {"retrainings": 101}, {"retrainings": "9"}, {"size": 0}, {"size": float("nan")}, {"wait": 0}],
    ids=str,
)
def test_a_wrong_request_is_refused(wrong):
    trial = nestor.create_study().optimize(ridge(), 1, **QUICK)
    with pytest.raises(nestor.errors.InvalidInput):
        trial.truth(**wrong)


def test_both_clients_ask_for_it(finished_on_server, server, token, Client):
    trial = finished_on_server.trial
    with Client(server.url, token) as client:
        asked = client.truth(trial.id, Retrain(retrainings=5, size=0.2))
        assert client.truth_report(trial.id, 0.2).runs == asked.runs or asked.score is None
        assert {run.trial for run in client.truth_report(trial.id, 0.2).runs} == {run.trial for run in asked.runs}
        assert client.truth_report(trial.id).runs == ()


# --- the options behind it ------------------------------------------------------------------------


def test_only_fixed_hyperparameters_are_nudged(study, tuned):
    start = WarmStart(trial=tuned.id, weights=False, nudge=Nudge(number=3))
    with pytest.raises(nestor.errors.InvalidInput, match=r"a nudge is for training under fixed hyperparameters"):
        study.optimize(ridge(), 2, **TUNED, warm_start=start)


def test_a_training_under_fixed_hyperparameters_measures_what_tuning_would_use(new_study):
    measured = nestor.Frozen(measured=nestor.Unrolled(3))
    trial = new_study().optimize(ridge(), 2, **TUNED, response=measured)
    first = new_study().optimize(ridge(), 2, **TUNED, response=nestor.Unrolled(3)).steps[0]
    assert trial.steps[0].hypergradient_norm == pytest.approx(first.hypergradient_norm)
    assert (trial.hparams.numpy()["l2.weight"] == trial.hparams_at(0).numpy()["l2.weight"]).all()
    assert trial.verdict.code == "frozen"


def test_what_is_measured_could_tune_and_fits_the_inner_loop():
    with pytest.raises(OptionInvalid, match=r"measured"):
        nestor.Frozen(measured=nestor.Frozen())  # pyright: ignore[reportArgumentType]
    with pytest.raises(nestor.errors.InvalidInput, match=r"inner_steps"):
        nestor.Config(n_steps=1, inner_steps=2, response=nestor.Frozen(measured=nestor.Unrolled(3)))
