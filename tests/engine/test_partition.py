"""Which examples train, validate and are held out: folds with their own weights, and early stopping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor.errors import NestorError
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import INDEX, View, size_of
from nestor_engine.hparams import L2, ExampleWeights, LabelCorrection
from nestor_engine.hparams.positions import position_for_validation
from nestor_engine.program import load
from nestor_engine.tensors.ravel import Ravel

N_TRAIN, N_VAL = 22, 11
FOLDS = engine.Folds(3)
HALF = engine.EarlyStopping(patience=3, fraction=0.5)


def _loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def _problem(train_loss=_loss) -> engine.Problem:
    """Random labels, which a model can only memorize."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 3))
    x, y = torch.randn(N_TRAIN + N_VAL, 6), torch.randint(3, (N_TRAIN + N_VAL,))
    train, val = slice(N_TRAIN), slice(N_TRAIN, None)
    return engine.Problem(
        model, L2(model, per="weight", init=-3.0), train_loss, _loss,
        train=(x[train], y[train]), val=(x[val], y[val]), test=(x, y),
    )  # fmt: skip


def _config(**options) -> engine.Config:
    trained = {"inner": engine.Adam(3e-2), "inner_steps": 3, "batch_size": 8}
    return engine.Config(**{"n_steps": 12, **trained, "outer": engine.Adam(0.3), "trace": False, **options})


def _run(config: engine.Config, state: engine.State | None = None) -> list[engine.Step]:
    problem = _problem()
    return list(engine.optimize(problem.bilevel(), problem.data, config, state))


def positions(view: View) -> list[int]:
    """Those of its examples among all that it was drawn from."""
    assert view.positions is not None
    return view.positions.tolist()


# --- the division ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stopping", [None, HALF], ids=["all", "half held out"])
def test_every_example_is_in_one_fold_and_trained_on_by_all_others(stopping):
    data = _problem().data
    partition = Partition(data, FOLDS, stopping, seed=1)
    views = [partition.views(fold) for fold in range(3)]
    held_out = 0 if partition.held_out is None else size_of(partition.held_out)
    n = N_TRAIN + N_VAL - held_out
    assert held_out == (6 if stopping else 0)
    assert sorted(row for _, val in views for row in positions(val)) == list(range(n))
    for train, val in views:
        assert sorted([*positions(train), *positions(val)]) == list(range(n))
        assert (len(train), len(val)) == (n * 2 // 3, n // 3)


def test_held_out_examples_are_the_validation_data_s_and_steer_nothing():
    data = _problem().data
    partition = Partition(data, None, HALF, seed=1)
    train, val = partition.views(0)
    assert train.positions is None
    assert partition.held_out is not None
    rows = [tuple(row) for row in [*data.val["x"][positions(val)].tolist(), *partition.held_out["x"].tolist()]]
    assert sorted(rows) == sorted(map(tuple, data.val["x"].tolist()))


def test_examples_of_a_view_have_their_positions_as_index():
    partition = Partition(_problem().data, FOLDS, None, seed=1)
    train, _ = partition.views(1)
    batch = train.take(torch.tensor([4, 0]))
    assert train.positions is not None
    assert torch.equal(batch[INDEX], train.positions[[4, 0]])
    assert torch.equal(batch["x"], train.columns["x"][batch[INDEX]])


# --- folds ----------------------------------------------------------------------------------------


def test_no_fold_s_weights_ever_see_its_examples():
    seen: list[Tensor] = []

    def watched(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        seen.append(batch[INDEX])
        return _loss(outputs, batch)

    folds = engine.Folds(3, every=2)
    problem, config = _problem(watched), _config(folds=folds)
    partition = Partition(problem.data, folds, None, config.seed)
    turns = []
    for step in engine.optimize(problem.bilevel(), problem.data, config):
        fold = folds.active_fold(step.number)
        _, val = partition.views(fold)
        assert not set(torch.cat(seen).tolist()) & set(positions(val))
        seen.clear()
        turns.append(fold)
    assert turns == [0, 0, 1, 1, 2, 2] * 2


def test_a_fold_s_weights_are_those_of_a_training_on_the_other_folds():
    """Under constant hyperparameters: the direct gradient of a decay is zero."""
    problem, config = _problem(), _config(folds=FOLDS, response=engine.DirectOnly(), n_steps=7)
    *_, last = engine.optimize(problem.bilevel(), problem.data, config)
    partition = Partition(problem.data, FOLDS, None, config.seed)
    for fold, trained in enumerate(last.state.folds):
        view, _ = partition.views(fold)
        others = {name: values for name, values in view.all().items() if name != INDEX}
        alone = engine.fit(
            problem.bilevel(), others, n_steps=trained.inner_steps, inner=config.inner, batch_size=8, seed=config.seed
        )
        assert torch.equal(trained.weights, torch.cat([p.flatten() for p in alone.params.values()]))
    assert [fold.inner_steps for fold in last.state.folds] == [9, 6, 6]


def test_each_fold_is_warmed_up_when_its_turn_comes_first():
    step = _run(_config(folds=FOLDS, warmup_steps=5, n_steps=4))[-1]
    assert [fold.inner_steps for fold in step.state.folds] == [11, 8, 8]


def test_a_trial_without_folds_continues_with_any_fold():
    before = _run(_config(n_steps=2))[-1]
    step = _run(_config(folds=FOLDS, n_steps=3), before.state)[-1]
    assert step.state.active == 2
    assert [fold.inner_steps for fold in step.state.folds] == [6, 0, 3]


# --- early stopping -------------------------------------------------------------------------------


def test_a_trial_ends_when_the_held_out_loss_no_longer_improves():
    steps = _run(_config(n_steps=200, early_stopping=HALF))
    losses = [step.held_out_loss for step in steps]
    best = losses.index(min(loss for loss in losses if loss is not None)) + 1
    assert len(steps) == best + HALF.patience < 200
    assert [step.value for step in steps] == losses
    assert steps[-1].test_loss is not None


def test_the_held_out_loss_is_that_of_the_step_s_weights_on_the_held_out_examples():
    problem, config = _problem(), _config(early_stopping=HALF, n_steps=2)
    *_, step = engine.optimize(problem.bilevel(), problem.data, config)
    held_out = Partition(problem.data, None, HALF, config.seed).held_out
    assert held_out is not None
    bilevel = problem.bilevel()
    params = Ravel(bilevel.params).tree(step.state.weights)
    metrics = engine.evaluate(bilevel, params, step.state.buffers, step.state.hparams, held_out)
    assert step.held_out_loss == metrics["loss"]


def test_with_folds_it_is_the_mean_over_the_last_step_of_each():
    state = _run(_config(n_steps=1))[0].state
    means = []
    for loss in (4.0, 2.0, 3.0, 1.0):
        state, mean = state.with_held_out({"loss": loss, "error": loss / 4}, folds=2)
        means.append((mean["loss"], mean["error"]))
    assert means == [(4.0, 1.0), (3.0, 0.75), (2.5, 0.625), (2.0, 0.5)]
    assert (state.held_out_best, state.steps_since_best) == (2.0, 0)


def test_a_trial_that_has_ended_does_not_go_on_unless_more_steps_are_wanted():
    config = _config(n_steps=200, early_stopping=HALF)
    last = _run(config)[-1]
    assert _run(config, last.state) == []
    stopping = engine.EarlyStopping(patience=3, fraction=0.5, min_steps=last.number + 4)
    assert len(_run(_config(n_steps=last.number + 4, early_stopping=stopping), last.state)) == 4


# --- what cannot be divided -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: engine.Folds(1), "count=1"),
        (lambda: engine.Folds(every=0), "every=0"),
        (lambda: engine.EarlyStopping(patience=0), "patience=0"),
        (lambda: engine.EarlyStopping(fraction=1.0), "fraction=1.0.: it must be above 0 and below 1"),
        (lambda: engine.EarlyStopping(min_steps=-1), "min_steps=-1"),
        (lambda: _config(folds=5), r"pass nestor\.Folds\(5\)"),
        (lambda: _config(early_stopping=True), r"pass nestor\.EarlyStopping"),
        (lambda: _run(_config(folds=engine.Folds(40))), r"Folds\(40\) needs at least 40 examples, and there are 33"),
        (lambda: _run(_config(early_stopping=engine.EarlyStopping(fraction=0.01))), "Give more validation examples"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_what_to_do(make, message: str):
    with pytest.raises(NestorError, match=message):
        make()


def test_folds_want_the_same_columns_of_training_and_validation_data():
    problem = _problem()
    data = engine.Data.of(problem.data.train | {"extra": torch.ones(N_TRAIN)}, problem.data.val)
    with pytest.raises(engine.errors.ProblemInvalid, match="Give both the same columns"):
        next(engine.optimize(problem.bilevel(), data, _config(folds=FOLDS)))


# --- validation examples that train ---------------------------------------------------------------


def _with_weights(values: list[float], kind: type = ExampleWeights) -> engine.Bilevel:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x, y = torch.randn(len(values), 6), torch.randint(3, (len(values),))
    kinds = ExampleWeights(len(values)) if kind is ExampleWeights else LabelCorrection(y, 3)
    problem = engine.Problem(model, kinds, _loss, _loss, train=(x, y), val=(x, y))
    bilevel = problem.bilevel()
    weights = {name: torch.tensor(values) for name in bilevel.hparams}
    return replace(bilevel, hparams=weights) if kind is ExampleWeights else bilevel


def test_validation_examples_train_behind_the_training_examples_with_the_position_of_one():
    data = _problem().data
    partition = Partition(data, None, None, seed=1, stand_in=7)
    train, val = partition.views(0)
    assert (len(train), len(val)) == (N_TRAIN + N_VAL, N_VAL)
    whole = train.all()
    assert whole[INDEX].tolist() == [*range(N_TRAIN), *[7] * N_VAL]
    assert torch.equal(whole["x"], torch.cat([data.train["x"], data.val["x"]]))
    taken = train.take(torch.tensor([N_TRAIN + 2, 3]))
    assert taken[INDEX].tolist() == [7, 3]
    assert torch.equal(taken["x"][0], data.val["x"][2])
    assert val.all()[INDEX].tolist() == list(range(N_VAL))


def test_the_position_is_that_of_the_largest_weight():
    assert position_for_validation(_with_weights([0.1, -3.0, 2.0, 1.9]), 4) == 2
    assert position_for_validation(_problem().bilevel(), N_TRAIN) == 0  # nothing reads it


def test_entries_that_are_not_weights_and_programs_that_do_not_tell_are_refused():
    with pytest.raises(NestorError, match=r"'label_correction' has an entry for each training example"):
        position_for_validation(_with_weights([0.0] * 4, LabelCorrection), 4)
    untold = replace(_with_weights([0.0] * 4), by_position=None)
    with pytest.raises(NestorError, match=r"'example_weights' has an entry for each training example"):
        position_for_validation(untold, 4)
    assert position_for_validation(untold, 5) == 0


def test_a_program_says_what_has_an_entry_for_each_training_example():
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x, y = torch.randn(4, 6), torch.randint(3, (4,))
    kinds = [L2(model), ExampleWeights(4), LabelCorrection(y, 3)]
    problem = engine.Problem(model, kinds, _loss, _loss, train=(x, y), val=(x, y))
    program = problem.export()
    for bilevel in (problem.bilevel(), load(program.graphs, program.tensors)):
        assert bilevel.by_position == {"example_weights": "weights", "label_correction": "values"}
