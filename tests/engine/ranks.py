"""One of several processes that tune together, for test_group: `python -m tests.engine.ranks DIRECTORY RANK SIZE`."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.distributed import ALONE, Group
from nestor_engine.hparams import L2, ExampleWeights
from nestor_engine.objective import Batch
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.responses import Response
from nestor_engine.responses.implicit import Implicit
from nestor_engine.training import evaluation
from tests.engine.device import DEVICE

N_STEPS = 4
OF_SUMS = "of sums"
SCALES = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=DEVICE)


def right(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float()


def precision(outputs: Tensor, batch: Batch) -> Tensor:
    chosen = outputs.argmax(1) == 1
    return (chosen & (batch["y"] == 1)).sum() / chosen.sum().clamp(min=1)


def share_of_ones(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    is_one = batch["y"] == 1
    return right(outputs, batch)[is_one].sum(), is_one.sum()


def problem(*layers: nn.Module, of_sums: bool = False) -> engine.Problem:
    """In float64; 61 training and 31 validation examples, which two do not divide evenly.

    With `of_sums`, the validation loss is a sum and a weight.
    """
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, y = torch.randn(61, 4, generator=generator, dtype=torch.float64), torch.arange(61) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), *layers, nn.Tanh(), nn.Linear(8, 3)).double()
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")

    def sums(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(outputs, batch["y"], SCALES, reduction="sum"), SCALES[batch["y"]].sum()

    return engine.Problem(
        model, [L2(model, per="tensor"), ExampleWeights(61)], loss, sums if of_sums else loss,
        metrics={"accuracy": right, "precision": precision, "share": share_of_ones},
        train=(x, y), val=(x[:31], y[:31]), test=(x, y),
    )  # fmt: skip


def config(response: Response, inner: Optimizer | None = None) -> engine.Config:
    chosen = inner or engine.Adam(1e-2, clip_norm=1.0)
    traced = isinstance(response, Implicit) and isinstance(response.curvature, engine.GaussNewton)
    options: dict[str, Any] = {"evaluate_every": 1, "warmup_steps": 1, "trace": traced}
    return engine.Config(n_steps=N_STEPS, inner=chosen, inner_steps=2, batch_size=25, response=response, **options)


CG = engine.PreconditionedCG(3, engine.NystromSketch(rank=4))
RESPONSES = {
    "gauss_newton": engine.Implicit(),
    "hessian": engine.Implicit(engine.Hessian(0.5), engine.ConjugateGradient(4)),
    "fisher_of_batches": engine.Implicit(engine.EmpiricalFisher(), engine.Neumann(2)),
    "fisher_of_examples": engine.Implicit(engine.EmpiricalFisher(per="example"), engine.Nystrom(rank=4)),
    "sketched": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(CG)),
    "adam_preconditioned": engine.Implicit(
        engine.GaussNewton(), engine.PreconditionedCG(2, engine.AdamDiagonal())
    ),
    "richardson": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(engine.Richardson())),
    "unrolled": engine.Unrolled(steps=2),
    "hypernetwork": engine.Hypernetwork(rank=3, steps=2),
    "direct_only": engine.DirectOnly(),
}  # fmt: skip


def run(response: Response, group: Group = ALONE, *layers: nn.Module, of_sums: bool = False) -> list[engine.Step]:
    posed = problem(*layers, of_sums=of_sums)
    return list(engine.optimize(posed.bilevel(), posed.data, config(response), group=group))


def main(directory: Path, rank: int, size: int) -> None:
    torch.set_num_threads(1)
    if DEVICE.type != "cpu":
        torch.set_default_device(DEVICE)
    dist.init_process_group("gloo", init_method=f"file://{directory / 'peers'}", rank=rank, world_size=size)
    group = Group(rank, size)
    evaluation.EVALUATION_BATCH = 7  # each process evaluates in chunks
    records: dict[str, Any] = {OF_SUMS: [step.record() for step in run(engine.Implicit(), group, of_sums=True)]}
    for name, response in RESPONSES.items():
        steps = run(response, group)
        records[name] = [step.record() for step in steps]
        (directory / f"{name}-{rank}").write_bytes(steps[-1].state.save())

    noisy = nn.BatchNorm1d(8), nn.Dropout(0.2)
    whole = run(engine.Implicit(), group, *noisy)
    posed = problem(*noisy)
    bilevel, settings = posed.bilevel(), config(engine.Implicit())
    half = next(islice(engine.optimize(bilevel, posed.data, settings, group=group), 1, None))
    state = engine.State.load(half.state.save())
    *_, resumed = engine.optimize(bilevel, posed.data, settings, state, group)
    (directory / f"whole-{rank}").write_bytes(whole[-1].state.save())
    (directory / f"resumed-{rank}").write_bytes(resumed.state.save())
    (directory / f"records-{rank}.json").write_text(json.dumps(records))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
