"""Whole runs: the cost of tuning relative to training, and of the inner loop relative to a hand-written loop.

    python -m benchmarks.joint [--json FILE] [--quick] [--local]

*Tuned against untuned*: a trial with the default method, for several numbers of inner steps per outer step, against
plain training by the engine with as many inner steps. The times are wall-clock times of whole runs, including tracing.
The runs of a pair alternate. By default an outer step reads all 512 validation examples, several times as many as an
inner step. Other rows use a validation batch as large as the inner batch.

*The inner loop*: plain training by the engine against a hand-written loop with torch.optim, with the same model,
optimizer, data, decays and batching; processor time, alternating. Through the service, it is the time that a trial
reports for its inner steps, with recording, checkpoints and heartbeats, against the hand-written loop on the same
machine; wall-clock time. `--local` omits the service.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
import nestor_engine as engine
from benchmarks.measuring import DEVICE, ON_GPU, Run, one_thread, seconds, until, wait_for_turn
from benchmarks.models import MODELS
from examples.provenance import caption
from examples.service import running_service
from nestor.hparams import L2

DECAY = -6.0  # logarithm, of each tensor
BATCHES = {"mlp": 128, "cnn": 64, "resnet18": 64, "transformer": 64}  # the last two only on a GPU
EXAMPLES = 512  # of the training and the validation data each
EVERY = (5, 20) if ON_GPU else (5, 20, 50, 100)  # inner steps per outer step
# Inner steps of a run by model, for plain training and for tuning.
LENGTHS = {"mlp": 2_000, "cnn": 1_000, "resnet18": 200, "transformer": 500} if ON_GPU else {"mlp": 2_000, "cnn": 300}
TUNED_LENGTHS = {"mlp": 10_000, "cnn": 5_000, "resnet18": 1_000, "transformer": 2_000} if ON_GPU else LENGTHS
ROUNDS = 1 if ON_GPU else 5
Row = dict[str, Any]


class Subject:
    """A model, data, and the two ways to train it."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name, (model, x, y) = name, MODELS[name](2 * EXAMPLES)
        self.model, x, y = model.to(DEVICE), x.to(DEVICE), y.to(DEVICE)
        self.train, self.val = (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])
        self.inner = engine.Adam(1e-3)

    def problem(self) -> nestor.Problem:
        loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
        decays = L2(self.model, per="tensor", init=DECAY)
        return nestor.Problem(self.model, decays, loss, loss, train=self.train, val=self.val)

    def tuned(self, steps: int, every: int, val_batch_size: int) -> None:
        stated = self.problem()
        config = engine.Config(
            n_steps=steps // every, inner_steps=every, batch_size=self.batch, val_batch_size=val_batch_size,
            inner=self.inner, trace=ON_GPU or None,
        )  # fmt: skip
        for _ in engine.optimize(stated.bilevel(), stated.data, config):
            pass

    def untuned(self, steps: int) -> None:
        stated = self.problem()
        engine.fit(stated.bilevel(), stated.data.train, n_steps=steps, inner=self.inner, batch_size=self.batch)

    def by_hand(self, steps: int) -> None:
        model: nn.Module = copy.deepcopy(self.model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        decay, order = math.exp(DECAY), torch.empty(0, dtype=torch.int64)
        per_epoch = EXAMPLES // self.batch
        x, y = self.train
        for k in range(steps):
            place = k % per_epoch * self.batch
            if place == 0:
                order = torch.randperm(EXAMPLES, device=DEVICE)
            index = order[place : place + self.batch]
            squares: list[Tensor] = [(p * p).sum() for p in model.parameters()]
            loss = F.cross_entropy(model(x[index]), y[index]) + 0.5 * decay * torch.stack(squares).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @property
    def batch(self) -> int:
        return BATCHES[self.name]


def wall(run: Run) -> float:
    """Wall-clock seconds."""
    began = time.perf_counter()
    run()
    until()
    return time.perf_counter() - began


def tuning(subject: Subject, steps: int, rounds: int, every: tuple[int, ...]) -> Iterator[Row]:
    reading = {"": 1000, f", which reads {subject.batch}": subject.batch}  # validation examples
    for (reads, val_batch), count in itertools.product(reading.items(), every):
        length = max(steps, 2 * count) // count * count
        tune, train = partial(subject.tuned, length, count, val_batch), partial(subject.untuned, length)
        pairs = [(wall(tune), wall(train)) for _ in range(rounds)]
        what = f"tuned / untuned, {count} inner steps to an outer one{reads}"
        yield row(subject, what, statistics.median(tuned / plain for tuned, plain in pairs), length)


def inner(subject: Subject, steps: int, rounds: int) -> Iterator[Row]:
    ratios = []
    for _ in range(rounds):
        by_hand = seconds(lambda: subject.by_hand(steps))
        ours = seconds(lambda: subject.untuned(steps))
        ratios.append(ours / by_hand)
    yield row(subject, "inner loop / by hand, in this process", statistics.median(ratios), steps)


def determinism(subject: Subject, steps: int, rounds: int) -> Iterator[Row]:
    """What deterministic kernels cost the inner loop; workers use them. CUBLAS_WORKSPACE_CONFIG must be set."""
    ratios = []
    for _ in range(rounds):
        free = seconds(lambda: subject.untuned(steps))
        torch.use_deterministic_algorithms(True, warn_only=True)
        ratios.append(seconds(lambda: subject.untuned(steps)) / free)
        torch.use_deterministic_algorithms(False)
    yield row(subject, "inner loop, deterministic kernels / any kernels", statistics.median(ratios), steps)


def in_process(subject: Subject, steps: int, *, quick: bool) -> Iterator[Row]:
    """All rows of a model that need no service, the important ones first."""
    rounds = 1 if quick else ROUNDS
    yield from inner(subject, steps, rounds)
    length = steps if quick else TUNED_LENGTHS[subject.name]
    yield from tuning(subject, length, 1 if ON_GPU else rounds, EVERY[:2] if quick else EVERY)
    if ON_GPU:
        yield from determinism(subject, steps, rounds)


def through_the_service(subject: Subject, server: str, steps: int) -> list[Row]:
    """A trial of few outer steps, so that inner steps dominate. The hand-written loop runs before and after it."""
    before = wall(lambda: subject.by_hand(steps))
    study = nestor.create_study("benchmarks: joint", server=server, load_if_exists=True)
    every = max(1, steps // 4)
    trial = study.optimize(
        subject.problem(), n_steps=5, inner=subject.inner, inner_steps=every, batch_size=subject.batch
    )
    after = wall(lambda: subject.by_hand(steps))
    ours = sum(step.seconds["inner"] for step in trial.steps[1:])  # the first step waits for the choice of kernels
    ratio = ours / (4 * every) * steps / ((before + after) / 2)
    return [row(subject, "inner loop / by hand, through the service", ratio, 4 * every)]


def row(subject: Subject, what: str, ratio: float, steps: int) -> Row:
    print(f"{subject.name}: {what}: {ratio:.3f}", file=sys.stderr, flush=True)
    return {"case": subject.name, "what": what, "ratio": ratio, "inner_steps": steps}


def table(rows: list[Row]) -> str:
    lines = ["| model | what | inner steps in all | ratio |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {r['case']} | {r['what']} | {r['inner_steps']:,} | {r['ratio']:.2f} |" for r in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="short runs and one round of the multilayer perceptron")
    parser.add_argument("--cases", nargs="+", choices=LENGTHS, help="only these models")
    parser.add_argument("--local", action="store_true", help="without the service")
    options = parser.parse_args()
    one_thread()
    rows: list[Row] = []
    lengths = {"mlp": 200} if options.quick else {name: LENGTHS[name] for name in options.cases or LENGTHS}
    for name, steps in lengths.items():
        subject = Subject(name)
        subject.by_hand(5)
        wait_for_turn()
        for found in in_process(subject, steps, quick=options.quick):
            rows.append(found)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    if not options.local:
        with running_service() as server:
            for name, steps in lengths.items():
                rows += through_the_service(Subject(name), server, steps)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.joint')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
