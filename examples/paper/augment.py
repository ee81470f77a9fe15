"""Learned data augmentation: a U-Net with noise, tuned inside one training, against the standard one and none.

The slides train a ResNet on CIFAR-10, and learn the augmentation with two Neumann terms and the "Gauss–Newton" matrix
that they write as an outer product of gradients. This experiment uses a part of Fashion-MNIST and a small ResNet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from examples.data import Images
from examples.paper.lab import Lab, percent
from examples.paper.networks import Residual, accuracy, cross_entropy
from examples.paper.pictures import pictures
from examples.paper.plain import Metrics, Tensors, evaluated, trained, tuned
from nestor import EmpiricalFisher, GaussNewton, Implicit, Neumann, WarmStarted
from nestor.hparams import L2, Augmentation, UNet
from nestor_engine import optimize

NONE, STANDARD = "none", "standard: shifts and mirror images"
BOTH = ", on training and validation data"
LEARNED = {
    "learned, 2 Neumann terms and the slides' Gauss–Newton": Implicit(EmpiricalFisher(per="batch"), Neumann(2)),
    "learned, our default": Implicit(GaussNewton(), WarmStarted(Neumann(2))),
}
SHIFT = 2  # pixels, at most, either way
DRAWN = 8  # pictures, and samples of each


@dataclass(frozen=True)
class Sizes:
    n_train: int
    n_val: int
    n_test: int
    width: int  # of the ResNet
    unet: int  # its width
    n_steps: int  # outer ones
    seeds: tuple[int, ...]


QUICK = Sizes(200, 200, 500, 4, 4, 8, (0,))
USUAL = Sizes(1_000, 500, 4_000, 8, 4, 50, tuple(range(10)))
FULL = Sizes(45_000, 5_000, 10_000, 64, 16, 6_000, tuple(range(10)))
INNER, INNER_STEPS, BATCH = nestor.SGD(0.05, momentum=0.9), 10, 64
OPTIONS: dict[str, Any] = {
    "inner": INNER, "inner_steps": INNER_STEPS, "batch_size": BATCH, "outer": nestor.Adam(3e-3), "val_batch_size": 200,
}  # fmt: skip
SPLITS = ("train", "val", "test")


class Standard(nn.Module):
    """Shifts by up to two pixels and mirror images, in training mode only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, _, height, width = x.shape
        shift = (2 * torch.rand(n, 2, device=x.device) - 1) * torch.tensor([2 * SHIFT / width, 2 * SHIFT / height]).to(
            x
        )
        mirror = torch.where(torch.rand(n, device=x.device) < 0.5, -1.0, 1.0)
        zero, one = torch.zeros_like(mirror), torch.ones_like(mirror)
        rows = [torch.stack([mirror, zero, shift[:, 0]], 1), torch.stack([zero, one, shift[:, 1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    images = (lab.images() if lab.wanted else lab.images()[1:])[0]  # Fashion-MNIST, unless --data names another
    study = lab.study(f"{images.name}, {sizes.n_train:,} pictures")
    reached: dict[str, list[Metrics]] = {}
    augmentations: dict[str, Tensors] = {}
    for seed in sizes.seeds:
        waiting = {
            name: study.optimize(
                _problem(images, sizes, seed, learned=True), n_steps=sizes.n_steps, **OPTIONS,
                response=response, evaluate_every=sizes.n_steps, seed=seed, user_attrs={"augmentation": name},
                wait=False, show_progress_bar=False,
            )
            for name, response in LEARNED.items()
        }  # fmt: skip
        for name, standard, both in (
            (NONE, False, False), (STANDARD, True, False), (NONE + BOTH, False, True), (STANDARD + BOTH, True, True)
        ):  # fmt: skip
            problem = _problem(images, sizes, seed, standard=standard, both=both)
            n_steps = INNER_STEPS * sizes.n_steps
            metrics = trained(problem, INNER, n_steps, batch_size=BATCH, seed=seed, splits=SPLITS)
            reached.setdefault(name, []).append(metrics)
        for name, trial in waiting.items():
            problem = _problem(images, sizes, seed, learned=True)
            trial.wait().load_weights(problem.model, step="latest")
            reached.setdefault(name, []).append(evaluated(problem, SPLITS))
            augmentations.setdefault(name, tuned(trial))
    ratios = _costs(images, sizes)
    rows = [
        {
            "augmentation": name,
            **{
                split: percent(metrics[split]["accuracy"] for metrics in values)
                for split in (SPLITS if BOTH not in name else ("test",))
            },
            "cost of an iteration": f"{ratios[name]:.1f}" if name in ratios else None,
        }
        for name, values in reached.items()
    ]
    lab.table(
        f"Accuracy, {images.name}: {sizes.n_train:,} training, {sizes.n_val:,} validation and {sizes.n_test:,} test "
        f"pictures, {sizes.n_steps * 10:,} iterations, {len(sizes.seeds)} seeds",
        rows,
    )
    for name, values in augmentations.items():
        short = "slides" if "slides" in name else "default"
        _draw(lab.file(f"augment-{short}.png"), images, sizes, values)
    mean = {
        name: sum(metrics["test"]["accuracy"] for metrics in values) / len(values) for name, values in reached.items()
    }
    best = max(LEARNED, key=mean.__getitem__)
    lab.found(
        f"Test accuracy {mean[best]:.1%} with the better learned augmentation ({best}), {mean[STANDARD]:.1%} with the "
        f"standard one, {mean[NONE]:.1%} with none; {mean[STANDARD + BOTH]:.1%} with the standard one on all labels."
    )


def _problem(
    images: Images, sizes: Sizes, seed: int, *, standard: bool = False, learned: bool = False, both: bool = False
) -> nestor.Problem:
    (x, y), (x_test, y_test) = images.train, images.test
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: sizes.n_train + sizes.n_val]
    train, val = chosen if both else chosen[: sizes.n_train], chosen[sizes.n_train :]
    torch.manual_seed(seed)
    channels = x.shape[1]
    model = resnet(channels, images.classes, sizes.width, *([Standard()] if standard else []))
    network = UNet(channels, width=sizes.unet)
    kind = Augmentation(network) if learned else L2(model, per="global", init=-20.0)  # almost no decay
    return nestor.Problem(
        model, kind, cross_entropy, cross_entropy, metrics={"accuracy": accuracy},
        train=(x[train], y[train]), val=(x[val], y[val]), test=(x_test[: sizes.n_test], y_test[: sizes.n_test]),
    )  # fmt: skip


def resnet(channels: int, classes: int, width: int, *first: nn.Module) -> nn.Module:
    """Three stages of one block each, as in the ResNets for small pictures."""
    return nn.Sequential(
        *first,
        *(nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)),
    )


def _costs(images: Images, sizes: Sizes) -> dict[str, float]:
    """CPU time of a training iteration relative to one without augmentation, measured in this process."""
    steps = 3
    seconds: dict[str, float] = {}
    for _ in range(3):
        for name, standard in ((NONE, False), (STANDARD, True)):
            problem = _problem(images, sizes, 0, standard=standard)
            began = time.process_time()
            nestor.fit(
                problem.bilevel(), problem.data.train, n_steps=INNER_STEPS * steps, inner=INNER, batch_size=BATCH
            )
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
        for name, response in LEARNED.items():
            problem = _problem(images, sizes, 0, learned=True)
            config = nestor.Config(n_steps=steps + 1, **OPTIONS, response=response, evaluate_every=99)
            running = optimize(problem.bilevel(), problem.data, config)
            next(running)  # the first outer step also estimates the curvature's norm
            began = time.process_time()
            for _step in range(steps):
                next(running)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
    return {name: taken / seconds[NONE] for name, taken in seconds.items()}


def _draw(path, images: Images, sizes: Sizes, values: Tensors) -> None:
    """As the slides draw it: originals, samples of each, and the standard deviation of every pixel."""
    x = images.train[0][:DRAWN]
    network = UNet(x.shape[1], width=sizes.unet)
    network.load_state_dict({name.removeprefix("augmentation."): value for name, value in values.items()})
    with torch.no_grad():
        noise = torch.randn(64, DRAWN, 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
        samples = torch.stack([network(x, each) for each in noise])  # (64, pictures, channels, height, width)
    deviation = samples.std(0)
    pictures(
        path,
        {
            "original": x,
            **{f"sample {k + 1}": samples[k].clamp(0, 1) for k in range(3)},
            f"standard deviation of a pixel over 64 samples; white is {float(deviation.max()):.2g}": deviation,
        },
        columns=DRAWN,
    )
