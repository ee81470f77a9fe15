"""Overfit the validation data: a weight decay for every weight, on 50 + 50 examples (the slides' Figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import nestor
from examples.data import Images, Split
from examples.paper.lab import Lab, timed
from examples.paper.networks import accuracy, alexnet, count, cross_entropy, mlp, resnet18, softmax_regression, tested
from examples.paper.pictures import curves
from examples.paper.plain import trained
from nestor.hparams import L2

EXAMPLES = 50  # of the training and of the validation data, each
BOUNDS = (-16.0, 0.0)  # of a decay's logarithm: from no effect to a weight of zero; beyond, training is unstable


@dataclass(frozen=True)
class Case:
    """A network and its number of steps."""

    name: str
    network: Callable[[torch.Size, int], nn.Module]
    lr: float
    n_steps: int


def cases(lab: Lab) -> list[Case]:
    """The four networks of the slides. Without a GPU, AlexNet and ResNet-18 are reduced to a million weights."""
    wide = lab.sized(quick=(12, 6), usual=(32, 20), full=(64, 64))
    steps = lab.sized(quick=(20, 18, 24, 32), usual=(400, 400, 280, 40), full=(500, 500, 500, 200))
    return [
        Case("linear", softmax_regression, 1e-2, steps[0]),
        Case("MLP", mlp, 3e-3, steps[1]),
        Case("AlexNet", lambda shape, classes: alexnet(shape, classes, width=wide[0]), 1e-3, steps[2]),
        Case("ResNet-18", lambda shape, classes: resnet18(shape, classes, width=wide[1]), 1e-3, steps[3]),
    ]


def run(lab: Lab) -> None:
    panels, rows = {}, []
    for images in lab.images(most=1 if lab.size == "quick" else None):
        study = lab.study(images.name)
        for case in cases(lab):
            row, trial = tuned(lab, study, images, case)
            rows.append(row)
            steps = [step for step in trial.steps if step.val_metrics]
            errors = [1 - step.val_metrics["accuracy"] for step in steps]
            panels[f"{images.name}, {case.name}"] = {
                "validation loss": ([step.number for step in steps], [step.val_loss for step in steps]),
                "validation error": ([step.number for step in steps], errors),
                "test error": tuple(
                    zip(*((s.number, 1 - s.test_metrics["accuracy"]) for s in steps if s.test_metrics), strict=True)
                ),
            }
    lab.table("Accuracy with a decay for every weight, tuned on the validation data by the identity inverse", rows)
    curves(lab.file("overfit.png"), panels, x="outer step", y="loss, error")
    perfect = sum(row["training"] == row["validation"] == 1 for row in rows)
    lab.found(
        f"{perfect} of {len(rows)} networks reach 100 % training and validation accuracy, the largest with "
        f"{max(row['hyperparameters'] for row in rows):,} hyperparameters; their test accuracy is "
        f"{min(row['test'] for row in rows):.0%} to {max(row['test'] for row in rows):.0%}, and "
        f"{min(row['untuned test'] for row in rows):.0%} to {max(row['untuned test'] for row in rows):.0%} untuned."
    )


def tuned(lab: Lab, study: nestor.Study, images: Images, case: Case) -> tuple[dict, nestor.Trial]:
    """One network, tuned, and the same network trained for as long without tuning."""
    train, val, test = splits(images, seed=0, test_size=lab.sized(quick=500, usual=2_000, full=10_000))
    torch.manual_seed(0)
    model = case.network(images.train[0].shape[1:], images.classes)
    problem = nestor.Problem(
        model,
        hparams=L2(model, per="weight", init=-6.0).bounded(*BOUNDS).with_prior(0),
        train_loss=cross_entropy,
        val_loss=cross_entropy,
        metrics={"accuracy": accuracy},
        train=train,
        val=val,
        test=test,
    )
    inner = nestor.Adam(case.lr, clip_norm=1.0)
    trial, seconds = timed(
        lambda: study.optimize(
            problem,
            n_steps=case.n_steps,
            inner=inner,
            inner_steps=5,
            batch_size=EXAMPLES,
            outer=nestor.RMSprop(0.2),
            response=nestor.Implicit(nestor.Hessian(), nestor.Identity()),
            evaluate_every=max(1, case.n_steps // lab.sized(quick=5, usual=20, full=20)),
            show_progress_bar=False,
            user_attrs={"network": case.name},
        )
    )
    as_long = 5 * case.n_steps  # as the trial
    untuned = trained(problem, inner, as_long, batch_size=EXAMPLES, splits=("test",))["test"]
    trial.load_weights(model, step="latest")
    row = {
        "data": images.name,
        "network": case.name,
        "hyperparameters": count(model),
        "steps": case.n_steps,
        "training": tested(model, train),
        "validation": tested(model, val),
        "test": tested(model, test),
        "untuned test": untuned["accuracy"],
        "slides": "100 % training and validation, test significantly lower",
        "seconds": round(seconds),
    }
    print(f"{images.name}, {case.name}: {row['training']:.0%} {row['validation']:.0%} {row['test']:.0%}", flush=True)
    return row, trial


def splits(images: Images, *, seed: int, test_size: int) -> tuple[Split, Split, Split]:
    """Fifty training and fifty validation examples, and test examples."""
    x, y = images.train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, second = order[:EXAMPLES], order[EXAMPLES : 2 * EXAMPLES]
    return (x[first], y[first]), (x[second], y[second]), (images.test[0][:test_size], images.test[1][:test_size])
