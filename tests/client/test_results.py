"""Results as data frames, files, state dicts and parameter groups."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor import program_format
from nestor.errors import ArgumentInvalid, DecayNotInGroups, DecaysForAnotherModel, FileUnusable, HparamNotFound
from nestor.hparams import L2, TRANSFORMS, ExampleWeights, LossReweighting
from nestor.program_format.safetensors_header import METADATA, Header, described, written
from nestor.results.entries import TRANSFORMED
from nestor.results.files import with_transforms
from nestor.results.values import Values
from tests.client.conftest import N_STEPS, QUICK, Finished
from tests.client.problems import ridge


def values(**tensors: torch.Tensor) -> Values:
    return Values(safetensors.torch.save(tensors), dict.fromkeys(tensors, "exp"))


def test_numbers_are_transformed_as_tensors_are():
    assert TRANSFORMED.keys() == TRANSFORMS.keys() == set(program_format.TRANSFORMS)
    raw = [math.nan, math.inf, -math.inf, 0.0, -0.0, *(sign * 10.0**k for sign in (1, -1) for k in range(-8, 8))]
    for name, transform in TRANSFORMED.items():
        expected = TRANSFORMS[name](torch.tensor(raw, dtype=torch.float64)).numpy()
        assert [transform(one) for one in raw] == pytest.approx(expected, rel=1e-12, nan_ok=True), name


def test_steps_become_rows_with_flat_columns(finished: Finished):
    frame, steps = finished.trial.steps_dataframe(), finished.trial.steps
    assert list(frame.index) == list(range(1, N_STEPS + 1))
    assert frame.index.name == "number"
    assert list(frame["val_loss"]) == [step.val_loss for step in steps]
    assert list(frame["val_metrics.mae"]) == [step.val_metrics["mae"] for step in steps]
    name = next(iter(steps[0].hyperparameters))
    assert list(frame[f"hyperparameters.{name}.mean"]) == [step.hyperparameters[name].mean for step in steps]
    assert "seconds.inner" in frame
    assert not any(isinstance(cell, dict) for cell in frame.to_numpy().ravel())


def test_trials_become_rows_with_the_options_in_which_they_differ():
    study = nestor.create_study()
    assert list(study.trials_dataframe().columns)[:2] == ["number", "state"]
    problem = ridge()
    for inner in (nestor.SGD(0.01), nestor.Adam(0.05)):
        study.optimize(problem, 1, inner=inner, inner_steps=3, show_progress_bar=False)
    frame = study.trials_dataframe()
    assert list(frame["inner.lr"]) == [0.01, 0.05]
    assert "inner_steps" not in frame
    assert list(frame["val_metrics.mae"]) == [trial.steps[-1].val_metrics["mae"] for trial in study.trials]
    every = study.trials_dataframe(config=True, metrics=False)
    assert list(every["inner_steps"]) == [3, 3]
    assert "val_metrics.mae" not in every


def test_saved_hyperparameters_keep_their_transforms(finished: Finished, tmp_path):
    hparams, path = finished.trial.hparams, tmp_path / "hparams.safetensors"
    hparams.save(path)
    loaded = nestor.load_values(path)
    assert list(loaded) == list(hparams)
    for name in hparams:
        assert np.array_equal(loaded.numpy()[name], hparams.numpy()[name])
        assert torch.equal(loaded.transformed[name], hparams.transformed[name])
    hparams.save(path, transformed=True)
    loaded = nestor.load_values(path)
    for name in hparams:
        assert np.array_equal(loaded.numpy()[name], hparams.transformed[name])
        assert torch.equal(loaded.transformed[name], hparams.transformed[name])


def test_a_snapshot_is_a_file_that_load_values_reads(finished: Finished, tmp_path):
    trial = finished.trial
    path = tmp_path / "snapshot.safetensors"
    path.write_bytes(trial._backend.snapshot(trial.id, 3))
    loaded, expected = nestor.load_values(path), trial.hparams_at(3)
    assert list(loaded) == list(expected)
    for name in expected:
        assert torch.equal(loaded.transformed[name], expected.transformed[name])
        assert not np.array_equal(loaded.transformed[name], loaded.numpy()[name])


@pytest.mark.parametrize("content", [None, b"", b"x" * 99, safetensors.torch.save({"a": torch.ones(2)})])
def test_a_file_without_transforms_is_refused(content, tmp_path):
    path = tmp_path / "other.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileUnusable, match=r"other\.safetensors"):
        nestor.load_values(path)


def test_a_file_keeps_tensors_of_every_dtype_and_its_metadata():
    tensors = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.zeros((), dtype=torch.float64)}
    data = with_transforms(safetensors.torch.save(tensors, {"step": "3"}), {"a": "exp"})
    loaded = safetensors.torch.load(data)
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_the_one_writer_of_headers_writes_what_safetensors_reads():
    tensors = {"ä": torch.arange(3.0), "empty": torch.zeros(0, 2), "scalar": torch.tensor(7, dtype=torch.uint8)}
    names = {torch.float32: "F32", torch.uint8: "U8"}
    entries = described((name, names[one.dtype], one.shape, one.nbytes) for name, one in tensors.items())
    header = written({METADATA: {"k": "v"}} | entries)
    assert len(header) % 8 == 0
    data = header + b"".join(one.numpy().tobytes() for one in tensors.values())
    loaded = safetensors.torch.load(data)
    assert {name: value.tolist() for name, value in loaded.items()} == {n: one.tolist() for n, one in tensors.items()}
    parsed = Header.parse(data, len(data))
    assert (parsed.start, list(parsed.tensors)) == (len(header), list(tensors))
    assert [one.nbytes for one in parsed.tensors.values()] == [12, 0, 1]


@pytest.mark.parametrize("path", ["hparams.npz", "hparams", 3])
def test_a_file_of_another_format_is_refused(path):
    with pytest.raises(ArgumentInvalid, match=r"ends in \.safetensors"):
        values(l2=torch.zeros(())).save(path)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileUnusable, match="No such file"):
        values(l2=torch.zeros(())).save(tmp_path / "none" / "hparams.safetensors")


def test_weights_come_as_a_state_dict(finished: Finished):
    model = ridge().model
    expected = ridge().model
    finished.trial.load_weights(expected)
    for state in (finished.trial.state_dict(), finished.trial.state_dict(nn.DataParallel(model))):
        other = ridge().model
        other.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), expected.parameters(), strict=True))


def test_example_weights_join_data_by_position():
    x, y = torch.randn(40, 4), torch.randn(40, 1)
    squared = lambda outputs, batch: (outputs - batch["y"]).square().mean(1)
    problem = nestor.Problem(nn.Linear(4, 1), ExampleWeights(40), squared, squared, train=(x, y), val=(-x, y))
    trial = nestor.create_study().optimize(problem, 2, **QUICK)
    found = trial.example_weights()
    assert np.array_equal(found, trial.hparams.transformed["example_weights"])
    assert list(found.index) == list(range(40))
    frame = pd.DataFrame({"row": range(40)}, index=range(100, 140)).assign(weight=found.to_numpy())
    assert frame["weight"].loc[103] == found[3]
    with pytest.raises(HparamNotFound):
        trial.example_weights("weights")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))


@pytest.mark.parametrize("options", [{"per": "global"}, {"per": "tensor"}, {"per": "tensor", "only": "2"}])
def test_sgd_with_the_groups_takes_the_steps_that_the_penalty_gives(options):
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    model, other = net(), net()
    kind = L2(model, **options)
    tuned = values(**{name: start + torch.arange(start.numel()).view(start.shape) for name, start in kind.init.items()})
    (name,) = kind.init
    ours = torch.optim.SGD(nestor.param_groups(other, tuned, name=name), lr=0.1)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        for network, optimizer, penalized in ((model, plain, True), (other, ours, False)):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x), y)
            if penalized:
                loss = loss + kind.penalty(dict(network.named_parameters()), tuned.transformed)
            loss.backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("per", ["weight", "input", "output"])
def test_decays_inside_of_a_tensor_are_no_groups(per):
    with pytest.raises(DecayNotInGroups, match="penalty"):
        nestor.param_groups(net(), values(**L2(net(), per=per).init))


def test_decays_of_another_model_are_refused():
    tuned = values(**L2(net(), per="tensor").init)
    with pytest.raises(DecaysForAnotherModel, match="4 of them, for 2 trained tensors"):
        nestor.param_groups(nn.Linear(3, 2), tuned)
    with pytest.raises(HparamNotFound):
        nestor.param_groups(net(), tuned, name="l1")


def test_sgd_with_the_groups_trains_as_fit_under_frozen_decays():
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    model = net()
    kind = L2(model, per="tensor")
    tuned = {"l2": torch.tensor([-3.0, 0.5, -1.0, 0.0])}
    squared = lambda outputs, batch: F.mse_loss(outputs, batch["y"])
    problem = nestor.Problem(model, kind, squared, squared, train=(x, y), val=(x, y))
    options = {"n_steps": 20, "inner": nestor.SGD(0.1, momentum=0.5), "batch_size": 16}  # one batch has all examples
    fitted = nestor.fit(problem.bilevel(), {"x": x, "y": y}, hparams=tuned, **options)
    optimizer = torch.optim.SGD(nestor.param_groups(model, values(**tuned)), lr=0.1, momentum=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    undecayed = nestor.fit(problem.bilevel(), {"x": x, "y": y}, hparams={"l2": torch.full((4,), -30.0)}, **options)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(fitted.params[name], weight.detach(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(undecayed.params[name], weight, rtol=1e-2)  # the decays matter


def test_a_rater_scores_new_examples_as_its_file_does(tmp_path):
    x, y = torch.randn(20, 2), torch.randn(20, 1)
    squared = lambda outputs, batch: (outputs - batch["y"]).square().mean(1)
    rating = LossReweighting(nn.Linear(2, 1), reads="x")
    problem = nestor.Problem(nn.Linear(2, 1), rating, squared, squared, train=(x, y), val=(-x, y))
    trial = nestor.create_study().optimize(problem, 2, **QUICK)
    rater, new = trial.rater(rating), torch.randn(5, 2)
    safetensors.torch.save_file(rater.network.state_dict(), tmp_path / "rater.safetensors")
    plain = nn.Linear(2, 1)
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "rater.safetensors"))
    assert torch.equal(rater(new), plain(new).flatten().sigmoid())
    assert np.array_equal(plain.weight.detach(), trial.best_hparams.numpy()["loss_reweighting.weight"])
    assert not torch.equal(plain.weight, rating.init["loss_reweighting.weight"])  # it has learned
    with pytest.raises(ArgumentInvalid, match="Pass the LossReweighting"):
        trial.rater(cast(Any, plain))
    with pytest.raises(HparamNotFound):
        trial.rater(LossReweighting(nn.Linear(2, 1), name="other"))
