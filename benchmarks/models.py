"""The measured models: data, module and loss, with typical input shapes.

On a GPU the batches are larger, so that they fill it. The data are random, because the cost does not depend on them.
The weights are those of the initialization. Every case has a decay for each weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from benchmarks.measuring import DEVICE, ON_GPU
from nestor_engine.hparams import L2

DECAY = -6.0  # logarithm of each weight's decay


@dataclass(frozen=True)
class Case:
    """One model at one batch; `x` and `y` train, `xv` and `yv` validate. The loss is the mean cross-entropy."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    xv: Tensor
    yv: Tensor

    def double(self) -> Case:
        wide = lambda t: t.double() if t.is_floating_point() else t
        return replace(self, model=copy.deepcopy(self.model).double(), x=wide(self.x), xv=wide(self.xv))

    def problem(self) -> engine.Problem:
        loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
        decays = L2(self.model, per="weight", init=DECAY)
        return engine.Problem(self.model, decays, loss, loss, train=(self.x, self.y), val=(self.xv, self.yv))


def softmax_regression(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    return nn.Linear(784, 10), torch.randn(n, 784), _labels(n)


def mlp(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return net, torch.randn(n, 784), _labels(n)


def cnn(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Six convolutions with group norm; 270,122 weights."""
    widths = ((3, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 112, 1))
    blocks = [
        layer
        for i, o, stride in widths
        for layer in (nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.GroupNorm(8, o), nn.ReLU())
    ]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(112, 10))
    return net, torch.randn(n, 3, 32, 32), _labels(n)


def resnet18(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 for images of 32×32: a first convolution of 3×3 and no pooling; with batch norm, 11.2M weights."""
    stages = [
        _Residual(i, o, stride)
        for i, o, stride in (
            *((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)),
            *((128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)),
        )
    ]
    stem = (nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    net = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return net, torch.randn(n, 3, 32, 32), _labels(n)


def lstm(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The next of 64 characters, by one layer of 128 units over 32 steps."""
    text = torch.randint(0, 64, (n, 33))
    return _NextCharacter(), text[:, :-1], text[:, 1:]


def transformer(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The next of 64 characters, by two causal layers of width 128 and four heads over 64 places."""
    text = torch.randint(0, 64, (n, 65))
    return _CausalTransformer(), text[:, :-1], text[:, 1:]


MODELS: dict[str, Callable[[int], tuple[nn.Module, Tensor, Tensor]]] = {
    "softmax": softmax_regression,
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": resnet18,
    "lstm": lstm,
    "transformer": transformer,
}
# Examples on the CPU, and on a GPU; half of them train.
EXAMPLES = {
    "softmax": (1000, 60_000),
    "mlp": (256, 8_192),
    "cnn": (128, 2_048),
    "resnet18": (16, 256),
    "lstm": (64, 1_024),
    "transformer": (32, 256),
}


def case(name: str, size: int | None = None) -> Case:
    """The case of that name; half of its examples train and half validate, or `size` of each half."""
    torch.manual_seed(0)
    model, x, y = MODELS[name](EXAMPLES[name][ON_GPU])
    half = len(x) // 2
    train, val = slice(size or half), slice(half, half + (size or half))
    x, y = x.to(DEVICE), y.to(DEVICE)
    return Case(name, model.to(DEVICE), x[train], y[train], x[val], y[val])


def _labels(n: int) -> Tensor:
    return torch.randint(0, 10, (n,))


class _Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o),
        )  # fmt: skip
        passes = stride == 1 and i == o
        self.past = (
            nn.Identity() if passes else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x) + self.past(x))


class _NextCharacter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(64, 64), nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 64)

    def forward(self, text: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(text))[0]).mT  # (B, characters, steps), as cross_entropy wants it


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(x)


class _CausalTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(64, 128), nn.Parameter(torch.randn(64, 128) / 10)
        self.layers = nn.Sequential(_Attention(128, 4), _Attention(128, 4), nn.LayerNorm(128), nn.Linear(128, 64))

    def forward(self, text: Tensor) -> Tensor:
        return self.layers(self.embed(text) + self.place).mT
