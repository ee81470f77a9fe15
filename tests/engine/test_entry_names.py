"""What the entries of each kind of hyperparameters are called, also after the way through a program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nestor.program_format import EntryNames, flat_index, multi_index
from nestor_engine import Problem, hparams
from nestor_engine.hparams import Hyperparameters, compose
from nestor_engine.program import load

CONV = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36, 2))
DENSE = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2), nn.Linear(2, 2))
DENSE[3].requires_grad_(False)
IMAGES, LABELS = torch.randn(12, 3, 4, 4), torch.arange(12) % 2

# Kind → how it is made, and the name of some entries: (hyperparameter, position) → name.
KINDS: dict[str, tuple[Callable[[], Hyperparameters], dict[tuple[str, tuple[int, ...]], str]]] = {
    "L2": (
        lambda: hparams.L2(CONV),
        {
            ("l2.0.weight", (3, 2, 0, 1)): "0.weight, filter 3, channel 2, row 0, column 1",
            ("l2.0.bias", (3,)): "0.bias, unit 3",
            ("l2.3.weight", (1, 35)): "3.weight, row 1, column 35",
        },
    ),
    "L2 per tensor": (lambda: hparams.L2(CONV, per="tensor"), {("l2", (2,)): "3.weight"}),
    "L2 per input": (
        lambda: hparams.L2(DENSE, per="input"),
        {("l2.0.weight", (2,)): "0.weight, input 2", ("l2.0.bias", ()): "0.bias"},
    ),
    "L2 per output": (lambda: hparams.L2(DENSE, per="output"), {("l2.0.weight", (3,)): "0.weight, output 3"}),
    "L2 per channel": (
        lambda: hparams.L2(CONV, per="channel"),
        {("l2.0.weight", (3,)): "0.weight, filter 3", ("l2.3.weight", ()): "3.weight"},
    ),
    "L1": (lambda: hparams.L1(CONV, per="global"), {("l1", ()): "l1"}),
    "InitializationScale": (
        lambda: hparams.InitializationScale(DENSE),
        {("initialization_scale", (3,)): "2.bias"},
    ),
    "Dropout": (lambda: hparams.Dropout(CONV), {("dropout", (0,)): "2"}),
    "ExampleWeights": (lambda: hparams.ExampleWeights(12), {("example_weights", (11,)): "example 11"}),
    "GroupWeights": (lambda: hparams.GroupWeights("y", 2), {("group_weights", (1,)): "group 1"}),
    "ClassWeights": (lambda: hparams.ClassWeights(2), {("class_weights", (1,)): "class 1"}),
    "LossWeights": (lambda: hparams.LossWeights(["depth", "edges"]), {("loss_weights", (1,)): "edges"}),
    "LossWeights by number": (lambda: hparams.LossWeights(2), {("loss_weights", (1,)): "task 1"}),
    "LossWeights of odd names": (lambda: hparams.LossWeights(["a\n", ""]), {("loss_weights", (1,)): "task 1"}),
    "LabelSmoothing": (
        lambda: hparams.LabelSmoothing(2, per="class"),
        {("label_smoothing", (1,)): "class 1"},
    ),
    "LabelCorrection": (
        lambda: hparams.LabelCorrection(LABELS, 2),
        {("label_correction", (5, 1)): "example 5, class 1"},
    ),
    "LossReweighting": (
        lambda: hparams.LossReweighting(nn.Linear(1, 1), reads="loss"),
        {("loss_reweighting.weight", (0, 0)): "weight, row 0, column 0"},
    ),
    "DistilledData": (
        lambda: hparams.DistilledData(IMAGES),
        {("distilled_data", (5, 2, 0, 3)): "example 5, channel 2, row 0, column 3"},
    ),
    "DistilledData of rows": (
        lambda: hparams.DistilledData(torch.randn(12, 3)),
        {("distilled_data", (5, 2)): "example 5, feature 2"},
    ),
    "DistilledData of pictures without channels": (
        lambda: hparams.DistilledData(torch.randn(2, 1, 2)),
        {("distilled_data", (1, 0, 1)): "example 1, row 0, column 1"},
    ),
    "DistilledData of volumes": (
        lambda: hparams.DistilledData(torch.randn(2, 1, 3, 1, 2)),
        {("distilled_data", (1, 0, 2, 0, 1)): "example 1, channel 0, depth 2, row 0, column 1"},
    ),
    "DistilledData of many dimensions": (
        lambda: hparams.DistilledData(torch.randn(2, 1, 1, 1, 1, 2)),
        {
            ("distilled_data", (1, 0, 0, 0, 0, 1)): "example 1, dimension 1: 0, dimension 2: 0, dimension 3: 0, "
            "dimension 4: 0, dimension 5: 1"
        },
    ),
    "Augmentation": (
        lambda: hparams.Augmentation(nn.Conv2d(4, 3, 1)),
        {("augmentation.weight", (2, 3, 0, 0)): "weight, filter 2, channel 3, row 0, column 0"},
    ),
    "Submodule": (lambda: hparams.Submodule(DENSE, "3"), {("3.weight", (1, 0)): "3.weight, row 1, column 0"}),
    "Custom": (
        lambda: hparams.Custom({"temperature": torch.zeros(()), "table": torch.zeros(2, 6)}),
        {("temperature", ()): "temperature", ("table", (1, 5)): "table[1, 5]"},
    ),
}  # fmt: skip
PARTS = {"CompositeHyperparameters", "Hyperparameters", "TRANSFORMS", "UNet"}


def called(kind: Hyperparameters, name: str, position: tuple[int, ...]) -> str:
    shape = tuple(kind.init[name].shape)
    return kind.entry_names.get(name, EntryNames()).name(name, shape, flat_index(shape, position))


def test_every_kind_is_here():
    from nestor import hparams as public

    assert {name.split()[0] for name in KINDS} == set(public.__all__) - PARTS


@pytest.mark.parametrize("name", KINDS)
def test_an_entry_is_called_by_what_it_belongs_to(name: str):
    make, names = KINDS[name]
    kind = compose(make())
    for (hparam, position), expected in names.items():
        assert called(kind, hparam, position) == expected


@pytest.mark.parametrize("name", KINDS)
def test_names_of_different_entries_differ_and_axes_fit_the_shapes(name: str):
    kind = compose(KINDS[name][0]())
    for hparam, value in kind.init.items():
        names = kind.entry_names.get(hparam, EntryNames())
        assert names.axes is None or len(names.axes) == value.ndim
        all_names = [names.name(hparam, value.shape, i) for i in range(value.numel())]
        assert len(set(all_names)) == value.numel()


def test_a_kind_that_is_renamed_keeps_its_names():
    both = compose([hparams.ExampleWeights(3), hparams.ExampleWeights(3)])
    assert called(both, "example_weights_2", (2,)) == "example 2"


def test_a_program_has_the_names():
    def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(outputs, batch["y"], reduction="none")

    def mean(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(outputs, batch["y"])

    kinds = [hparams.L2(DENSE), hparams.L1(DENSE, per="tensor"), hparams.ExampleWeights(12)]
    x = torch.randn(12, 3)
    problem = Problem(DENSE, kinds, loss, mean, train=(x, LABELS), val=(x, LABELS))
    program = problem.export()
    loaded = load(program.graphs, program.tensors)
    assert loaded.entry_names == problem.bilevel().entry_names
    assert loaded.entry_names["l1"] == EntryNames(axes=(("0.weight", "0.bias", "2.weight", "2.bias"),))


def test_names_that_do_not_fit_the_shape_are_not_used():
    """A program may come from anyone."""
    assert EntryNames("w", ("row",)).name("l2", (2, 3), 5) == "l2[1, 2]"
    assert EntryNames("w", (("a", "b"),)).name("l2", (3,), 2) == "l2[2]"


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 5)])
def test_flat_indices_and_positions_are_inverse(shape: tuple[int, ...]):
    positions = list(itertools.product(*map(range, shape)))
    for index in range(math.prod(shape)):
        assert flat_index(shape, multi_index(shape, index)) == index
    assert [multi_index(shape, i) for i in range(math.prod(shape))] == positions
