"""Searches that retrain against tuning inside one training run, at equal compute: 1, 10, 105,000 hyperparameters.

One network, and one decay for all of its weights, for each tensor, or for each weight. Random search, the
tree-structured Parzen estimator and a Gaussian process (Optuna's) retrain it for every proposal. The others tune inside
one training run, with the hypernetwork, unrolling, T1–T2 and the implicit function theorem. Compute is counted
in training gradients; see `examples.paper.retraining`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

import nestor
from examples.data import Images
from examples.paper.lab import Lab, Row, percent, spread
from examples.paper.networks import accuracy, cross_entropy
from examples.paper.pictures import Curve, curves
from examples.paper.plain import trained
from examples.paper.retraining import SEARCHES, Found, Inside, at, search
from nestor import Implicit
from nestor.hparams import L2

RANGE = (-12.0, -2.0)  # of the logarithms, for every method; tuning inside one run starts in its middle
START = sum(RANGE) / 2
OURS = "IFT (ours)"
INSIDE = {  # response, curvature products per outer step
    "T1-T2": (Implicit(nestor.Hessian(damping=0.0), nestor.Identity()), 1),
    "unrolled": (nestor.Unrolled(steps=5), 0),
    "hypernetwork": (nestor.Hypernetwork(), 7.25),
    OURS: (Implicit(nestor.GaussNewton(), nestor.WarmStarted(nestor.Neumann(2))), 4.25),
}
Per = Literal["global", "tensor", "weight"]
GRANULARITIES: tuple[Per, ...] = ("global", "tensor", "weight")


@dataclass(frozen=True)
class Sizes:
    n_train: int
    n_val: int
    n_test: int
    widths: tuple[int, ...]
    training: int  # gradients of one training run of a search
    budget: int  # total gradients
    patience: float  # seconds for the sampler's own work
    seeds: tuple[int, ...]


QUICK = Sizes(100, 200, 500, (8, 8, 8, 8), 150, 900, 2.0, (0,))
USUAL = Sizes(200, 500, 2_000, (120, 60, 40, 20), 300, 4_500, 20.0, (0, 1, 2))
FULL = Sizes(10_000, 10_000, 10_000, (120, 60, 40, 20), 5_000, 250_000, 600.0, tuple(range(10)))
INNER, INNER_STEPS, BATCH = nestor.Adam(1e-3), 5, 100
OUTER = nestor.Adam(0.2)


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    images = (lab.images() if lab.wanted else lab.images()[1:])[0]  # Fashion-MNIST, unless --data names another
    panels: dict[str, dict[str, Curve]] = {}
    for per in GRANULARITIES:
        count = sum(value.numel() for value in _problem(images, sizes, per, 0).bilevel().hparams.values())
        counted = f"{count:,} hyperparameter{'s' * (count > 1)}"
        runs = _runs(lab, images, sizes, per, counted)
        for part, title in (("val", "validation"), ("test", "test")):
            panels[f"{count:,}: {title} loss"] = {
                name: at(found, part, "loss") for name, found in runs.items() if found
            }
        rows = [_row(name, found, sizes) for name, found in runs.items()]
        lab.table(
            f"{counted}, {images.name}: {sizes.n_train:,} training and {sizes.n_val:,} validation "
            f"examples, {sizes.budget:,} training gradients, {len(sizes.seeds)} seeds",
            rows + _untuned(images, sizes, per),
        )
        loss = {name: _mean_last(found, "val") for name, found in runs.items() if found}
        best = min((name for name in SEARCHES if name in loss), key=loss.__getitem__)
        ours = loss[OURS]
        lab.found(
            f"{counted}: validation loss {ours:.3f} by the IFT, {loss[best]:.3f} by the best search "
            f"that retrains ({best})."
        )
    curves(lab.file("search.png"), panels, x="training gradients", y="loss", columns=2)


def _runs(lab: Lab, images: Images, sizes: Sizes, per: Per, what: str) -> dict[str, list[list[Found]]]:
    """Method → its curve for each seed; no curves if it found nothing in time."""
    study = lab.study(f"{images.name}, {what}")
    runs: dict[str, list[list[Found]]] = {}
    for name, (response, _) in INSIDE.items():
        inside = _inside(name, sizes)
        n_steps = inside.steps(sizes.budget)
        runs[name] = []
        for seed in sizes.seeds:
            trial = study.optimize(
                _problem(images, sizes, per, seed), n_steps=n_steps, inner=INNER, inner_steps=INNER_STEPS,
                batch_size=BATCH, outer=OUTER, response=response,
                warmup_steps=inside.warmup,
                evaluate_every=max(1, n_steps // 25), seed=seed, user_attrs={"method": name}, show_progress_bar=False,
            )  # fmt: skip
            runs[name].append(inside.found(trial))
    for name in SEARCHES:
        curves_of_seeds = []
        for seed in sizes.seeds:
            problem = _problem(images, sizes, per, seed)
            ranges = dict.fromkeys(problem.bilevel().hparams, RANGE)
            curves_of_seeds.append(
                search(
                    problem, ranges, sampler=name, inner=INNER, batch_size=BATCH, n_steps=sizes.training,
                    budget=sizes.budget, seed=seed,
                    patience=sizes.patience,
                )
            )  # fmt: skip
        runs[name] = [found for found in curves_of_seeds if found]
    return runs


def _inside(name: str, sizes: Sizes) -> Inside:
    """Each starts to tune where one training run of a search ends."""
    response, products = INSIDE[name]
    return Inside(response, INNER_STEPS, products, val=sizes.n_val / BATCH, warmup=sizes.training)


def _row(name: str, runs: list[list[Found]], sizes: Sizes) -> Row:
    if not runs:
        return {"method": name, "validation loss": f"no proposal in {sizes.patience:.0f} s"}
    last = [found[-1] for found in runs]
    short = f"{min(f.gradients for f in last):,.0f}"
    return _losses(name, [f.val for f in last], [f.test for f in last]) | {"gradients spent": short}


def _losses(name: str, val: list[dict[str, float]], test: list[dict[str, float]]) -> Row:
    return {
        "method": name,
        "validation loss": spread(metrics["loss"] for metrics in val),
        "test loss": spread(metrics["loss"] for metrics in test),
        "test accuracy": percent(metrics["accuracy"] for metrics in test),
    }


def _untuned(images: Images, sizes: Sizes, per: Per) -> list[Row]:
    """Plain training: as long as one run of a search, as long as ours, and with the validation labels, too."""
    ours = _inside(OURS, sizes)
    as_long = ours.warmup + ours.steps(sizes.budget) * INNER_STEPS
    rows = []
    for name, n_steps, both in (
        ("untuned", sizes.training, False),
        ("untuned, trained as long as ours", as_long, False),
        ("untuned, as long, on both", as_long, True),
    ):
        metrics = [
            trained(_problem(images, sizes, per, seed, both=both), INNER, n_steps, batch_size=BATCH, seed=seed)
            for seed in sizes.seeds
        ]
        row = _losses(name, [t["val"] for t in metrics], [t["test"] for t in metrics]) | {
            "gradients spent": f"{n_steps:,}"
        }
        rows.append(row | ({"validation loss": "trained on"} if both else {}))
    return rows


def _mean_last(runs: list[list[Found]], part: str) -> float:
    return sum(getattr(found[-1], part)["loss"] for found in runs) / len(runs)


def _problem(images: Images, sizes: Sizes, per: Per, seed: int, *, both: bool = False) -> nestor.Problem:
    chosen = torch.randperm(len(images.train[0]), generator=torch.Generator().manual_seed(seed))
    x, y = images.train
    seen, held = chosen[: sizes.n_train], chosen[sizes.n_train :][: sizes.n_val]
    train = torch.cat([seen, held]) if both else seen
    torch.manual_seed(seed)
    model = _deep(images.train[0][0].numel(), sizes.widths, images.classes)
    return nestor.Problem(
        model, L2(model, per=per, init=START).bounded(*RANGE).with_prior(0), cross_entropy, cross_entropy,
        metrics={"accuracy": accuracy},
        train=(x[train], y[train]), val=(x[held], y[held]),
        test=(images.test[0][: sizes.n_test], images.test[1][: sizes.n_test]),
    )  # fmt: skip


def _deep(inputs: int, widths: tuple[int, ...], classes: int) -> nn.Module:
    """Five linear layers: ten tensors."""
    sizes = [inputs, *widths, classes]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])
