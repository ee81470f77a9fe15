"""The outer loop is warm-started, deterministic and resumable bit for bit, and it reports divergence."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.data.splits import Batches
from nestor_engine.hparams import L2, Custom, ExampleWeights, compose
from nestor_engine.tensors.random import derive_seed
from nestor_engine.tensors.serialization import SafetensorsFile, to_safetensors


def _problem(n: int = 60, *, levels: bool = True) -> engine.Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))
    x, y = torch.randn(n, 4), torch.arange(n) % 3
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    accuracy = lambda outputs, batch: (outputs.argmax(1) == batch["y"]).float()
    kinds = compose([L2(model, per="weight"), ExampleWeights(n)])
    return engine.Problem(
        model, kinds if levels else kinds.with_prior(0), loss, loss,
        metrics={"accuracy": accuracy}, train=(x, y), val=(x[:20], y[:20]), test=(x, y),
    )  # fmt: skip


def _config(**options) -> engine.Config:
    return engine.Config(**{"n_steps": 6, "inner": engine.Adam(1e-2), "inner_steps": 2, "batch_size": 25, **options})


def _same(a: engine.State, b: engine.State) -> bool:
    return a.save() == b.save()


def test_the_caller_s_random_numbers_are_left_alone():
    problem = _problem()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(engine.optimize(problem.bilevel(), problem.data, _config()))
    assert torch.equal(torch.rand(3), expected)


def test_the_model_and_its_data_are_not_written_to():
    problem = _problem()
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    list(engine.optimize(problem.bilevel(), problem.data, _config()))
    assert all(torch.equal(before[name], value) for name, value in problem.model.state_dict().items())
    assert problem.model.training


def test_buffers_follow_the_inner_steps_and_the_evaluation_leaves_them():
    problem = _problem()
    *_, last = engine.optimize(problem.bilevel(), problem.data, _config())
    assert last.state.buffers["1.num_batches_tracked"] == 12  # 6 outer steps of 2 inner ones
    assert not torch.equal(last.state.buffers["1.running_mean"], problem.bilevel().buffers["1.running_mean"])


def test_weights_go_on_from_step_to_step_and_hyperparameters_move():
    problem = _problem()
    steps = list(engine.optimize(problem.bilevel(), problem.data, _config(n_steps=40)))
    assert steps[-1].val_loss < 0.8 * steps[0].val_loss
    moved = steps[-1].state.hparams["example_weights"]
    assert not torch.equal(moved, problem.bilevel().hparams["example_weights"])


def test_every_step_reports_what_it_did():
    problem = _problem()
    steps = list(engine.optimize(problem.bilevel(), problem.data, _config(evaluate_every=4)))
    assert [s.test_loss is not None for s in steps] == [False, False, False, True, False, True]
    assert all(0 <= s.val_metrics["accuracy"] <= 1 for s in steps)
    assert steps[0].hypergradient_cosine is None
    cosine = steps[1].hypergradient_cosine
    assert cosine is not None
    assert -1 <= cosine <= 1
    assert all(s.products > 0 and s.residual is not None and s.residual >= 0 for s in steps)
    assert "state" not in steps[0].record()
    for s in steps:
        assert 0 < s.seconds["data"] < s.seconds["inner"] + s.seconds["hypergradient"]
        assert 0 < s.seconds["products"] < s.seconds["hypergradient"]


def test_every_step_summarizes_each_hyperparameter():
    problem = _problem()
    first, second, *_ = engine.optimize(problem.bilevel(), problem.data, _config())
    assert set(second.hyperparameters) == set(problem.bilevel().hparams)
    summary, value = second.hyperparameters["example_weights"], second.state.hparams["example_weights"]
    assert (summary.min, summary.max) == (value.min().item(), value.max().item())
    assert summary.mean == pytest.approx(value.mean().item(), abs=1e-6)
    assert summary.std == pytest.approx(value.std(correction=0).item(), abs=1e-6)
    moved = value - first.state.hparams["example_weights"]
    assert summary.update_norm == pytest.approx(moved.norm().item(), rel=1e-5)
    assert summary.gradient_norm == pytest.approx(second.state.previous["example_weights"].norm().item(), rel=1e-5)
    whole = sum(s.gradient_norm**2 for s in second.hyperparameters.values()) ** 0.5
    assert second.hypergradient_norm == pytest.approx(whole)


def test_the_inner_gradient_is_relative_to_its_start_also_after_a_resume():
    problem = _problem()
    steps = list(engine.optimize(problem.bilevel(), problem.data, _config()))
    start = steps[0].state.active_fold.inner_gradient_start
    norms = [s.inner_gradient_norm for s in steps if s.inner_gradient_norm is not None]
    assert start is not None
    assert [s.inner_gradient_ratio for s in steps] == [pytest.approx(norm / start) for norm in norms]
    state = engine.State.load(steps[2].state.save())
    resumed = next(engine.optimize(problem.bilevel(), problem.data, _config(), state))
    assert resumed.inner_gradient_ratio == steps[3].inner_gradient_ratio


def test_hyperparameters_are_projected_onto_their_bounds_with_one_warning():
    problem = _problem()
    kinds = [ExampleWeights(60).bounded(-1e-4, 1e-4), L2(problem.model, per="weight").bounded(largest=-6.0)]
    problem = engine.Problem(
        problem.model, kinds, problem.train_loss, problem.val_loss,
        train=problem.data.train, val=problem.data.val,
    )  # fmt: skip
    steps = list(engine.optimize(problem.bilevel(), problem.data, _config(outer=engine.RMSprop(0.05), n_steps=8)))
    summaries = steps[-1].hyperparameters
    weights = summaries["example_weights"]
    assert (weights.min, weights.max) == (pytest.approx(-1e-4), pytest.approx(1e-4))
    assert weights.at_bounds == 1.0
    assert summaries["l2.0.weight"].max <= -6.0
    assert summaries["l2.0.weight"].min < -6.0
    warnings = [w for s in steps for w in s.warnings if "'example_weights' lies at a bound" in w]
    assert len(warnings) == 1


def test_bounds_that_leave_the_initial_values_out_are_refused():
    with pytest.raises(engine.errors.ProblemInvalid, match="before the transform"):
        ExampleWeights(60, init=0.0).bounded(0.5, 1.0)
    with pytest.raises(engine.errors.ProblemInvalid, match="do not lie between 1 and -1"):
        ExampleWeights(60, init=0.0).bounded(1.0, -1.0)


def test_hyperparameters_may_have_learning_rates_of_their_own():
    problem = _problem(levels=False)  # which move all entries
    config = _config(outer=engine.SGD(1.0), outer_lr={"l2": 10.0, "l2.0": 100.0}, n_steps=1)
    (step,) = engine.optimize(problem.bilevel(), problem.data, config)
    rates = {name: s.update_norm / s.gradient_norm for name, s in step.hyperparameters.items()}
    assert rates["example_weights"] == pytest.approx(1.0, rel=1e-3)
    assert rates["l2.4.weight"] == pytest.approx(10.0, rel=1e-3)
    assert rates["l2.0.weight"] == pytest.approx(100.0, rel=1e-3)
    assert engine.Config(**json.loads(config.model_dump_json())) == config
    with pytest.raises(engine.errors.ConfigInvalid, match="outer_lr names 'l3', but the hyperparameters are 'l2"):
        next(engine.optimize(problem.bilevel(), problem.data, _config(outer_lr={"l3": 1.0})))


@pytest.mark.cpu
def test_autocast_trains_in_bfloat16_and_differentiates_in_the_weights_precision():
    problem = _problem()
    seen: list[tuple[bool, torch.dtype]] = []
    observed = lambda outputs, batch: (
        seen.append((torch.is_grad_enabled(), outputs.dtype)) or F.cross_entropy(outputs, batch["y"], reduction="none")
    )
    problem.train_loss = observed
    full, mixed = (
        list(engine.optimize(problem.bilevel(), problem.data, _config(autocast=autocast)))
        for autocast in (None, "bfloat16")
    )
    assert {dtype for _, dtype in seen} == {torch.float32}  # losses never see a rounded sum
    assert mixed[-1].state.weights.dtype == torch.float32
    assert mixed[0].train_loss == pytest.approx(full[0].train_loss, rel=0.02)
    assert mixed[0].train_loss != full[0].train_loss
    half = list(engine.optimize(problem.bilevel(), problem.data, _config(autocast="bfloat16"), mixed[2].state))
    assert _same(half[-1].state, mixed[-1].state)


def test_parts_of_another_kind_are_refused_with_what_to_pass():
    with pytest.raises(engine.errors.ConfigInvalid, match=r"Nestor's optimizers, such as Adam\(1e-3\)"):
        engine.Config(n_steps=1, inner=torch.optim.SGD([torch.zeros(1)], 0.1))  # pyright: ignore[reportArgumentType]: refused
    with pytest.raises(engine.errors.ConfigInvalid, match="pass a response"):
        engine.Config(n_steps=1, response=engine.Neumann())
    with pytest.raises(engine.errors.ConfigInvalid, match=r"pass a curvature, such as GaussNewton\(\)"):
        engine.Implicit(engine.Neumann(), engine.GaussNewton())


def test_a_metric_that_is_undefined_is_recorded_with_one_warning():
    problem = _problem()
    problem.metrics["undefined"] = lambda outputs, batch: outputs.mean() * float("nan")
    first, second, *_ = engine.optimize(problem.bilevel(), problem.data, _config())
    assert first.record()["val_metrics"]["undefined"] == "NaN"
    assert any("'undefined' is nan on validation data" in warning for warning in first.warnings)
    assert not any("'undefined'" in warning for warning in second.warnings)


def test_a_training_that_diverges_says_at_which_step_and_what_to_try():
    problem = _problem()
    config = _config(inner=engine.SGD(1e12), inner_steps=2, batch_size=25, n_steps=50)
    with pytest.raises(
        engine.errors.Diverged, match=r"Step \d+: the (training|validation) loss is not finite.*smaller learning rate"
    ):
        list(engine.optimize(problem.bilevel(), problem.data, config))


def test_a_warning_is_given_once():
    problem = _problem()
    config = _config(response=engine.Implicit(engine.Hessian(), engine.Neumann(20, alpha=50.0)), outer=engine.SGD(1e-6))
    steps = list(engine.optimize(problem.bilevel(), problem.data, config))
    warned = [s.number for s in steps if s.warnings]
    assert len(warned) == 1
    assert "series diverges" in steps[warned[0] - 1].warnings[0]


def test_a_checkpoint_of_another_problem_is_refused():
    problem, other = _problem(60), _problem(61)
    first = next(engine.optimize(problem.bilevel(), problem.data, _config()))
    with pytest.raises(engine.errors.StateInvalid, match="example_weights"):
        next(engine.optimize(other.bilevel(), other.data, _config(), first.state))
    with pytest.raises(engine.errors.StateInvalid, match="cannot be read"):
        engine.State.load(b"not a checkpoint")
    stranger = to_safetensors({"weights": torch.ones(3)}, {"nestor": '{"format": 2, "unheard_of": 1}'})
    with pytest.raises(engine.errors.StateInvalid, match="cannot be read"):
        engine.State.load(stranger)


def test_a_loss_may_read_hyperparameters_of_its_own():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(30, 3)
    y = torch.arange(30) % 2
    problem = engine.Problem(
        model,
        Custom({"log_temperature": torch.zeros(())}, {"log_temperature": "exp"}),
        lambda outputs, batch, hparams: F.cross_entropy(outputs / hparams["log_temperature"], batch["y"]),
        lambda outputs, batch: F.cross_entropy(outputs, batch["y"]),
        train=(x, y),
        val=(x, y),
    )
    *_, last = engine.optimize(problem.bilevel(), problem.data, _config(n_steps=10))
    assert last.state.hparams["log_temperature"].item() != 0


def test_fit_trains_on_other_data_under_given_hyperparameters():
    problem = _problem()
    bilevel = problem.bilevel()
    fitted = engine.fit(bilevel, problem.data.train, n_steps=200, inner=engine.Adam(1e-2))
    before = engine.evaluate(bilevel, bilevel.params, bilevel.buffers, bilevel.hparams, problem.data.train)
    after = engine.evaluate(bilevel, fitted.params, fitted.buffers, bilevel.hparams, problem.data.train)
    assert after["loss"] < 0.7 * before["loss"]


def test_data_may_share_memory_between_columns():
    """An autoencoder's target is its input; the file format refuses tensors that share memory."""
    x = torch.randn(6, 2)
    data = engine.Data.of(train=(x, x), val={"x": x, "y": x.T.T})
    loaded = engine.Data.load(data.save())
    assert all(torch.equal(loaded.train[name], x.cpu()) for name in ("x", "y"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_any_part_of_a_saved_split_is_that_of_the_whole_file(dtype: torch.dtype):
    """Uploads read parts, so that a data set is not copied as a whole."""
    x = (torch.arange(60).reshape(4, 5, 3) % 7).to(dtype).transpose(0, 1)
    file = SafetensorsFile({"a": x, "b": torch.arange(5), "a column with ä": x[:, 0]})
    whole = bytes(file)
    assert len(file) == len(whole)
    assert all(file[i:j] == whole[i:j] for i in range(len(whole) + 1) for j in range(i, len(whole) + 1, 7))
    loaded = safetensors.torch.load(whole)
    assert torch.equal(loaded["a"], x.cpu())
    assert torch.equal(loaded["a column with ä"], x[:, 0].cpu())


def test_splits_of_another_form_are_refused_with_what_to_pass():
    x = torch.randn(6, 2)
    for wrong in ((x, x, x), [x], x, "x"):
        with pytest.raises(engine.errors.ProblemInvalid, match=r"train split is a .*Pass a tuple \(x, y\)"):
            engine.Data.of(train=wrong, val=(x, x))


def test_an_epoch_shows_every_example_once_and_depends_on_seed_and_number_alone():
    columns = {"x": torch.arange(12)}
    batches = Batches(columns, 4, seed=1)
    epoch = torch.cat([batches[k]["index"] for k in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    again = Batches(columns, 4, seed=1)
    assert torch.equal(again[7]["x"], batches[7]["x"])  # out of order
    assert torch.equal(again[1]["x"], batches[1]["x"])
    assert derive_seed(1, "a", 2) != derive_seed(1, "a", 3)


def test_later_steps_do_not_write_into_the_state_of_an_earlier_one():
    problem = _problem()
    steps = engine.optimize(problem.bilevel(), problem.data, _config())
    first = next(steps).state
    kept = first.save()
    assert len(list(steps)) > 1
    assert first.save() == kept


@pytest.mark.parametrize("option", ["steps", "batch_size"])
def test_an_optimizer_takes_no_steps_and_no_batch_size_and_says_where_they_go(option: str):
    belongs = {
        "steps": "pass n_steps for outer steps, and inner_steps",
        "batch_size": "batch_size for training examples",
    }
    with pytest.raises(engine.errors.ConfigInvalid, match=rf"Adam\({option}=50\): .*{belongs[option]}"):
        engine.Adam(0.1, **{option: 50})
