"""One outer step, from a thousand hyperparameters to a hundred million.

    python -m benchmarks.scaling [--json FILE] [--quick]

The model averages an embedding of tokens and applies a linear layer, with a decay for every weight. The width of the
embedding grows. So there are as many hyperparameters as weights, and vector operations are most of the cost. Each size
runs in its own process with the runner's allocator settings, so that its peak memory is its own.

    seconds         time of an outer step with the default method and one inner step, after the first
    distributions   time of quantiles and histograms of all hyperparameters, at the steps for which they are kept
    training        time of a plain training step of the same model (SGD); the target is the same growth
    multiple        peak memory above the start of the process, as a multiple of the weights' bytes

Times are processor time on a CPU, and wall-clock time on a GPU (NESTOR_TEST_DEVICE=cuda; up to a billion there).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from benchmarks.measuring import DEVICE, ON_GPU, one_thread, status, until, wait_for_turn
from examples.provenance import caption
from nestor_engine.hparams import L2
from nestor_engine.hparams.distributions import distributions
from nestor_worker.supervisor.runners.process import ALLOCATION

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, *([3 * 10**8, 10**9] if ON_GPU else []))
TOKENS, LENGTH, CLASSES, BATCH = 100, 8, 10, 32
STEPS = 9  # timed outer steps; the first step traces and estimates the norm, and is not timed
LARGE = 10**8  # hyperparameters from which a process prepares nothing while others have memory on the GPU
MEMORY_LIMIT = 24 * 1024**3  # bytes


class Averaged(nn.Module):
    """A model with about `size` weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        width = max(1, (size - CLASSES) // (TOKENS + CLASSES))
        self.embed, self.out = nn.Embedding(TOKENS, width), nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embed(tokens).mean(1))


def measure(size: int) -> dict[str, Any]:
    """The row of one size, for a process of its own."""
    one_thread()
    torch.manual_seed(0)
    with DEVICE:
        net = Averaged(size)
        x, y = torch.randint(0, TOKENS, (2 * BATCH, LENGTH)), torch.randint(0, CLASSES, (2 * BATCH,))
    training = math.nan
    if size >= LARGE:
        wait_for_turn()
        training = plain(net, x[:BATCH], y[:BATCH])
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
    weights = sum(p.numel() for p in net.parameters())
    start = _allocated() - 4 * weights  # without the weights themselves
    train, val = (x[:BATCH], y[:BATCH]), (x[BATCH:], y[BATCH:])
    problem = engine.Problem(net, L2(net), loss, loss, train=train, val=val)
    config = engine.Config(n_steps=STEPS + 1, inner=engine.SGD(0.1), inner_steps=1, batch_size=BATCH)
    running = engine.optimize(problem.bilevel(), problem.data, config)
    next(running)
    if size < LARGE:
        wait_for_turn()
    times, began = [], until()
    for step in running:
        times.append(until() - began)
        hparams, began = step.state.hparams, until()
    took = statistics.median(times)
    peak = torch.cuda.max_memory_allocated() if ON_GPU else status("VmHWM")
    multiple = (peak - start) / (4 * weights)
    if size < LARGE:
        training = plain(net, x[:BATCH], y[:BATCH])
    return {
        "hyperparameters": weights,
        "seconds": took,
        "distributions": min(_distributing(hparams) for _ in range(3)),
        "training": training,
        "multiple": multiple,
        "error": None,
    }


def _distributing(hparams: dict[str, Tensor]) -> float:
    began = until()
    distributions(hparams)
    return until() - began


def _allocated() -> int:
    return torch.cuda.memory_allocated() if ON_GPU else status("VmRSS")


def plain(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of a hand-written training step with the same decay for every weight."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=math.exp(-6.0))
    times = []
    for _ in range(STEPS + 1):
        began = until()
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        times.append(until() - began)
    optimizer.zero_grad()
    return statistics.median(times[1:])


def apart(size: int) -> dict[str, Any]:
    """The row of one size from its own process, or the reason of its failure."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--size", str(size)]
    limited = ["prlimit", f"--data={MEMORY_LIMIT}", *command] if sys.platform == "linux" and not ON_GPU else command
    done = subprocess.run(
        limited, cwd=Path(__file__).parents[1], env=os.environ | ALLOCATION, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    reason = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}: out of memory"])[-1]
    nothing = dict.fromkeys(("seconds", "distributions", "training", "multiple"))
    return {"hyperparameters": size, **nothing, "error": reason[:160]}


def slope(rows: list[dict[str, Any]], column: str) -> float | None:
    """d log(column) / d log(hyperparameters) from a million on, where overhead is negligible."""
    points = [
        (math.log(r["hyperparameters"]), math.log(r[column]))
        for r in rows
        if r["error"] is None and r["hyperparameters"] > 9 * 10**5
    ]
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else None


def table(rows: list[dict[str, Any]]) -> str:
    names = ("hyperparameters", "outer step, s", "distributions, s", "training step, s", "peak memory / weights")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        if row["error"]:
            lines.append(f"| {row['hyperparameters']:,} | {row['error']} | | | |")
        else:
            times = [f"{row[name]:.4f}" for name in ("seconds", "distributions", "training")]
            cells = (*times, f"{row['multiple']:.1f}")
            lines.append(f"| {row['hyperparameters']:,} | {' | '.join(cells)} |")
    slopes = [slope(rows, column) for column in ("seconds", "training")]
    if None not in slopes:
        lines.append(f"\nSlope beyond a million, in logarithms: {slopes[0]:.2f}; of plain training {slopes[1]:.2f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="up to a million only")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest size; all by default")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # one row as JSON, in this process
    options = parser.parse_args()
    if options.size:
        row = measure(options.size)
        print(json.dumps(row))
        if options.json:
            options.json.write_text(json.dumps([row]))
        return
    rows = []
    for size in (size for size in SIZES[: 4 if options.quick else None] if size <= options.most):
        rows.append(apart(size))
        print(rows[-1], file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.scaling')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
