"""Trials through the service on the device: `python -m benchmarks.gpu.service [--json FILE]`.

Two trials run at a time on one device. A short trial is compared with the same trial in this process. A trial that is
paused and resumed must end like one without a pause. `difference` is the largest difference of any hyperparameter.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import nestor
from benchmarks.measuring import DEVICE
from examples.provenance import caption
from examples.service import running_service
from nestor.hparams import L2, ExampleWeights

N_STEPS = 600
Row = dict[str, Any]


def problem(device: torch.device | str = "cpu") -> nestor.Problem:
    """A convolutional network with batch norm and dropout; a client creates it on the CPU."""
    torch.manual_seed(0)
    x, y = torch.randn(600, 1, 8, 8), torch.arange(600) % 10
    x = x + y.view(-1, 1, 1, 1) / 5
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(576, 10)
    )
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    model, x, y = model.to(device), x.to(device), y.to(device)
    kinds = [L2(model, per="weight", init=-6.0), ExampleWeights(400)]
    return nestor.Problem(model, kinds, loss, loss, train=(x[:400], y[:400]), val=(x[400:], y[400:]))


def run(server: str, n_steps: int) -> list[Row]:
    """One row per comparison."""
    study = nestor.create_study("benchmarks: gpu", server=server, load_if_exists=True)
    options = {"inner": nestor.Adam(1e-3), "inner_steps": 5, "batch_size": 50, "wait": False}
    began = time.perf_counter()
    trials = [study.optimize(problem(), n_steps=n_steps, seed=seed, **options) for seed in (0, 1)]
    for trial in trials:
        trial.wait()
    took = time.perf_counter() - began
    devices = sorted({f"{a.worker}" for trial in trials for a in trial.attempts})

    paused = study.optimize(problem(), n_steps=n_steps, seed=0, **options)
    for step in paused.stream():
        if step.number >= n_steps // 6:
            paused.pause()
            break
    while paused.refresh().state.value == "pausing" or not paused.state.value.startswith(("paused", "complete")):
        time.sleep(0.1)
    at = paused.last_step
    if paused.state.value == "paused":  # a short one may have come to its end before
        paused.resume().wait()

    # Few steps, because rounding errors grow and the two use different kernels.
    there, here = (
        nestor.create_study("benchmarks: gpu, briefly", server=address, load_if_exists=True).optimize(
            problem(device), n_steps=5, seed=0, **options
        )
        for address, device in ((server, "cpu"), (None, DEVICE))
    )
    there.wait()
    here.wait()
    return [
        {"what": "two trials at a time, seconds together", "value": took},
        {"what": f"workers: {', '.join(devices)}", "value": None},
        {"what": "five steps on the worker against in this process, difference", "value": difference(there, here)},
        {"what": f"paused after step {at.number if at else 0}, difference", "value": difference(trials[0], paused)},
        {"what": "a second at another seed, difference", "value": difference(trials[0], trials[1])},
    ]


def difference(a: nestor.Trial, b: nestor.Trial) -> float:
    return max(float((torch.as_tensor(a.hparams[n]) - torch.as_tensor(b.hparams[n])).abs().max()) for n in a.hparams)


def table(rows: list[Row]) -> str:
    lines = ["| through the service | |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {r['what']} | {'' if r['value'] is None else format(r['value'], '.3g')} |" for r in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="trials of twenty steps")
    options = parser.parse_args()
    if DEVICE.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("NESTOR_CONCURRENCY", "2")
    with running_service() as server:
        rows = run(server, 20 if options.quick else N_STEPS)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.gpu.service')}\n\n{table(rows)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
