"""Small problems, each with something that a graph could get wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor_engine import Problem
from nestor_engine.hparams import (
    L1,
    L2,
    Augmentation,
    ClassWeights,
    DistilledData,
    Dropout,
    ExampleWeights,
    GroupWeights,
    Hyperparameters,
    InitializationScale,
    LabelCorrection,
    LabelSmoothing,
    LossReweighting,
    LossWeights,
    UNet,
)
from nestor_engine.objective import Batch
from nestor_engine.program import Program

N, CLASSES = 24, 4


def classes(seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(seed))


def features(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=generator).to(torch.get_default_dtype())


def tokens(length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 12, (N, length), generator=torch.Generator().manual_seed(seed))


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


def accuracy(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float().mean()


def mlp() -> Problem:
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, CLASSES))
    weights = torch.linspace(0.5, 1.5, CLASSES)

    def losses(outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch["y"], weight=weights, reduction="none")

    return Problem(
        net,
        [L2(net), ExampleWeights(N)],
        losses,
        cross_entropy,
        metrics={"accuracy": accuracy},
        train=(features(6), classes()),
        val=(features(6, seed=1), classes(1)),
    )


def convolution() -> Problem:
    net = nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding="same"), nn.BatchNorm2d(3), nn.Softplus(), nn.Dropout(0.3)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, CLASSES)),
    )
    images = features(1, 6, 6), classes()
    decay = L2(net, per="tensor").bounded(least=-20.0)
    return Problem(net, decay, cross_entropy, cross_entropy, train=images, val=images)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 5)
        self.lstm = nn.LSTM(5, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(x))
        return self.head(hidden[:, -1])


def lstm() -> Problem:
    net = Recurrent()
    data = tokens(5), classes()
    return Problem(net, L2(net, per="global"), cross_entropy, cross_entropy, train=data, val=data)


class Language(nn.Module):
    """Next-token prediction with tied weights and a causal mask of infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(x), src_mask=self.mask))


def transformer() -> Problem:
    net = Language()

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.reshape(-1, 12), batch["y"].reshape(-1))

    data = tokens(6), tokens(6, seed=1)
    return Problem(net, L2(net, per="tensor"), loss, loss, train=data, val=data)


class Odd(nn.Module):
    """A region without gradient, an integer buffer, a write in place, and a dict of outputs."""

    steps: Tensor
    norm: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("norm", torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, object]:
        hidden = self.linear(x)
        with torch.no_grad():
            scale = hidden.abs().mean()
            if self.training:
                self.norm.mul_(0.9).add_(scale, alpha=0.1)
        self.steps += 1
        shifted = hidden.clone()
        shifted[:, 0] = 0.5
        return {"logits": shifted / (1 + self.norm), "aux": [hidden * scale, None], "rows": (x.new_ones(x.shape[0]), 3)}


def odd() -> Problem:
    net = Odd()

    def loss(outputs: dict, batch: Batch) -> Tensor:
        extra = outputs["aux"][0].square().mean() * torch.tensor(0.1, dtype=torch.float64)
        return F.cross_entropy(outputs["logits"], batch["y"]) * outputs["rows"][0].mean() + extra

    data = features(6), classes()
    return Problem(net, L2(net), loss, loss, train=data, val=data)


class Shift(Hyperparameters):
    """Tuned noise and a tuned shift of the training inputs."""

    def __init__(self) -> None:
        self.init = {"shift": torch.zeros(6), "noise": torch.tensor(-1.0)}
        self.transforms = {"noise": "exp"}

    def prepare(self, values: dict[str, Tensor], batch: Batch) -> Batch:
        x = batch["x"] + values["shift"]
        return batch | {"x": x + values["noise"] * torch.randn_like(x)}


def augmentation() -> Problem:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    net[0].bias.requires_grad_(False)
    data = features(6), classes()
    return Problem(net, Shift(), cross_entropy, cross_entropy, train=data, val=data)


def every_kind() -> Problem:
    net = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Dropout2d(0.2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(27, CLASSES)),
    )
    x, y = features(1, 5, 5), classes()
    drawn = UNet(1, noise=2, width=4, depth=2)
    nn.init.normal_(drawn.leave.weight)

    def losses(outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch["y"], reduction="none")

    kinds = [
        *(L1(net), L2(net, per="global"), DistilledData(x), Augmentation(drawn, noise=2)),
        *(LabelCorrection(y, CLASSES), ExampleWeights(N), LossReweighting(nn.Linear(1, 1), reads="loss")),
        *(Dropout(net), InitializationScale(net)),
    ]
    return Problem(net, kinds, losses, cross_entropy, train=(x, y), val=(features(1, 5, 5, seed=1), y))


def weighed() -> Problem:
    """Decays of parts and features, and weights of groups, classes and tasks; two of their constants are equal."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(27, CLASSES))
    x, y = features(1, 5, 5), classes()

    def losses(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"labels": F.cross_entropy(outputs, batch["y"], reduction="none"), "size": outputs.square().mean(1)}

    kinds = [
        *(L2(net, only="0", per="channel"), L2(net, only="3", per="input"), L2(net, per="output")),
        *(LossWeights(["labels", "size"]), GroupWeights("source", CLASSES, normalize="sigmoid")),
        *(ClassWeights(CLASSES, init=[1.0, 2.0, 3.0, 4.0]), LabelSmoothing(CLASSES, per="class")),
    ]
    train = {"x": x, "y": y, "source": y.flip(0)}
    return Problem(net, kinds, losses, cross_entropy, train=train, val=(features(1, 5, 5, seed=1), y))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    function.__name__: function
    for function in (mlp, convolution, lstm, transformer, odd, augmentation, every_kind, weighed)
}


@cache
def exported(name: str) -> tuple[Problem, Program]:
    """One of the problems and its program, in double precision; made once, because tracing takes a second."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            problem = PROBLEMS[name]()
            return problem, problem.export()
    finally:
        torch.set_default_dtype(before)
