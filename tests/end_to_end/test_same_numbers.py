"""Problems as users write them: in this process and through a server on a worker they have the same trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, Subset

import nestor
from nestor import Client, Problem
from nestor.hparams import (
    L1,
    L2,
    Augmentation,
    ClassWeights,
    Dropout,
    ExampleWeights,
    GroupWeights,
    LabelSmoothing,
    LossReweighting,
    LossWeights,
    Submodule,
)
from testbed.server import running_server
from testbed.services import Services
from testbed.worker import running_worker

pytestmark = pytest.mark.cpu  # its numbers are compared with those of a worker, which may have a GPU
BROKER = 12  # a database of Valkey that no other test uses, so that no other worker takes these messages
N, CLASSES = 48, 3
Y = torch.arange(N) % CLASSES
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(1)) + F.one_hot(Y, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def client(services: Services, folder: Path) -> Iterator[Client]:
    with (
        running_server(services, redis_db=BROKER) as server,
        running_worker(server, NESTOR_DATA_ROOTS=folder),
        Client(server.url, server.new_token()) as client,
    ):
        yield client


def losses(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


class Rows(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i], int(Y[i])


def a_dataset_and_a_transform(_: Path) -> Problem:
    """Items of a `Subset`, noise on every batch, and several kinds of decays and labels."""
    model = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, CLASSES))
    return Problem(
        model,
        [
            L2(model, only="0", per="output"),
            L2(model, only="3", per="input"),
            L1(model, per="global", init=-8.0),
            ClassWeights(CLASSES),
            LabelSmoothing(CLASSES, per="class"),
            Dropout(model),
        ],
        losses,
        loss,
        train=Subset(Rows(), range(0, N, 2)),
        val=Subset(Rows(), range(1, N, 2)),
        transform=lambda batch: {**batch, "x": batch["x"] + 0.1 * torch.randn_like(batch["x"])},
    )


def files_and_weights_of_groups(folder: Path) -> Problem:
    """Columns that the worker reads itself, from three formats."""
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", X.numpy())
        save_file({"y": Y, "source": torch.arange(N) % 4}, folder / f"{split}.safetensors")
        pd.DataFrame({"age": np.linspace(0, 1, N, dtype=np.float32)}).to_parquet(folder / f"{split}.parquet")

    def columns(split: str) -> dict[str, Any]:
        table = f"file://{folder}/{split}.safetensors"
        return {
            "x": nestor.data.ref(f"file://{folder}/{split}.npy"),
            "age": nestor.data.ref(f"file://{folder}/{split}.parquet", columns="age"),
            "y": nestor.data.ref(table, columns="y"),
            "source": nestor.data.ref(table, columns="source"),
        }

    class Aged(nn.Linear):
        def forward(self, x: Tensor, age: Tensor) -> Tensor:
            return super().forward(x) + age.unsqueeze(1)

    model = Aged(8, CLASSES)
    return Problem(
        model,
        [L2(model, per="tensor"), GroupWeights("source", 4)],
        losses,
        loss,
        train=columns("train"),
        val=columns("val"),
        inputs=["x", "age"],
    )


@dataclass
class Predicted:
    label: Tensor
    height: Tensor | None = None


pytree.register_dataclass(Predicted)  # as its documentation asks of models that are exported


class Shared(nn.Module):
    """A pretrained body that stays, a part that is tuned, and two heads, one of which is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8).requires_grad_(False)
        self.gate = nn.Linear(8, 8).requires_grad_(False)
        self.label = nn.utils.parametrizations.weight_norm(nn.Linear(8, CLASSES))
        self.height = nn.Linear(8, 1)

    def forward(self, table: Tensor, *, with_height: bool = True) -> Predicted:
        hidden = self.body(table).tanh() * self.gate(table).sigmoid()
        return Predicted(self.label(hidden), self.height(hidden).squeeze(1) if with_height else None)


def tasks_of_a_table(_: Path) -> Problem:
    """A DataFrame, a model with a dataclass as its output, and one weight for each of its losses."""
    model = Shared()
    frame = pd.DataFrame(X.numpy(), columns=[f"feature {i}" for i in range(8)])

    def of_tasks(outputs: Predicted, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        assert outputs.height is not None
        return {"label": loss(outputs.label, batch), "height": F.mse_loss(outputs.height, batch["height"])}

    split = {"table": frame, "y": pd.Series(Y.numpy()), "height": np.linspace(0, 1, N)}
    return Problem(
        model,
        [LossWeights(["label", "height"]), Submodule(model, "gate"), L2(model, only=["label", "height"], per="global")],
        of_tasks,
        lambda outputs, batch: loss(outputs.label, batch),
        train=split,
        val=split,
        inputs={"table": "table"},
    )


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad  # not the derivative: what its author wrote must be what is used


class Images(nn.Module):
    """Running statistics, a Function with a backward of its own, and a hook on an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.features(x).mean((2, 3))
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: grad / 2)
        return self.head(Doubled.apply(hidden))


def images_with_weights_of_examples(_: Path) -> Problem:
    images = X.reshape(N, 1, 2, 4)
    model = Images()
    return Problem(
        model,
        [Augmentation(channels=1), ExampleWeights(N), LossReweighting(nn.Linear(1, 1), reads="loss")],
        losses,
        loss,
        metrics={"accuracy": lambda outputs, batch: (outputs.argmax(1) == batch["y"]).float().mean()},
        train=(images, Y),
        val=(images, Y),
    )


PROBLEMS = (
    a_dataset_and_a_transform,
    files_and_weights_of_groups,
    tasks_of_a_table,
    images_with_weights_of_examples,
)
QUICK: dict[str, Any] = {
    "n_steps": 2,
    "inner": nestor.Adam(1e-2),
    "inner_steps": 2,
    "batch_size": 8,
    "show_progress_bar": False,
}


@pytest.mark.parametrize("state", PROBLEMS, ids=lambda state: state.__name__)
def test_a_problem_has_the_same_numbers_here_and_on_a_worker(
    state: Callable[[Path], Problem], client: Client, folder: Path
):
    trials: list[list[Any]] = []
    for server in (None, client):
        torch.manual_seed(3)  # of the initial weights
        trial = nestor.create_study(state.__name__, server=server).optimize(state(folder), **QUICK)
        trials.append(
            [(step.val_loss, step.hypergradient_norm, *sorted(step.val_metrics.items())) for step in trial.steps]
        )
    here, there = trials
    assert len(here) == 2
    assert all(norm > 0 for _, norm, *_ in here)
    for left, right in zip(here, there, strict=True):
        assert left[:2] == pytest.approx(right[:2], rel=1e-4)
        assert left[2:] == right[2:]
