"""Distil a data set into an example a class, for softmax regression (the slides' Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import nestor
from examples.data import Images, Split
from examples.paper.lab import Lab, Row, percent
from examples.paper.networks import accuracy, cross_entropy, softmax_regression, tested
from examples.paper.pictures import pictures
from nestor.hparams import L2, DistilledData, Hyperparameters, LabelCorrection

INNER = nestor.SGD(0.05, momentum=0.9, steps=20)
# A logarithm, and the least that tuning may make of it. With less decay ten examples have no minimum that training
# reaches: the distilled set then suits the weights of this one run, which remember what they saw, and no new ones.
DECAY = -3.0
DECAYS = (-8.0, -6.0, -4.0, -2.0)  # the rivals get the one that is best on the test data


@dataclass(frozen=True)
class Case:
    """What is distilled."""

    name: str
    per_class: int = 1
    soft: bool = False


CASES = (Case("1 a class"), Case("1 a class, soft labels", soft=True), Case("5 a class", per_class=5))


@dataclass(frozen=True)
class Result:
    """Test accuracies of one seed, and the distilled pictures."""

    accuracies: dict[str, float]
    hyperparameters: int
    pictures: Tensor


def run(lab: Lab) -> None:
    seeds = lab.sized(quick=(0,), usual=(0, 1, 2), full=tuple(range(10)))
    rows: list[Row] = []
    for images in lab.images(most=1 if lab.size == "quick" else None):
        study, drawn = lab.study(images.name), {}
        for case in CASES[:1] if lab.size == "quick" else CASES:
            results = [distilled(lab, study, images, case, seed) for seed in seeds]
            rows.append(row_of(images, case, results))
            drawn[case.name] = results[0].pictures
            print(f"{images.name}, {case.name}: {rows[-1]['distilled']}", flush=True)
        pictures(lab.file(f"distill-{images.name.lower().replace(' ', '-')}.png"), drawn)
    lab.table("Test accuracy of softmax regression that is trained from scratch on a few examples", rows)
    for row in rows:
        lab.found(
            f"{row['data']}, {row['examples']}: {row['distilled']} after training on the distilled examples, "
            f"{row['random examples']} on as many real ones, {row['class means']} on means, {row['all data']} on all."
        )


def distilled(lab: Lab, study: nestor.Study, images: Images, case: Case, seed: int) -> Result:
    """Distil; then train anew on the result, and on what one would take otherwise."""
    used = lab.sized(quick=2_000, usual=6_000, full=len(images.train[0]))
    x, y = images.train[0][:used], images.train[1][:used]
    x0, y0 = DistilledData.start(x, y, per_class=case.per_class, kind="noise", seed=seed)
    x0 = 0.1 * x0  # where the data have no say, such as in the corners of MNIST, the noise stays as it is
    torch.manual_seed(seed)
    model = softmax_regression(x.shape[1:], images.classes)
    kinds: list[Hyperparameters] = [DistilledData(x0), L2(model, per="global", init=DECAY).bounded(DECAY, 0)]
    if case.soft:
        kinds.append(LabelCorrection(y0, classes=images.classes, strength=4.0))
    problem = nestor.Problem(
        model,
        hparams=kinds,
        train_loss=cross_entropy,
        val_loss=cross_entropy,
        metrics={"accuracy": accuracy},
        train=(x0, y0),
        val=(x, y),
        test=images.test,
    )
    n_steps = lab.sized(quick=60, usual=300, full=2_000)
    trial = study.optimize(
        problem,
        n_steps=n_steps,
        inner=INNER,
        outer=nestor.Adam(0.04, batch_size=2_000, schedule=nestor.CosineDecay(n_steps)),
        response=nestor.Implicit(nestor.Hessian(), nestor.WarmStarted(nestor.ConjugateGradient(20))),
        warmup_steps=100,
        evaluate_every=n_steps // 10,
        seed=seed,
        show_progress_bar=False,
        user_attrs={"case": case.name, "seed": seed},
    )
    tuned = {name: torch.as_tensor(value) for name, value in trial.hparams.items()}
    steps = lab.sized(quick=200, usual=500, full=2_000)

    def baseline(train: Split, batch: int | None = None) -> float:
        return max(
            from_scratch(images, train, [L2(model, per="global", init=decay)], seed=seed, n_steps=steps, batch=batch)
            for decay in DECAYS
        )

    start = lambda kind: DistilledData.start(x, y, per_class=case.per_class, kind=kind, seed=seed)
    accuracies = {
        "distilled": from_scratch(images, (x0, y0), kinds, seed=seed, n_steps=steps, hparams=tuned),
        "random examples": baseline(start("examples")),
        "class means": baseline(start("means")),
        "all data": baseline((x, y), batch=500),
    }
    return Result(accuracies, sum(value.numel() for value in tuned.values()), tuned["distilled_data"])


def from_scratch(
    images: Images,
    train: Split,
    kinds: Sequence[Hyperparameters],
    *,
    seed: int,
    n_steps: int,
    hparams: Any = None,
    batch: int | None = None,
) -> float:
    """Test accuracy of new weights, which no step of the distillation has seen, trained on `train` alone."""
    torch.manual_seed(seed + 1_000)
    model = softmax_regression(images.train[0].shape[1:], images.classes)
    problem = nestor.Problem(model, kinds, cross_entropy, cross_entropy, train=train, val=train, test=images.test)
    bilevel, data = problem.bilevel(), problem.data
    inner = nestor.SGD(INNER.lr, momentum=INNER.momentum, batch_size=batch)
    fitted = nestor.fit(bilevel, data.train, n_steps=n_steps, inner=inner, hparams=hparams, seed=seed)
    model.load_state_dict(fitted.params)
    return tested(model, images.test)


def row_of(images: Images, case: Case, results: Sequence[Result]) -> Row:
    """One row of the table: means and deviations over seeds, and the figures that they are of."""
    names = list(results[0].accuracies)
    figures = {name: [one.accuracies[name] for one in results] for name in names}
    return {
        "data": images.name,
        "examples": case.name,
        "hyperparameters": results[0].hyperparameters,
        **{name: percent(values) for name, values in figures.items()},
        "slides": "shown, without a figure" if case.name == CASES[0].name else None,
        "accuracies": figures,
    }
