"""Memory of long trials in this process: `python -m benchmarks.memory [--json FILE] [--quick] [--kind KIND]`.

Each row is a trial of 1,000 outer steps in a process of its own, with the default budget of snapshots in memory. A step
is made cheap, so that many can be taken: one inner step, and a response of one curvature product. "Decays" has one
hyperparameter for every weight of a linear model. "Example weights" has one for every training example.

    start       peak resident memory in the first 20 steps, above that of the imports and the data, as a multiple of the
                hyperparameters' bytes: what training takes
    peak        the same for all steps
    snapshots   all snapshots that are kept at the end, as such a multiple
    on disk     those of them that are on disk
    target      the peak is below that of the start, plus the budget, plus one
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nestor
from benchmarks.measuring import one_thread, status
from benchmarks.rows import Row, collected, in_own_process, shared_options
from examples.provenance import caption
from nestor.hparams import L2, ExampleWeights
from nestor.local import scratch
from nestor.local.snapshot_store import memory_budget

STEPS, EARLY = 1_000, 20
SIZES = (10**5, 10**6, 10**7)


def decays(size: int) -> nestor.Problem:
    """A linear model of `size` weights on 16 examples, and a decay for each weight."""
    inputs = size // 10
    model, x = nn.Linear(inputs, 10, bias=False), torch.rand(16, inputs) / inputs**0.5
    split = x, torch.rand(16, 10)
    return nestor.Problem(model, L2(model, per="weight"), squared_error, squared_error, train=split, val=split)


def example_weights(size: int) -> nestor.Problem:
    """A linear model of four weights on `size` examples, and a weight for each of them."""
    x = torch.rand(size, 4)
    train = x, x.sum(1, keepdim=True)
    return nestor.Problem(
        nn.Linear(4, 1, bias=False),
        ExampleWeights(size),
        squared_error,
        squared_error,
        train=train,
        val=(x[:256], train[1][:256]),
    )


KINDS: dict[str, Callable[[int], nestor.Problem]] = {"decays": decays, "example weights": example_weights}


def squared_error(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The mean over the outputs of each example, shape (B,)."""
    return (outputs - batch["y"]).square().mean(1)


def measure(kind: str, size: int, steps: int, most_seconds: float) -> Row:
    """The row of one trial, for a process of its own."""
    one_thread()
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "inner": nestor.SGD(0.01),
        "inner_steps": 1,
        "batch_size": 16,
        "val_batch_size": 16,
        "response": nestor.Implicit(nestor.GaussNewton(), nestor.Neumann(1)),
        "evaluate_every": STEPS,
        "show_progress_bar": False,
    }
    study = nestor.create_study()
    study.optimize(KINDS[kind](1_000), 2, **options)  # loads what any trial loads
    problem = KINDS[kind](size)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before, began, early = status("VmRSS"), time.perf_counter(), 0

    def watch(study: nestor.Study, trial: nestor.Trial) -> None:
        nonlocal early
        if trial.last_step is not None and trial.last_step.number == EARLY:
            early = status("VmHWM") - before
        if time.perf_counter() - began > most_seconds:
            study.stop()

    trial = study.optimize(problem, steps, callbacks=[watch], **options)
    seconds, peak = time.perf_counter() - began, status("VmHWM") - before
    nbytes = 4 * size
    on_disk = sum(path.stat().st_size for path in scratch.directory().glob("*.safetensors"))
    return {
        "kind": kind,
        "hyperparameters": size,
        "steps": trial.record.step,
        "seconds": seconds / trial.record.step,
        "budget": memory_budget() / nbytes,
        "start": early / nbytes,
        "peak": peak / nbytes,
        "snapshots": len(trial.hparams_steps),
        "on_disk": on_disk / nbytes,
    }


def apart(kind: str, size: int, steps: int, most_seconds: float) -> Row:
    """The row of one trial from its own process, or the reason of its failure."""
    options: dict[str, object] = {"kind": kind, "size": size, "steps": steps, "seconds": most_seconds}
    return in_own_process("benchmarks.memory", options, {"kind": kind, "hyperparameters": size})


def table(rows: list[Row]) -> str:
    lines = ["| | hyperparameters | steps | step, s | start | peak | budget | snapshots | on disk |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['kind']} | {row['hyperparameters']:,} | {row['error']} | | | | | | |")
            continue
        multiples = " | ".join(f"{row[column]:,.1f}" for column in ("start", "peak", "budget"))
        cells = f"{row['steps']:,} | {row['seconds']:.3f} | {multiples} | {row['snapshots']} | {row['on_disk']:.1f}"
        lines.append(f"| {row['kind']} | {row['hyperparameters']:,} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = shared_options(__doc__, quick="up to a million hyperparameters, and 100 steps")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--steps", type=int, default=STEPS, help="outer steps of each trial")
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="a longer trial ends early; its row has fewer steps"
    )
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # one row as JSON, in this process
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure(options.kind, options.size, options.steps, options.seconds)))
        return
    steps = 100 if options.quick else options.steps
    kinds = [kind for kind in KINDS if options.kind in (None, kind)]
    sizes = SIZES[: 2 if options.quick else None]
    rows = collected((apart(kind, size, steps, options.seconds) for kind in kinds for size in sizes), options.json)
    print(f"{caption('benchmarks.memory')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
