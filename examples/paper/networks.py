"""The networks of the slides with a variable width, and their loss and metrics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of computations outside of the service


def softmax_regression(shape: torch.Size, classes: int) -> nn.Module:
    """One linear layer on the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), classes))


def mlp(shape: torch.Size, classes: int, *, width: int = 256) -> nn.Module:
    """Two hidden layers."""
    layers = [nn.Linear(shape.numel(), width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def alexnet(shape: torch.Size, classes: int, *, width: int = 64) -> nn.Module:
    """AlexNet [1] for pictures of 28 or 32 pixels: its five convolutions, three poolings and three linear layers.

    Dropout is left out, for it would keep the training accuracy from 100 %. With `width` 64 it has AlexNet's own
    channels (64, 192, 384, 256, 256).

    [1] Krizhevsky, Sutskever and Hinton (2012), ImageNet classification with deep convolutional neural networks.
    """
    a, b, c, d = width, 3 * width, 6 * width, 4 * width
    hidden = 16 * width
    network = nn.Sequential(
        *(nn.Conv2d(shape[0], a, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, d, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, classes),
    )
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # With the default initialization, its eight layers learn very slowly at first.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


class Residual(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def resnet18(shape: torch.Size, classes: int, *, width: int = 64) -> nn.Module:
    """ResNet-18 [1] for small pictures: four stages of two blocks. `width` 64 is its own, of 11 million weights.

    [1] He, Zhang, Ren and Sun (2016), Deep residual learning for image recognition.
    """
    stem = nn.Conv2d(shape[0], width, 3, stride=2, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        for block in range(2):
            outputs = width << stage
            layers.append(Residual(channels, outputs, stride=2 if stage and not block else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def count(model: nn.Module) -> int:
    """The number of weights."""
    return sum(p.numel() for p in model.parameters())


def tested(model: nn.Module, split: tuple[Tensor, Tensor]) -> float:
    """The accuracy of `model`, in evaluation mode, on (x, y); computed on this process's GPU if it has one."""
    x, y = (column.to(DEVICE) for column in split)
    model.eval().to(DEVICE)
    with torch.no_grad():
        right = [(model(part).argmax(1) == label).sum() for part, label in zip(x.split(500), y.split(500), strict=True)]
    model.cpu()
    return float(torch.stack(right).sum()) / len(y)


def cross_entropy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def accuracy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float()
