"""Data cleaning: a weight for each training example, learned from a few clean examples, against label noise.

This is the standard task of the field; it is not in the slides. Labels of training examples are replaced by another
class, uniformly, with a probability of 30, 50 or 70 %. A small validation split is clean. A trial tunes a weight for
every training example and a decay for every tensor. Then the network trains once more on training and validation data
together, with the tuned values. The baselines have the same information or more: a grid of decays chosen on the
validation data; training on the validation data alone, and on both, with the decay that is best *on the test data*;
and the oracle, which trains on the examples with correct labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nestor
from examples.data import Images, Split, concatenate
from examples.paper.lab import Lab, percent, spread
from examples.paper.networks import accuracy, cross_entropy
from examples.paper.plain import trained
from nestor.hparams import L2, ExampleWeights

DECAYS = (-9.0, -6.0, -4.5)  # logarithms; the rivals' grid
INITIAL_DECAY = -6.0
UNTUNED = "training data, no weights"
ORACLE = "oracle: the examples with right labels"
ALONE = "validation data alone"
BOTH = "both together, no weights"
OURS = "both together, learned weights (ours)"
AS_LEFT = "as the tuning left it (ours)"


@dataclass(frozen=True)
class Sizes:
    n_train: int
    n_val: int
    n_steps: int  # outer ones, of five inner steps each
    hidden: int
    seeds: tuple[int, ...]
    noise: tuple[float, ...]


QUICK = Sizes(1_000, 100, 40, 32, (0,), (0.7,))
USUAL = Sizes(5_000, 200, 200, 100, (0, 1, 2), (0.3, 0.5, 0.7))
FULL = Sizes(50_000, 1_000, 4_000, 512, tuple(range(10)), (0.3, 0.5, 0.7))

INNER, INNER_STEPS, BATCH = nestor.Adam(1e-3), 5, 100
OUTER = nestor.Adam(0.1)
RESPONSE = nestor.Implicit(nestor.GaussNewton(damping=0.1), nestor.WarmStarted(nestor.Neumann(2)))


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    for images in lab.images() if lab.wanted else lab.images()[1:2]:  # Fashion-MNIST, unless others are wanted
        rows = [_row(lab, images, sizes, noise) for noise in sizes.noise]
        names = (UNTUNED, ALONE, BOTH, AS_LEFT, OURS, ORACLE)
        lab.table(
            f"Test accuracy, {images.name}: {sizes.n_train:,} training examples, {sizes.n_val} clean validation "
            f"examples, {sizes.n_steps * 5:,} inner steps, {len(sizes.seeds)} seeds",
            [
                {"training on": name} | {f"{row['noise']:.0%} noise": percent(row[name]) for row in rows}
                for name in names
            ],
        )
        lab.table(
            "How well a low weight tells a wrong label (AUROC; 0.5 is chance)",
            [{f"{row['noise']:.0%} noise": spread(row["auroc"]) for row in rows}],
        )
        for row in rows:
            mean = {name: sum(row[name]) / len(row[name]) for name in names}
            baseline = max((UNTUNED, ALONE, BOTH), key=mean.__getitem__)
            lab.found(
                f"{images.name}, {row['noise']:.0%} noise: learned weights {mean[OURS]:.1%}, the best baseline "
                f"({baseline}) {mean[baseline]:.1%}, the oracle {mean[ORACLE]:.1%}."
            )


def _row(lab: Lab, images: Images, sizes: Sizes, noise: float) -> dict:
    """For each way of training, test accuracies by seed."""
    study = lab.study(f"{images.name}, {noise:.0%} label noise")
    runs = [_accuracies(study, images, sizes, noise, seed) for seed in sizes.seeds]
    return {"noise": noise} | {name: [accuracies[name] for accuracies in runs] for name in runs[0]}


def _accuracies(study: nestor.Study, images: Images, sizes: Sizes, noise: float, seed: int) -> dict[str, float]:
    train, val, test, wrong = corrupted(images, sizes, noise, seed)
    trial = study.optimize(
        problem(sizes, seed, train, val, test), n_steps=sizes.n_steps, inner=INNER,
        inner_steps=INNER_STEPS, batch_size=BATCH, outer=OUTER, response=RESPONSE,
        evaluate_every=20, seed=seed, wait=False, show_progress_bar=False,
    )  # fmt: skip

    def grid(on: Split) -> list[tuple[float, float]]:  # while the trial runs
        return [_plainly(sizes, seed, on, val, test, decay=decay) for decay in DECAYS]

    right = (train[0][~wrong], train[1][~wrong])
    both = concatenate(train, val)
    accuracies = {UNTUNED: max(grid(train))[1], ORACLE: max(grid(right))[1]}
    accuracies |= {name: max(on_test for _, on_test in grid(on)) for name, on in ((ALONE, val), (BOTH, both))}
    confirmed = trial.wait().confirm(seeds=1, on="train+val")
    accuracies[OURS] = confirmed.mean("train+val")["test accuracy"]
    accuracies[AS_LEFT] = confirmed.tuned.test_metrics["accuracy"]
    accuracies["auroc"] = auroc(-torch.as_tensor(trial.best_hparams["example_weights"]), wrong)
    return accuracies


def corrupted(images: Images, sizes: Sizes, noise: float, seed: int) -> tuple[Split, Split, Split, Tensor]:
    """Training data with wrong labels, clean validation data, all test data, and which labels are wrong (n_train,)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images.train[0]), generator=generator)[: sizes.n_train + sizes.n_val]
    x, y = images.train[0][chosen].flatten(1), images.train[1][chosen]
    n = sizes.n_train
    wrong = torch.rand(n, generator=generator) < noise
    other = (y[:n] + torch.randint(1, images.classes, (n,), generator=generator)) % images.classes
    noisy = torch.where(wrong, other, y[:n])
    return (x[:n], noisy), (x[n:], y[n:]), (images.test[0].flatten(1), images.test[1]), wrong


def problem(
    sizes: Sizes, seed: int, train: Split, val: Split, test: Split, decay: float = INITIAL_DECAY
) -> nestor.Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(train[0].shape[1], sizes.hidden), nn.GELU(), nn.Linear(sizes.hidden, 10))
    kinds = [L2(model, per="tensor", init=decay), ExampleWeights(len(train[0]))]
    metrics = {"accuracy": accuracy}
    return nestor.Problem(
        model, kinds, cross_entropy, cross_entropy, metrics=metrics, train=train, val=val, test=test
    )  # fmt: skip


def _plainly(
    sizes: Sizes,
    seed: int,
    train: Split,
    val: Split,
    test: Split,
    *,
    decay: float = 0.0,
) -> tuple[float, float]:
    """Validation and test accuracy of one plain training, of as many inner steps as a trial takes."""
    stated = problem(sizes, seed, train, val, test, decay)
    metrics = trained(stated, INNER, INNER_STEPS * sizes.n_steps, batch_size=BATCH, seed=seed)
    return metrics["val"]["accuracy"], metrics["test"]["accuracy"]


def auroc(scores: Tensor, positive: Tensor) -> float:
    """The probability that a positive scores above a negative; both have shape (n,)."""
    ranks = scores.argsort().argsort().double() + 1
    n = int(positive.sum())
    above = ranks[positive].sum() - n * (n + 1) / 2
    return float(above / (n * (len(scores) - n)))
