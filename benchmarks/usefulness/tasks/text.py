"""The next character of Shakespeare's text, with a small recurrent network that overfits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.usefulness.common import DECAY, dropout, seeded
from benchmarks.usefulness.task import Columns, Objective, Splits, Task
from examples.data import shakespeare
from nestor_engine.hparams import L2, Dropout, Hyperparameters

LENGTH = 8  # characters of a sequence
N_TRAIN, N_VAL, N_TEST = 400, 200, 2_000  # sequences
HIDDEN, RATE = 48, 0.1


@cache
def characters() -> tuple[Tensor, int]:
    """The text as numbers, and how many different characters it has."""
    text = shakespeare()
    number = {character: index for index, character in enumerate(sorted(set(text)))}
    return torch.tensor([number[character] for character in text]), len(number)


class LanguageModel(nn.Module):
    """Characters (B, T) → logits of the next one, (B, T, vocabulary)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, HIDDEN // 2)
        self.before = nn.Dropout(RATE)
        self.recurrent = nn.RNN(HIDDEN // 2, HIDDEN, batch_first=True)
        self.after = nn.Dropout(RATE)
        self.output = nn.Linear(HIDDEN, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(self.before(self.embed(x)))
        return self.output(self.after(states))


def splits(seed: int) -> Splits:
    """Training, validation and test text from positions that the seed draws in three thirds of the whole."""
    tokens, _ = characters()
    third = len(tokens) // 3
    starts = torch.randint(third - LENGTH * N_TEST - 1, (3,), generator=seeded(seed))
    sizes = (N_TRAIN, N_VAL, N_TEST)
    return Splits(
        *(
            _sequences(tokens[k * third + int(start) :], n)
            for k, (start, n) in enumerate(zip(starts, sizes, strict=True))
        )
    )


def _sequences(tokens: Tensor, n: int) -> Columns:
    end = n * LENGTH
    return {"x": tokens[:end].view(n, LENGTH), "y": tokens[1 : end + 1].view(n, LENGTH)}


def loss(outputs: Tensor, batch: Columns) -> Tensor:
    return F.cross_entropy(outputs.transpose(1, 2), batch["y"], reduction="none").mean(1)


def minus_loss(outputs: Tensor, batch: Columns) -> Tensor:
    return -loss(outputs, batch)


def kinds(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A rate for each dropout layer, and a decay for each tensor."""
    del splits
    return [Dropout(model), L2(model, per="tensor")]


TASKS = (
    Task(
        "characters of Shakespeare",
        splits,
        lambda: LanguageModel(characters()[1]),
        kinds,
        Objective(loss, loss, minus_loss),
        (DECAY, dropout(RATE)),
    ),
)
