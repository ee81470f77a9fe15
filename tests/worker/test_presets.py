"""Presets are functions of their description and a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nestor.data import digits
from nestor.data.draws import derive_seed, permutation
from nestor.schemas import Preset
from nestor_engine import Config, optimize
from nestor_engine.tensors.layout import shapes_of
from nestor_server.services.problems import architectures
from nestor_worker.runner import presets


def preset(**fields) -> Preset:
    return Preset.model_validate({"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50, **fields})


def same(a: dict | None, b: dict | None) -> bool:
    assert a is not None
    assert b is not None
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_problem():
    a, b = (presets.build(preset(label_noise=0.3), seed=7) for _ in range(2))
    assert all(same(a.data.splits[split], b.data.splits[split]) for split in ("train", "val", "test"))
    assert same(a.bilevel().params, b.bilevel().params)


def test_another_seed_gives_another_split_and_other_weights():
    a, b = (presets.build(preset(), seed=seed) for seed in (0, 1))
    assert not same(a.data.train, b.data.train)
    assert not same(a.bilevel().params, b.bilevel().params)


def test_splits_have_the_sizes_asked_for_and_pixels_lie_in_the_unit_interval():
    data = presets.build(preset(), seed=0).data
    assert data.sizes == {"train": 100, "val": 50, "test": 1_647}
    assert data.train["x"].dtype == torch.float32
    assert data.train["x"].min() == 0
    assert data.train["x"].max() == 1


def test_the_digits_are_those_of_scikit_learn():
    pixels, labels = load_digits(return_X_y=True)
    made = digits.splits(train_size=1_000, val_size=300, label_noise=0.0, seed=0)
    assert made is not None
    x, y = (np.concatenate([columns[name] for columns in made.values()]) for name in ("x", "y"))
    order = permutation(len(pixels), derive_seed(0, "split"))
    np.testing.assert_array_equal(x, (pixels / 16).astype("f4")[order], strict=True)
    np.testing.assert_array_equal(y, labels[order], strict=True)


@pytest.mark.parametrize("n", [1, 2, 10, 1_797])
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**40 + 17, 2**63 - 1])
def test_a_permutation_is_that_of_torch(n: int, seed: int):
    expected = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert permutation(n, seed).tolist() == expected.tolist()


def test_label_noise_moves_that_share_of_the_training_labels_only():
    clean, noisy = (presets.build(preset(label_noise=noise), seed=3).data for noise in (0.0, 0.45))
    moved = clean.train["y"] != noisy.train["y"]
    assert moved.sum() == 45
    assert torch.equal(noisy.train["y"][moved], (clean.train["y"][moved] + 1) % 10)
    assert torch.equal(clean.train["x"], noisy.train["x"])
    assert same(clean.val, noisy.val)
    assert same(clean.test, noisy.test)


def test_every_kind_of_hyperparameter_can_be_tuned_together():
    kinds = [
        {"kind": "l2", "per": "tensor", "init": -5},
        {"kind": "l1", "per": "global"},
        "example_weights",
        {"kind": "label_correction", "strength": 2},
        {"kind": "label_smoothing", "init": 0.05, "per": "class"},
        {"kind": "class_weights", "normalize": "sigmoid"},
        {"kind": "l2", "per": "output", "only": ["2"]},
    ]
    problem = presets.build(preset(hyperparameters=kinds), seed=0)
    bilevel = problem.bilevel()
    shapes = {name: tuple(h.shape) for name, h in bilevel.hparams.items()}
    assert shapes == {"l2": (4,), "l1": (), "example_weights": (100,), "label_correction": (100, 10)} | {
        **{"label_smoothing": (10,), "class_weights": (10,), "l2.2.weight": (10,), "l2.2.bias": ()}
    }
    steps = list(optimize(bilevel, problem.data, Config(n_steps=2)))
    assert [step.number for step in steps] == [1, 2]
    assert not same(steps[-1].state.hparams, bilevel.hparams)


def test_every_kind_takes_a_prior_and_has_none_by_default():
    """Trials of earlier versions have presets without priors, and go on without."""
    kinds = ["l2", "l1", "example_weights", "label_correction", "class_weights"]
    assert not presets.build(preset(hyperparameters=kinds), seed=0).bilevel().priors
    asked = [{"kind": kind, "prior": 0.5} for kind in kinds]
    bilevel = presets.build(preset(hyperparameters=asked), seed=0).bilevel()
    assert dict(bilevel.priors) == dict.fromkeys(bilevel.hparams, 0.5)


def test_the_server_knows_what_a_preset_trains():
    deep = preset(model={"kind": "mlp", "hidden": [8, 5]})
    bilevel = presets.build(deep, seed=0).bilevel()
    built = {"params": shapes_of(bilevel.params), "buffers": shapes_of(bilevel.buffers)}
    assert architectures.of_preset(deep) == built
