"""A transform of training batches: the same draws in process, from a program and after a resume; mistakes are named."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import nestor_engine as engine
from nestor.errors import ArgumentInvalid, ColumnNotFound
from nestor_engine.hparams import L2, ExampleWeights, LabelCorrection
from nestor_engine.objective import Batch
from nestor_engine.problem.validation.checks import check
from nestor_engine.program import load

N, SIDE, CLASSES = 30, 6, 3


def cross_entropy(out: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(out, batch["y"], reduction="none")


def cropped(batch: Batch) -> Batch:
    """Every image shifted by up to one pixel and flipped or not, each by draws of its own, with noise."""
    x = batch["x"]
    n = x.shape[0]
    padded = F.pad(x, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, n, 1, 1, 1))
    rows, columns = down + torch.arange(SIDE)[:, None], right + torch.arange(SIDE)
    x = padded.gather(2, rows.expand(n, 1, SIDE, SIDE + 2)).gather(3, columns.expand(n, 1, SIDE, SIDE))
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    return {**batch, "x": x + 0.1 * torch.randn_like(x)}


def mixed(batch: Batch) -> Batch:
    """Mixup: each example with another one of the batch, in inputs and labels."""
    order = torch.randperm(batch["x"].shape[0])
    share = torch.rand(batch["x"].shape[0], 1, 1, 1)
    y = batch["y"] if batch["y"].is_floating_point() else F.one_hot(batch["y"], CLASSES).float()
    share_of_labels = share.flatten(1)
    return {
        **batch,
        "x": share * batch["x"] + (1 - share) * batch["x"][order],
        "y": share_of_labels * y + (1 - share_of_labels) * y[order],
    }


def problem(transform: Callable[[Any], Any] | None) -> engine.Problem:
    torch.manual_seed(0)
    x, y = torch.randn(N, 1, SIDE, SIDE), torch.arange(N) % CLASSES
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(32, CLASSES))
    hparams = [L2(model, per="tensor", init=-4.0), ExampleWeights(20)]
    return engine.Problem(
        model, hparams, cross_entropy, cross_entropy, train=(x[:20], y[:20]), val=(x[20:], y[20:]), transform=transform
    )


def config(**more: Any) -> engine.Config:
    trained = {"inner": engine.Adam(1e-2), "inner_steps": 2, "batch_size": 8, "n_steps": 3, "warmup_steps": 1}
    return engine.Config(**{**trained, **more})


def trajectory(bilevel: engine.Bilevel, data: engine.Data, **more: Any) -> list[engine.Step]:
    return list(engine.optimize(bilevel, data, config(**more)))


@pytest.mark.parametrize("transform", [cropped, mixed])
def test_a_transform_has_the_same_draws_in_process_from_a_program_and_without_a_trace(transform: Any):
    stated = problem(transform)
    report = stated.check()
    assert report.findings == ()
    written = report.program
    assert written is not None
    here = trajectory(stated.bilevel(), stated.data)
    shipped = trajectory(load(written.graphs, written.tensors), stated.data)
    untraced = trajectory(stated.bilevel(), stated.data, trace=False)
    without = trajectory(problem(None).bilevel(), stated.data)
    assert here[-1].state.save() == shipped[-1].state.save() == untraced[-1].state.save()
    assert here[-1].val_loss != without[-1].val_loss


def test_a_trial_with_a_transform_resumes_bit_for_bit():
    stated = problem(cropped)
    steps = trajectory(stated.bilevel(), stated.data)
    loaded = engine.State.load(steps[0].state.save())
    *_, resumed = engine.optimize(stated.bilevel(), stated.data, config(), loaded)
    assert resumed.state.save() == steps[-1].state.save()


def test_a_transform_changes_training_batches_alone_and_comes_before_the_kinds_of_hyperparameters():
    seen: list[torch.dtype] = []

    def recorded(batch: Batch) -> Batch:
        seen.append(batch["y"].dtype)
        return {**batch, "x": batch["x"] + 1, "doubled": 2 * batch["x"]}

    stated = problem(recorded)
    labels = LabelCorrection(stated.data.train["y"], classes=CLASSES, strength=4.0)
    stated.hparams = engine.Problem(
        stated.model, labels, cross_entropy, cross_entropy, train=stated.data.train, val=stated.data.val
    ).hparams
    bilevel = stated.bilevel()
    batch = stated.data.train | {"index": torch.arange(20)}
    prepared = bilevel.prepare(bilevel.values(bilevel.hparams), batch)
    assert seen == [torch.int64]  # LabelCorrection makes them probabilities
    assert torch.equal(prepared["x"], batch["x"] + 1)
    assert torch.equal(prepared["doubled"], 2 * batch["x"])
    assert prepared["y"].shape == (20, CLASSES)
    plain = problem(None).bilevel()
    for functions in (bilevel, plain):
        functions.val_loss_at(bilevel.params, bilevel.buffers, {}, stated.data.val | {"index": torch.arange(10)})
    assert len(seen) == 1


MISTAKES: dict[str, tuple[Callable[[Batch], Any], tuple[str, ...]]] = {
    "a tuple": (lambda batch: (batch["x"], batch["y"]), ("returned a tuple, not a dict of columns", "{**batch")),
    "nothing": (lambda batch: None, ("returned a NoneType", "{**batch")),
    "no index": (lambda batch: {"x": batch["x"], "y": batch["y"]}, ("left out the column 'index'", "{**batch")),
    "no labels": (lambda batch: {k: v for k, v in batch.items() if k != "y"}, ("left out the column 'y'", "{**batch")),
    "fewer examples": (lambda batch: {**batch, "x": batch["x"][1:]}, ("as the column 'x' of a batch of", "Keep the")),
    "a scalar": (lambda batch: {**batch, "x": batch["x"].sum()}, ("the shape () as the column 'x'", "Keep the")),
    "a number": (lambda batch: {**batch, "share": 0.5}, ("a float as the column 'share'", "a row for each example")),
    "another index": (lambda batch: {**batch, "index": batch["index"].float()}, ("changed the column 'index'",)),
    "writes": (lambda batch: {**batch, "x": batch["x"].add_(1)}, ("writes into the column 'x'", "Work on a copy")),
    "Python's random numbers": (
        lambda batch: {**batch, "x": batch["x"] * random.random()},
        ("Two calls with one seed give different batches", "Use torch's random functions"),
    ),
    "a missing column": (lambda batch: {**batch, "x": batch["z"]}, ("KeyError: 'z'", "It was given batch {x: ")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_transform_is_found_by_check_in_one_sentence(name: str):
    transform, parts = MISTAKES[name]
    (finding,) = check(problem(transform), ship=False).errors
    assert finding.where.startswith("transform")
    assert all(part in finding.sentence for part in parts), finding.sentence


def test_a_transform_that_is_no_function_is_refused():
    with pytest.raises(ArgumentInvalid, match=r"transform is 0\.5\. Pass a function from a batch to a batch"):
        problem(0.5)  # pyright: ignore[reportArgumentType] on purpose


# --- what a problem makes of its splits ------------------------------------------------------------------------------


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.first(first) + self.second(second)


def squared(out: Tensor, batch: Batch) -> Tensor:
    return (out - batch["y"]).square().mean()


def test_the_parts_of_an_input_are_the_arguments_of_the_model():
    model, a, b, y = Sum(), torch.randn(12, 2), torch.randn(12, 3), torch.randn(12, 1)
    nested = engine.Problem(model, L2(model), squared, squared, train=((a, b), y), val=((a, b), y))
    split = {"a": a, "b": b, "y": y}
    flat = engine.Problem(model, L2(model), squared, squared, train=split, val=split, inputs=("a", "b"))
    assert nested.inputs == ("x.0", "x.1")
    assert check(nested, ship=False).ok
    last, same = (trajectory(p.bilevel(), p.data)[-1] for p in (nested, flat))
    assert (last.train_loss, last.val_loss) == (same.train_loss, same.val_loss)


def test_parts_that_only_one_split_has_are_missed_by_name():
    model, a, b, y = Sum(), torch.randn(12, 2), torch.randn(12, 3), torch.randn(12, 1)
    with pytest.raises(ColumnNotFound, match=r"The model reads the column 'x\.0', but the val split has 'x', 'y'"):
        engine.Problem(model, L2(model), squared, squared, train=((a, b), y), val=(a, y))


def test_arrays_and_frames_fit_the_dtype_of_the_weights():
    frame = pd.DataFrame({"a": range(12), "b": [i / 3 for i in range(12)]})
    for model in (nn.Linear(2, 1), nn.Linear(2, 1).double()):
        split = (frame, frame[["b"]].to_numpy()[::-1])
        stated = engine.Problem(model, L2(model), squared, squared, train=split, val=split)
        assert stated.data.train["x"].dtype == stated.data.train["y"].dtype == model.weight.dtype
        assert check(stated, ship=False).ok


def test_data_made_under_inference_mode_train():
    with torch.inference_mode():
        split = TensorDataset(torch.randn(12, 2) * 1, torch.randn(12, 1))
    model = nn.Linear(2, 1)
    stated = engine.Problem(model, L2(model), squared, squared, train=split, val=split)
    assert check(stated, ship=False).ok
    assert len(trajectory(stated.bilevel(), stated.data)) == 3
