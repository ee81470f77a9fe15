"""The verdict on a trial, from evidence alone and after real trials."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nestor
from nestor.errors import TrialFailed
from nestor.ranking import Ranking
from nestor.results import verdicts
from nestor.results.verdicts import RULES, Evidence, judge
from nestor.schemas import EventType, State, Step, TensorSummary
from tests.client.conftest import QUICK
from tests.client.problems import overfitting, ridge, squared_error

LOSS, ACCURACY = Ranking(), Ranking("accuracy", "maximize")
PAGE = Path(__file__).parents[2] / "docs" / "verdict.md"


def step(number: int, **fields: Any) -> Step:
    """A step of a trial without fault, whose loss is 1/number."""
    given: dict[str, Any] = {
        "number": number,
        "train_loss": 1.0,
        "val_loss": 1 / number,
        "val_examples": 100,
        "value": 1 / number,
        "hypergradient_norm": 1.0,
        "outcome": "truncated",
        "hyperparameters": {"l2": summary()},
    }
    return Step(**given | fields)


def summary(gradient_norm: float = 1.0, at_bounds: float = 0.0) -> TensorSummary:
    return TensorSummary(
        min=0, max=1, mean=0.5, std=0.1, gradient_norm=gradient_norm, update_norm=1, at_bounds=at_bounds
    )


def steps(change: Callable[[int], dict[str, Any]] = lambda n: {}, count: int = 20) -> list[Step]:
    return [step(n, **change(n)) for n in range(1, count + 1)]


def rising_after(turn: int) -> Callable[[int], float]:
    """A loss that falls until step `turn`, and rises then."""
    return lambda n: 1 / n if n <= turn else 1 / turn + 0.1 * (n - turn)


FEW: dict[str, Any] = {"n_hparams": 1, "folds": False}
MANY: dict[str, Any] = {"n_hparams": 11, "folds": False}
FAILED = {"detail": "The training loss is not finite at step 3.", "title": "Diverged"}
TURN = rising_after(5)
CASES: dict[str, tuple[str, list[Step], dict[str, Any]]] = {
    "a trial without fault": ("good", steps(), FEW),
    "it failed": ("failed", steps(), {**FEW, "error": FAILED}),
    "it failed before its first step": ("failed", [], {**FEW, "error": FAILED}),
    "train+val": (
        "validation_trained",
        steps(lambda n: {"hypergradient_norm": 0.0}),
        {**FEW, "tunes": False, "validation_trains": True},
    ),
    "a retraining": ("retrained", steps(), {**FEW, "tunes": False, "retrains": True}),
    "fixed hyperparameters": ("frozen", steps(lambda n: {"hypergradient_norm": 0.0}), {**FEW, "tunes": False}),
    "fixed hyperparameters, and it failed": ("failed", steps(), {**FEW, "tunes": False, "error": FAILED}),
    "it failed without a reason": ("failed", [], {**FEW, "error": {}}),
    "most solves diverged": ("solves_failed", steps(lambda n: {"outcome": "diverged"} if n > 9 else {}), FEW),
    "the first solves diverged, which are most": (
        "solves_failed",
        steps(lambda n: {"outcome": "indefinite"} if n < 12 else {}),
        FEW,
    ),
    "the last solves diverged": ("solves_failed", steps(lambda n: {"outcome": "singular"} if n > 17 else {}), FEW),
    "the only solve diverged": ("solves_failed", steps(lambda n: {"outcome": "nonfinite"}, 1), FEW),
    "one solve diverged": ("some_solves_failed", steps(lambda n: {"outcome": "diverged"} if n == 4 else {}), FEW),
    "the very last solve diverged": (
        "some_solves_failed",
        steps(lambda n: {"outcome": "diverged"} if n == 20 else {}),
        FEW,
    ),
    "one solve of many diverged": ("good", steps(lambda n: {"outcome": "diverged"} if n == 4 else {}, 101), FEW),
    "nothing is solved": ("good", steps(lambda n: {"outcome": None}), FEW),
    "solves converge": ("good", steps(lambda n: {"outcome": "converged"}), FEW),
    "no hypergradient": ("hypergradient_zero", steps(lambda n: {"hypergradient_norm": 0.0}), FEW),
    "hardly a hypergradient": (
        "hypergradient_zero",
        steps(lambda n: {"hypergradient_norm": 0.0 if n > 2 else 1.0}),
        FEW,
    ),
    "sometimes no hypergradient": (
        "hypergradient_sometimes_zero",
        steps(lambda n: {"hypergradient_norm": float(n % 2)}),
        FEW,
    ),
    "a small hypergradient": ("good", steps(lambda n: {"hypergradient_norm": 1e-300}), FEW),
    "one of two hyperparameters has no hypergradient": (
        "hyperparameters_unmoved",
        steps(lambda n: {"hyperparameters": {"l2": summary(), "gates": summary(0.0)}}),
        FEW,
    ),
    "one of two hyperparameters has a hypergradient once": (
        "good",
        steps(lambda n: {"hyperparameters": {"l2": summary(), "gates": summary(float(n == 7))}}),
        FEW,
    ),
    "all of a hyperparameter is at a bound": (
        "at_bounds",
        steps(lambda n: {"hyperparameters": {"l2": summary(), "gates": summary(at_bounds=float(n > 10))}}),
        FEW,
    ),
    "some of a hyperparameter is at a bound": (
        "good",
        steps(lambda n: {"hyperparameters": {"gates": summary(at_bounds=0.9)}}),
        FEW,
    ),
    "a hyperparameter was at a bound": (
        "good",
        steps(lambda n: {"hyperparameters": {"gates": summary(at_bounds=float(n < 10))}}),
        FEW,
    ),
    "the test loss rises": ("overfitting", steps(lambda n: {"test_loss": TURN(n)}), FEW),
    "the test loss was evaluated before the best step": (
        "overfitting",
        steps(lambda n: {"test_loss": TURN(n) if n % 4 == 0 else None}, 19),
        FEW,
    ),
    "the test loss rises by little": (
        "good",
        steps(lambda n: {"test_loss": 1 / min(n, 5) + 0.001 * max(0, n - 5)}),
        FEW,
    ),
    "the test loss rises after the best step, as the validation loss does": (
        "declined",
        steps(lambda n: {"value": TURN(n), "val_loss": TURN(n), "test_loss": TURN(n)}),
        FEW,
    ),
    "the test loss is not finite": ("not_measured", steps(lambda n: {"test_loss": math.nan}), MANY),
    "the held-out loss rises": (
        "overfitting_after_best",
        steps(lambda n: {"value": TURN(n), "held_out_loss": TURN(n)}),
        FEW,
    ),
    "the held-out loss rises from the beginning": (
        "overfitting_after_best",
        steps(lambda n: {"value": float(n), "held_out_loss": float(n)}),
        FEW,
    ),
    "the held-out loss rises, as the validation loss does": (
        "declined",
        steps(lambda n: {"value": TURN(n), "held_out_loss": TURN(n), "val_loss": TURN(n)}),
        FEW,
    ),
    "the held-out loss rises by little": (
        "good",
        steps(lambda n: {"value": 1 / n if n < 20 else 1 / 18.5, "held_out_loss": 1.0}),
        MANY,
    ),
    "the loss stays": ("no_improvement", steps(lambda n: {"value": 0.5}), FEW),
    "the loss rises by little": ("no_improvement", steps(lambda n: {"value": 0.5 + n / 1000}), FEW),
    "many hyperparameters that nothing watches": ("not_measured", steps(), MANY),
    "many hyperparameters, and held-out examples": ("good", steps(lambda n: {"held_out_loss": 1 / n}), MANY),
    "many hyperparameters, and test examples": ("good", steps(lambda n: {"test_loss": 1 / n}), MANY),
    "many hyperparameters, and folds": ("good", steps(), {**MANY, "folds": True}),
    "as many hyperparameters as the examples can judge": ("good", steps(), {**MANY, "n_hparams": 10}),
    "steps of an earlier version": ("good", steps(lambda n: {"val_examples": None}), FEW),
    "one evaluated step": ("not_compared", steps(lambda n: {"value": 1.0 if n == 20 else None}), FEW),
    "no evaluated step": ("not_compared", steps(lambda n: {"value": None}), FEW),
    "no finite value": ("not_compared", steps(lambda n: {"value": math.inf}), FEW),
}


def evidence_of(recorded: list[Step], ranking: Ranking = LOSS) -> Evidence:
    """The evidence, which survives JSON after every step."""
    evidence = Evidence()
    for one in recorded:
        evidence = Evidence.from_json(json.loads(json.dumps(evidence.after(one, ranking).json(), allow_nan=False)))
    assert evidence == Evidence.of(recorded, ranking)
    return evidence


@pytest.mark.parametrize(("code", "recorded", "known"), CASES.values(), ids=CASES)
def test_each_kind_of_trial_has_its_verdict(code, recorded, known):
    verdict = judge(evidence_of(recorded), **known)
    assert verdict is not None
    (rule,) = [rule for rule in RULES if rule.code == code]
    assert (verdict.code, verdict.answer, verdict.remedy) == (code, rule.answer, rule.remedy)
    assert verdict.sentence[0].isupper()
    assert verdict.sentence.endswith(".") or code == "failed"
    assert "None" not in verdict.sentence
    assert str(verdict) == f"{verdict.answer}. {verdict.sentence} {verdict.remedy}"
    assert (verdicts.warning(verdict) is not None) == (code in verdicts.LOGGED)


def test_the_cases_have_every_code_once():
    assert {code for code, _, _ in CASES.values()} == {rule.code for rule in RULES}
    assert len({rule.code for rule in RULES}) == len(RULES)


def test_the_page_lists_every_code_with_its_answer_and_remedy():
    rows = [f"| `{rule.code}` | {rule.answer} | {rule.when} | {rule.remedy} |" for rule in RULES]
    assert [line for line in PAGE.read_text().splitlines() if line.startswith("| `")] == rows


def test_the_page_lists_the_codes_that_a_log_repeats():
    assert {rule.code for rule in RULES if rule.answer == "no"} - {"failed"} < verdicts.LOGGED
    *names, last = sorted(verdicts.LOGGED)
    listed = ", ".join(f"`{name}`" for name in names) + f" or `{last}`"
    assert f"completes with {listed}." in " ".join(PAGE.read_text().split())


def test_there_is_no_verdict_before_the_first_step():
    assert judge(Evidence(), **FEW) is None
    assert judge(None, **FEW) is None
    assert verdicts.warning(None) is None


def test_the_size_of_the_evidence_does_not_grow_with_the_steps():
    sizes = [len(json.dumps(evidence_of(steps(count=count)).json())) for count in (50, 500)]
    assert sizes[1] < sizes[0] + 50


@pytest.mark.parametrize(("turn", "code"), [(5, "overfitting"), (20, "good")])
def test_a_metric_that_is_maximized_is_judged_by_its_own_values(turn, code):
    tested = lambda n: {
        "metrics": {"accuracy": 1 - 1 / n},
        "test_metrics": {"accuracy": 1 - rising_after(turn)(n)},
        "test_loss": float(n),  # does not rank
    }
    verdict = judge(evidence_of(steps(tested, 20), ACCURACY), **FEW)
    assert verdict is not None
    assert verdict.code == code
    assert "he metric 'accuracy' on all validation examples went from 0 " in verdict.sentence


def test_long_lists_of_names_are_shortened():
    idle = {f"l2.{n}": summary(0.0) for n in range(5)} | {"gates": summary()}
    verdict = judge(evidence_of(steps(lambda n: {"hyperparameters": idle})), **FEW)
    assert verdict is not None
    assert "the hyperparameters 'l2.0', 'l2.1', 'l2.2' and 2 more" in verdict.sentence


# --- real trials ----------------------------------------------------------------------------------


def warnings_of(trial: nestor.Trial) -> list[str]:
    lines = [event.data for event in trial.events() if event.type is EventType.log]
    return [line["text"] for line in lines if line["level"] == "warning"]


def tuned(problem: nestor.Problem, n_steps: int = 12, **options: Any) -> nestor.Trial:
    given: dict[str, Any] = {**QUICK, "evaluate_every": 2, **options}
    return nestor.create_study().optimize(problem, n_steps, **given)


def network() -> nestor.Problem:
    """A network far from its minimum, whose Hessian has large negative directions."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=generator), torch.randn(40, 1, generator=generator)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    for weights in model.parameters():
        nn.init.uniform_(weights, -1.0, 1.0, generator=generator)
    l2 = nestor.hparams.L2(model, init=-9.0)
    return nestor.Problem(model, l2, squared_error, squared_error, train=(x[:20], y[:20]), val=(x[20:], y[20:]))


def test_a_trial_whose_solves_diverge_is_not_silently_complete(caplog):
    response = nestor.Implicit(nestor.Hessian(), nestor.Neumann(terms=20, alpha=10.0))
    with caplog.at_level(logging.WARNING, logger="nestor"):
        trial = tuned(network(), 4, response=response)
    verdict = trial.verdict
    assert trial.state is State.complete
    assert verdict is not None
    assert (verdict.answer, verdict.code) == ("no", "solves_failed")
    assert {one.outcome for one in trial.steps} == {"diverged"}
    assert f"{verdict.sentence} {verdict.remedy}" in warnings_of(trial)
    assert str(verdict) in caplog.text
    assert "verdict='no'" in repr(trial)
    assert "solve failed" in trial._repr_html_()


def test_a_trial_without_a_hypergradient_is_not_silently_complete():
    trial = tuned(ridge(), response=nestor.DirectOnly())
    verdict = trial.verdict
    assert trial.state is State.complete
    assert verdict is not None
    assert (verdict.answer, verdict.code) == ("no", "hypergradient_zero")
    assert verdict.sentence in " ".join(warnings_of(trial))


def test_a_good_trial_gets_a_yes_and_no_warning(capsys):
    trial = tuned(ridge(), 12, inner=nestor.Adam(0.02), show_progress_bar=True)
    verdict = trial.verdict
    assert verdict is not None
    assert (verdict.answer, verdict.code) == ("yes", "good")
    assert f"to {trial.best_value:.4g} at step {trial.best_step}" in verdict.sentence
    assert warnings_of(trial) == []
    assert f"trial 0: verdict yes. {verdict.sentence}" in capsys.readouterr().err


def test_a_trial_that_overfits_the_validation_examples_is_told_so_by_the_test_examples():
    """The weights learn the noise of three validation examples by way of a weight for each training example."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 20, generator=generator), torch.randn(60, 1, generator=generator)
    model = nn.Linear(20, 1)
    nn.init.zeros_(model.weight)
    problem = nestor.Problem(
        model,
        nestor.hparams.ExampleWeights(40),
        lambda outputs, batch: (outputs - batch["y"]).square().flatten(),
        squared_error,
        train=(x[:40], y[:40]),
        val=(x[40:43], y[40:43]),
        test=(x[43:], 0 * y[43:]),
    )
    trial = tuned(problem, 30, outer=nestor.Adam(0.3), inner=nestor.Adam(0.03))
    verdict = trial.verdict
    assert verdict is not None
    assert (verdict.answer, verdict.code) == ("with care", "overfitting")
    assert "early_stopping" in verdict.remedy


def test_a_training_that_becomes_worse_after_its_best_step_is_used_with_care():
    trial = tuned(overfitting(), 11, inner=nestor.Adam(0.1), outer=nestor.SGD(1e-12))
    assert trial.verdict is not None
    assert trial.verdict.code == "declined"
    assert warnings_of(trial) == [f"{trial.verdict.sentence} {trial.verdict.remedy}"]


def test_a_failed_trial_names_its_error():
    study = nestor.create_study()
    given: dict[str, Any] = {**QUICK, "inner": nestor.SGD(10.0)}
    with pytest.raises(TrialFailed):
        study.optimize(ridge(), 50, **given)
    (trial,) = study.trials
    assert trial.record.step > 0
    assert trial.verdict is not None
    assert (trial.verdict.answer, trial.verdict.code) == ("no", "failed")
    assert str(trial.error) in trial.verdict.sentence


def test_a_last_step_that_is_recorded_again_with_an_evaluation_counts_once():
    study = nestor.create_study()
    stop = lambda trial: trial.stop() if trial.last_step.number == 5 else None
    trial = study.optimize(ridge(), 9, **QUICK, evaluate_every=3, callbacks=[lambda study, trial: stop(trial)])
    assert [one.number for one in trial.steps if one.value is not None] == [3, 5]
    assert trial.record.verdict == judge(Evidence.of(trial.steps, LOSS), n_hparams=5, folds=False)


def test_a_trial_with_little_behind_it_says_so():
    trial = tuned(ridge(), 1)
    assert trial.verdict is not None
    assert trial.verdict.code == "not_compared"
