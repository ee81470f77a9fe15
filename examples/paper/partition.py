"""How to divide examples when there are many hyperparameters, and what helps once they overfit the validation data.

The slides ask: "How should training / validation / testing partitions be constructed when we have many
hyperparameters? When does it just overfit the validation set?" First, weight decays of three granularities are tuned
on different fractions of the same labeled examples, each decay for itself. Then, with the finest decays, it compares
remedies: validation folds with their own weights inside one trial, early stopping on held-out examples, and a level for
each tensor with a prior on the deviations from it, which decays have by default. Each trial ends with training on all
labeled examples with the tuned values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

import nestor
from examples.data import Images
from examples.paper.lab import Lab, Row, percent, spread
from examples.paper.networks import accuracy, cross_entropy
from examples.paper.pictures import Curve, curves
from examples.paper.plain import Tensors, trained
from examples.paper.plain import tuned as recommended
from nestor.hparams import L2

Per = Literal["global", "tensor", "weight"]
GRANULARITIES: tuple[Per, ...] = ("global", "tensor", "weight")
START, BOUNDS = -7.0, (-12.0, 0.0)
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "early stopping": {"early_stopping": nestor.EarlyStopping(patience=20, fraction=0.5)},
    "folds": {"folds": nestor.Folds(5)},
    "folds and early stopping": {
        "folds": nestor.Folds(5),
        "early_stopping": nestor.EarlyStopping(patience=20, fraction=0.5),
    },
    "levels, prior 0.001": {"prior": 0.001},
    "levels, prior 0.01, the default": {"prior": 0.01},
    "levels, prior 0.1": {"prior": 0.1},
}


@dataclass(frozen=True)
class Sizes:
    labeled: int  # training and validation examples together
    n_test: int
    width: int
    n_steps: int  # outer ones
    shares: tuple[float, ...]  # of the labeled examples that validate
    decays: tuple[float, ...]  # logarithms that the baseline chooses from
    seeds: tuple[int, ...]


QUICK = Sizes(200, 500, 16, 30, (0.2,), (-7.0, -4.0), (0,))
USUAL = Sizes(500, 4_000, 64, 150, (0.1, 0.2, 0.5, 0.8), (-8.0, -7.0, -6.0, -5.0, -4.0, -3.0), (0, 1, 2, 3, 4))
FULL = Sizes(50_000, 10_000, 512, 2_000, (0.02, 0.1, 0.2, 0.5, 0.8), (-10.0, -8.0, -6.0, -5.0, -4.0), tuple(range(10)))
SHARE = 0.2  # validation fraction in the comparison of the remedies
INNER, INNER_STEPS, BATCH = nestor.Adam(1e-3), 10, 100
OUTER = nestor.Adam(0.1)
WARMUP = 200  # inner steps


@dataclass(frozen=True)
class Reached:
    """The results of a trial: on validation and test data, and after training again with its hyperparameters."""

    val: float
    test: float
    test_accuracy: float
    again: dict[str, float]  # test loss and accuracy after training on all labeled examples
    steps: int


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    images = (lab.images() if lab.wanted else lab.images()[1:])[0]  # Fashion-MNIST, unless --data names another
    divided(lab, images, sizes)
    remedied(lab, images, sizes)


def divided(lab: Lab, images: Images, sizes: Sizes) -> None:
    """Validation and test loss against the number of hyperparameters and the validation share."""
    study = lab.study(f"{images.name}, {sizes.labeled:,} labeled examples, shares")
    rows: list[Row] = []
    panels: dict[str, dict[str, Curve]] = {}
    mean: dict[tuple[Per, float], tuple[float, float]] = {}
    for per in GRANULARITIES:
        count = sum(value.numel() for value in _problem(images, sizes, per, SHARE, 0).bilevel().hparams.values())
        for share in sizes.shares:
            runs = [tuned(study, images, sizes, per, share, seed) for seed in sizes.seeds]
            rows.append({"hyperparameters": count, "validation share": f"{share:.0%}", **_summary(runs)})
            mean[per, share] = _mean([r.val for r in runs]), _mean([r.test for r in runs])
        metrics = [mean[per, share] for share in sizes.shares]
        panels[f"{count:,} hyperparameters"] = {
            "validation loss": (sizes.shares, [val for val, _ in metrics]),
            "test loss": (sizes.shares, [test for _, test in metrics]),
        }
    lab.table(
        f"{images.name}, {sizes.labeled:,} labeled examples, {sizes.n_steps} outer steps, {len(sizes.seeds)} seeds",
        rows,
    )
    curves(lab.file("partition.png"), panels, x="share that validates", y="loss", columns=3)
    share = sizes.shares[0]
    gap = {per: mean[per, share][1] - mean[per, share][0] for per in ("global", "weight")}
    lab.found(
        f"With {share:.0%} for validation, the test loss lies {gap['global']:.2f} above the validation loss with one "
        f"decay, and {gap['weight']:.2f} above it with a decay for each weight."
    )


def remedied(lab: Lab, images: Images, sizes: Sizes) -> None:
    """What the remedies gain with a decay for each weight, against one untuned decay."""
    study = lab.study(f"{images.name}, {sizes.labeled:,} labeled examples, remedies")
    rows = []
    reached: dict[str, list[Reached]] = {}
    for name, options in REMEDIES.items():
        runs = [tuned(study, images, sizes, "weight", SHARE, seed, remedy=name, **options) for seed in sizes.seeds]
        reached[name] = runs
        rows.append({"remedy": name, **_summary(runs), "outer steps": spread(r.steps for r in runs)})
    rows += [
        {
            "remedy": "*none: one decay for all, chosen on the validation data*",
            **_again([by_grid(images, sizes, seed, best_by="val") for seed in sizes.seeds]),
        },
        {
            "remedy": "*none: one decay for all, the best on the test data*",
            **_again([by_grid(images, sizes, seed, best_by="test") for seed in sizes.seeds]),
        },
    ]
    lab.table(
        f"A decay for each weight, {SHARE:.0%} of {sizes.labeled:,} examples validate, {len(sizes.seeds)} seeds",
        rows,
    )
    test = {name: _mean([r.test for r in runs]) for name, runs in reached.items()}
    both = "folds and early stopping"
    lab.found(
        f"Test loss {test['none']:.3f} without a remedy, {test['early stopping']:.3f} with early stopping, "
        f"{test['folds']:.3f} with folds, {test[both]:.3f} with both, "
        f"{test['levels, prior 0.01, the default']:.3f} with levels."
    )


def tuned(
    study: nestor.Study,
    images: Images,
    sizes: Sizes,
    per: Per,
    share: float,
    seed: int,
    *,
    remedy: str = "",
    prior: float = 0.0,
    **options: Any,
) -> Reached:
    """A trial, and then training on all labeled examples for as long, with its best values."""
    trial = study.optimize(
        _problem(images, sizes, per, share, seed, prior=prior), n_steps=sizes.n_steps, inner=INNER,
        inner_steps=INNER_STEPS, batch_size=BATCH, outer=OUTER, warmup_steps=WARMUP,
        evaluate_every=5, seed=seed, show_progress_bar=False, **options,
        user_attrs={"per": per, "validation share": share, "remedy": remedy},
    )  # fmt: skip
    steps = trial.steps
    folds = options["folds"].count if "folds" in options else 1
    best = trial.best_step if "early_stopping" in options else None
    tested = [step for step in steps if step.test_loss is not None]
    at = min(tested, key=lambda step: abs(step.number - best)) if best else tested[-1]
    return Reached(
        val=_mean([step.val_loss for step in steps if at.number - folds < step.number <= at.number]),
        test=float(at.test_loss or 0),
        test_accuracy=at.test_metrics["accuracy"],
        again=on_all(images, sizes, per, recommended(trial), seed),
        steps=len(steps),
    )


def on_all(images: Images, sizes: Sizes, per: Per, hparams: Tensors, seed: int) -> dict[str, float]:
    """Metrics on test data after training on all labeled examples with these hyperparameters."""
    problem = _problem(images, sizes, per, SHARE, seed, train_on_all=True)
    n_steps = WARMUP + sizes.n_steps * INNER_STEPS
    return trained(problem, INNER, n_steps, batch_size=BATCH, hparams=hparams, seed=seed, splits=("test",))["test"]


def by_grid(images: Images, sizes: Sizes, seed: int, *, best_by: str) -> dict[str, float]:
    """The same with the one decay that is best on the validation data or on the test data."""
    n_steps = WARMUP + sizes.n_steps * INNER_STEPS
    problem = _problem(images, sizes, "global", SHARE, seed)
    (name,) = problem.bilevel().hparams
    grid = [{name: torch.tensor(decay)} for decay in sizes.decays]
    if best_by == "test":
        return min(
            (on_all(images, sizes, "global", decay, seed) for decay in grid), key=lambda metrics: metrics["loss"]
        )
    of = lambda decay: trained(problem, INNER, n_steps, batch_size=BATCH, hparams=decay, seed=seed, splits=("val",))
    validated = lambda decay: of(decay)["val"]["loss"]
    return on_all(images, sizes, "global", min(grid, key=validated), seed)


def _problem(
    images: Images,
    sizes: Sizes,
    per: Per,
    share: float,
    seed: int,
    *,
    train_on_all: bool = False,
    prior: float = 0.0,
) -> nestor.Problem:
    chosen = torch.randperm(len(images.train[0]), generator=torch.Generator().manual_seed(seed))[: sizes.labeled]
    n_val = round(share * sizes.labeled)
    val, train = chosen[:n_val], chosen if train_on_all else chosen[n_val:]
    x, y = images.train
    torch.manual_seed(seed)
    inputs = images.train[0][0].numel()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, sizes.width), nn.GELU(), nn.Linear(sizes.width, images.classes)
    )
    return nestor.Problem(
        model, L2(model, per=per, init=START).bounded(*BOUNDS).with_prior(prior), cross_entropy, cross_entropy,
        metrics={"accuracy": accuracy}, train=(x[train], y[train]), val=(x[val], y[val]),
        test=(images.test[0][: sizes.n_test], images.test[1][: sizes.n_test]),
    )  # fmt: skip


def _summary(runs: list[Reached]) -> Row:
    return {
        "validation loss": spread(r.val for r in runs),
        "test loss": spread(r.test for r in runs),
        "test accuracy": percent(r.test_accuracy for r in runs),
        **_again([r.again for r in runs]),
    }


def _again(metrics: list[dict[str, float]]) -> Row:
    return {
        "test loss, trained on all": spread(t["loss"] for t in metrics),
        "accuracy, trained on all": percent(t["accuracy"] for t in metrics),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
