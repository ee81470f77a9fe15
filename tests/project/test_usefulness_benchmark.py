"""`benchmarks.usefulness`: tasks are fair, trainings are the engine's, and verdicts follow from the scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import nestor
import nestor_engine as engine
from benchmarks.usefulness import __main__ as usefulness
from benchmarks.usefulness import table
from benchmarks.usefulness.comparison import Interval, Verdict, paired
from benchmarks.usefulness.data import digits
from benchmarks.usefulness.rivals import RIVALS, SPECIAL
from benchmarks.usefulness.setting import QUICK, Effort, Setting
from benchmarks.usefulness.task import Splits, Task
from benchmarks.usefulness.tasks import tasks
from benchmarks.usefulness.tasks.noise import another, following, mislabeled

ROOT = Path(__file__).parents[2]
TASKS = tasks()
NOISY, TAILED, TEXT = "digits, 40 % uniform label noise", "digits, long tail 50:1", "characters of Shakespeare"
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def parts(splits: Splits) -> list[dict[str, torch.Tensor]]:
    return [splits.train, splits.val, splits.test]


def equal(a: Splits, b: Splits) -> bool:
    return all(
        torch.equal(one[name], other[name]) for one, other in zip(parts(a), parts(b), strict=True) for name in one
    )


# --- tasks ----------------------------------------------------------------------------------------


@every_task
def test_the_seed_alone_decides_data_and_initial_weights(task: Task):
    first, again, other = task.splits(0), task.splits(0), task.splits(1)
    assert equal(first, again)
    assert not torch.equal(first.train["x"], other.train["x"])
    weights = [task.fixed(first, seed, {}).bilevel().params for seed in (0, 0, 1)]
    same = [all(torch.equal(weights[0][name], others[name]) for name in weights[0]) for others in weights]
    assert same == [True, True, False]


@every_task
def test_tuned_and_fixed_problems_start_from_the_same_weights(task: Task):
    """Or a difference between ours and a rival could be one of initial weights."""
    splits = task.splits(0)
    ours, rival = task.tuned(splits, 0).bilevel().params, task.fixed(splits, 0, {}).bilevel().params
    assert ours.keys() == rival.keys()
    assert all(torch.equal(ours[name], rival[name]) for name in ours)


@pytest.mark.parametrize("task", [task for name, task in TASKS.items() if name != TEXT], ids=lambda task: task.name)
def test_no_example_is_in_two_splits(task: Task):
    """Text is left out: eight characters may well occur twice."""
    rows = [part["x"].flatten(1) for part in parts(task.splits(0))]
    everything = torch.cat(rows)
    assert len(everything.unique(dim=0)) == sum(map(len, rows))


def test_four_tasks_are_held_out_and_a_run_leaves_them_out(monkeypatch: pytest.MonkeyPatch):
    held_out = [task.name for task in TASKS.values() if task.held_out]
    assert len(held_out) == 4
    monkeypatch.setattr(sys, "argv", ["usefulness", "--tasks", held_out[0]])
    with pytest.raises(SystemExit):
        usefulness.main()


@every_task
def test_special_rivals_of_a_task_exist(task: Task):
    assert task.also <= SPECIAL <= RIVALS.keys()


@pytest.mark.parametrize("wrong", [another, following])
def test_wrong_labels_are_those_of_training_examples_and_as_many_as_stated(wrong: Any):
    clean, noisy = (mislabeled(digits, (1_000, 100), rate, wrong)(0) for rate in (0.0, 0.4))
    assert torch.equal(clean.train["x"], noisy.train["x"])
    assert torch.equal(clean.val["y"], noisy.val["y"])
    assert torch.equal(clean.test["y"], noisy.test["y"])
    assert float((clean.train["y"] != noisy.train["y"]).float().mean()) == pytest.approx(0.4, abs=0.05)


def test_a_long_tail_has_balanced_validation_and_test_data():
    train, val, test = (torch.bincount(part["y"]).tolist() for part in parts(TASKS[TAILED].splits(0)))
    assert sorted(train) == [2, 3, 5, 7, 11, 18, 27, 42, 65, 100]
    assert (val, test) == ([10] * 10, [60] * 10)


def test_uci_sets_are_read_from_a_folder(tmp_path: Path):
    generator = numpy.random.default_rng(0)
    for name, rows, features in (("yacht", 308, 6), ("energy", 768, 8)):
        x, y = generator.normal(3, 2, (rows, features)), generator.normal(3, 2, rows)
        numpy.savez(tmp_path / f"{name}.npz", x=x, y=y)
    added = [task for name, task in tasks(tmp_path).items() if name not in TASKS]
    sizes = {task.name: [len(part["y"]) for part in parts(task.splits(0))] for task in added}
    assert sizes == {"UCI yacht": [222, 55, 31], "UCI energy": [614, 78, 76]}
    assert [Setting(task, 0, Effort(n_steps=1)).judged({}, task.splits(0)).val_loss < 10 for task in added] == [
        True
    ] * 2


# --- trainings ------------------------------------------------------------------------------------


def test_a_rival_trains_as_the_engine_trains_under_frozen_hyperparameters():
    setting = Setting(TASKS[NOISY], 0, QUICK)
    problem = setting.task.fixed(setting.splits, 0, {})
    frozen = setting.config.model_copy(update={"response": nestor.Frozen()})
    *_, last = engine.optimize(problem.bilevel(), problem.data, frozen)
    judged = setting.judged({}, setting.splits)
    assert judged.score == last.test_metrics["score"]
    assert judged.val_loss == last.value


def test_the_knobs_of_a_rival_change_its_training():
    setting = Setting(TASKS[TEXT], 0, Effort(n_steps=1))
    values = {knob.name: knob.high for knob in setting.task.knobs}
    hparams = setting.task.fixed(setting.splits, 0, values).bilevel()
    found = {name: float(value) for name, value in hparams.values(hparams.hparams).items()}
    assert found == pytest.approx({"l2": values["decay"], "dropout": values["dropout"]})


def test_a_quick_run_has_a_row_for_each_contender_and_a_verdict_for_each_task(tmp_path: Path):
    rows, again = tmp_path / "rows.json", tmp_path / "again.json"
    command = [sys.executable, "-m", "benchmarks.usefulness", "--quick", "--tasks", NOISY, TAILED, "--json"]
    done = subprocess.run([*command, rows], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Of 2 tasks: 0 wins, 2 ties, 0 losses." in done.stdout  # one seed decides nothing
    found = json.loads(rows.read_text())
    ours = {"ours, as left", "ours, confirmed on train", "ours, confirmed on all"}
    for task, missing in ((NOISY, "class-balanced"), (TAILED, "cleanlab")):
        assert {row["rival"] for row in found if row["task"] == task} == ours | RIVALS.keys() - {missing}
    assert [row for row in found if not 0 <= row["score"] <= 1] == []

    known = [*command, again, "--known", rows]
    done = subprocess.run(known, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(again.read_text()) == found  # with its seconds: nothing was measured again


# --- verdicts -------------------------------------------------------------------------------------


def test_an_interval_is_of_differences_between_the_same_seeds():
    """The scores vary by tens, and their differences are 1, 2, 3 and 2: mean 2, deviation √(2/3), t = 3.182."""
    ours, other = {0: 11.0, 1: 42.0, 2: 73.0, 3: 2.0, 9: 0.0}, {0: 10.0, 1: 40.0, 2: 70.0, 3: 0.0, 8: 500.0}
    interval = paired(ours, other)
    assert interval.mean == 2
    assert interval.half == pytest.approx(3.1824 * (2 / 3) ** 0.5 / 2, rel=1e-4)


def test_one_seed_decides_nothing():
    assert paired({0: 5.0}, {0: 1.0}).verdict is Verdict.tie


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.2, 0.1, "win"),
        (-0.2, 0.1, "loss"),
        (0.1, 0.2, "tie"),
        (-0.1, 0.2, "tie"),
        (0.1, 0.1, "tie"),
        (0.0, 0.0, "tie"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(mean: float, half: float, verdict: str):
    assert Interval(mean, half).verdict == verdict


def row(rival: str, seed: int, **found: Any) -> dict[str, Any]:
    return {"task": "digits", "held_out": True, "seed": seed, "rival": rival, **found}


def test_a_failed_run_of_ours_is_a_loss():
    """The seeds that did not fail would win."""
    ours = [row("ours, confirmed on all", 0, error="diverged"), row("ours, confirmed on all", 1, score=0.9)]
    assert "| digits † | both | 1 failed | loss |" in table.comparison([*ours, row("both", 0, score=0.8)]).splitlines()


def test_the_tables_show_means_the_best_in_bold_and_our_difference_to_the_best_rival():
    scores = {
        "ours, as left": (0.9, 0.9),
        "ours, confirmed on all": (0.8, 0.82),
        "both": (0.7, 0.72),
        "grid": (0.6, 0.62),
    }
    rows = [row(rival, seed, score=values[seed]) for rival, values in scores.items() for seed in range(2)]
    assert table.table([*rows, row("GP", 0, error="diverged")]).splitlines() == [
        "| task | ours, as left | ours, confirmed on all | both | grid | GP |",
        "|---|---|---|---|---|---|",
        "| digits † | **0.900 ± 0.000** | 0.810 ± 0.014 | 0.710 ± 0.014 | 0.610 ± 0.014 | 1 failed |",
        "",
        "| task | best rival | ours, confirmed on all: difference, 95 % interval | verdict |",
        "|---|---|---|---|",
        "| digits † | both | +0.1000 ± 0.0000 | win |",
        "",
        "Of 1 tasks: 1 win, 0 ties, 0 losses.",
    ]
