"""The quality of hypergradients for their cost along a training run.

    python -m benchmarks.trajectory [--json FILE] [--quick] [--damping NUMBER] [--seed NUMBER]

A convolutional GELU network of 38,282 weights learns 1,000 digits of scikit-learn, 30 % of which have wrong labels. A
decay for every weight and a weight for every example are tuned on 400 clean digits, with five inner steps per outer
step. At every outer step each method computes its hypergradient at the same weights. Each has its own solver state, so
its warm start, its sketch and its averages are those of a trial of its own.

    cosine      with an accurate hypergradient: of the damped Gauss–Newton system on all training data (conjugate
                gradients to 1e-6), and of the Hessian with the same damping (MINRES, because it is indefinite); every
                fifth outer step after the first ten
    cost        of a complete hypergradient after the first ten, sketches amortized, in plain training gradients on the
                method's own batch: all 1,000 examples, or mini-batches of 200. Tracing is not included
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator, minres
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from benchmarks import peers
from benchmarks.installed import install_peers
from benchmarks.measuring import one_thread, seconds
from benchmarks.task import Task
from examples.provenance import caption
from nestor_engine.curvature import Operator
from nestor_engine.data.splits import Batches
from nestor_engine.hparams import L2, ExampleWeights
from nestor_engine.objective import Batch
from nestor_engine.responses import Hypergradient, OuterStepContext, Response
from nestor_engine.tensors.part_state import NoState, PartState, kept_as

N_TRAIN, N_VAL, LABEL_NOISE = 1_000, 400, 0.3
MINI = 200  # examples of a mini-batch
SETTLED, EVERY = 10, 5  # outer steps before the first cosine, and between two cosines


@dataclass
class Method:
    """One row: a way to the hypergradient, and the batch on which the curvature is taken.

    Attributes:
        ours: of the engine; None for twenty cold terms as Betty computes them.
        batch: "all", "mini" (a fresh one each step) or "kept" (one for ten steps).
        spent: processor seconds of each step in those of a gradient on its batch.
        cosines: with the references, by name.
    """

    name: str
    batch: str
    ours: engine.Implicit | None
    state: PartState | None = None
    spent: list[float] = field(default_factory=list)
    cosines: dict[str, list[float]] = field(default_factory=lambda: {"gauss_newton": [], "hessian": []})

    def row(self) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "method": self.name,
            "batch": self.batch,
            "cost": statistics.mean(self.spent[SETTLED:]),
        }
        for reference, values in self.cosines.items():
            summary[reference] = {"median": statistics.median(values), "worst": min(values)} if values else None
        return summary


def methods(damping: float) -> list[Method]:
    gn = engine.GaussNewton(damping)
    warm = lambda solver: engine.Implicit(gn, engine.WarmStarted(solver))
    sketched = lambda steps, rank: warm(engine.PreconditionedCG(steps, engine.NystromSketch(rank, 10)))
    rows = []
    for batch in ("all", "mini"):
        rows += [
            Method("peers: Neumann 20, cold", batch, None),
            Method("identity (T1–T2)", batch, engine.Implicit(gn, engine.Identity())),
            Method("Neumann 2, warm", batch, warm(engine.Neumann(2))),
            Method("CG 2, warm", batch, warm(engine.ConjugateGradient(2))),
            Method("CG 2, warm, sketch of rank 20", batch, sketched(2, 20)),
            Method("CG 2, warm, sketch of rank 50", batch, sketched(2, 50)),
            Method("CG 2, warm, KFAC", batch, warm(engine.PreconditionedCG(2, engine.KFAC()))),
        ]
    rows.append(Method("CG 2, warm, sketch of rank 20", "kept", sketched(2, 20)))
    rows.append(Method("Richardson 1, warm, sketch of rank 20", "all", warm(engine.Richardson())))
    rows.append(Method("Richardson 1, warm, sketch of rank 20", "mini", warm(engine.Richardson())))
    rows.append(Method("Richardson 2, warm, sketch of rank 20", "mini", warm(engine.Richardson(steps=2))))
    return rows


@dataclass(frozen=True)
class WatchedState(PartState):
    """How many outer steps there were, and the driver's state."""

    number: int = field(default=0, metadata=kept_as("number"))
    driver: PartState = field(default_factory=NoState)


@dataclass(frozen=True)
class Watched(Response[WatchedState]):
    """Drives the trial with one method, and computes all others at the same states."""

    driver: engine.Implicit
    rows: list[Method]
    everything: Batch
    kept: Batches
    damping: float

    def init(self) -> WatchedState:
        return WatchedState(0, self.driver.init())

    def hypergradient(self, context: OuterStepContext, state: WatchedState) -> tuple[Hypergradient, WatchedState]:
        number = state.number
        batches = {"all": self.everything, "mini": context.train, "kept": self.kept[number // 10]}
        units = {name: seconds(lambda at=at: plain(context, at), least=0.05) for name, at in batches.items()}
        exact = {}
        if number >= SETTLED and number % EVERY == 0:
            adjoints = references(replace(context, train=self.everything), self.damping)
            exact = {
                (reference, name): flat(replace(context, train=at).linearization().mixed(q))
                for reference, q in adjoints.items()
                for name, at in batches.items()
            }
        for row in self.rows:
            here, got = replace(context, train=batches[row.batch]), []
            spent = seconds(lambda row=row, here=here, got=got: got.append(hypergradient(row, here)))
            row.spent.append(spent / units[row.batch])
            for reference, values in row.cosines.items():
                if exact:
                    values.append(cosine(got[0], -exact[reference, row.batch]))
        print(f"step {number + 1}", file=sys.stderr, flush=True)
        driven, driver_state = self.driver.hypergradient(context, state.driver)
        return driven, WatchedState(number + 1, driver_state)


def hypergradient(row: Method, context: OuterStepContext) -> Tensor:
    if row.ours is not None:
        found, row.state = row.ours.hypergradient(context, row.state or row.ours.init())
        return flat(found.gradient)
    return torch.cat([part.reshape(-1) for part in peers.betty(task(context), 20)])


def task(context: OuterStepContext) -> Task:
    """For the peers, with the step size that the curvature's norm asks for."""
    names, ravel, bilevel = list(context.hparams), context.ravel, context.bilevel.untransformed()
    shaped = lambda weights: dict(zip(bilevel.params, weights, strict=True))
    named = lambda hparams: dict(zip(names, hparams, strict=True))
    alpha = 0.9 / engine.Hessian().operator(context.linearization()).norm(context.w)
    return Task(
        lambda w, h: bilevel.train_loss(shaped(w), context.buffers, named(h), context.train)[0],
        lambda w, h: bilevel.val_loss_at(shaped(w), context.buffers, named(h), context.val),
        list(ravel.tree(context.w).values()),
        list(context.hparams.values()),
        alpha,
    )


def references(context: OuterStepContext, damping: float) -> dict[str, Tensor]:
    """The adjoint of each reference system, tightly converged."""
    b, at = context.outer().by_w, context.linearization()
    operator = engine.GaussNewton(damping).operator(at)
    q = engine.ConjugateGradient(500, rtol=1e-6).solution(operator, b).x
    return {"gauss_newton": q, "hessian": solved(engine.Hessian(damping).operator(at), b)}


def solved(operator: Operator, b: Tensor) -> Tensor:
    """By MINRES [1]: the system is symmetric, and has negative eigenvalues.

    [1] Paige and Saunders (1975), Solution of sparse indefinite systems of linear equations.
    """
    product = lambda v: operator(torch.as_tensor(v).to(b).reshape(-1)).double().numpy()
    n = b.numel()
    matrix = LinearOperator((n, n), matvec=product, dtype="float64")  # pyright: ignore[reportCallIssue]: its __new__ does
    x, _ = minres(matrix, b.double().numpy(), rtol=1e-5, maxiter=500)
    return torch.as_tensor(x).to(b)


def plain(context: OuterStepContext, batch: Batch) -> tuple[Tensor, ...]:
    """One training gradient, as a plain loop takes it."""
    weights = peers.free(list(context.ravel.tree(context.w).values()))
    named = dict(zip(context.bilevel.params, weights, strict=True))
    loss, _ = context.bilevel.train_loss(named, context.buffers, context.hparams, batch)
    return torch.autograd.grad(loss, weights)


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in named.values()])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double(), b.double(), dim=0))


def problem(seed: int) -> engine.Problem:
    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    x, y = torch.tensor(images, dtype=torch.float32)[order].view(-1, 1, 8, 8) / 16, torch.tensor(labels)[order]
    wrong = torch.rand(N_TRAIN, generator=generator) < LABEL_NOISE
    noisy = torch.where(wrong, (y[:N_TRAIN] + 1) % 10, y[:N_TRAIN])
    val = slice(N_TRAIN, N_TRAIN + N_VAL)
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU()),
        *(nn.Flatten(), nn.Linear(512, 64), nn.GELU(), nn.Linear(64, 10)),
    )
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    hparams = [L2(net, per="weight", init=-8.0), ExampleWeights(N_TRAIN)]
    return engine.Problem(net, hparams, loss, loss, train=(x[:N_TRAIN], noisy), val=(x[val], y[val]))


def run(n_steps: int, damping: float, seed: int) -> list[Method]:
    stated, rows = problem(seed), methods(damping)
    train = stated.data.train
    driver = engine.Implicit(engine.GaussNewton(damping), engine.WarmStarted(engine.PreconditionedCG(4)))
    watched = Watched(driver, rows, train | {"index": torch.arange(N_TRAIN)}, Batches(train, MINI, seed=1), damping)
    config = engine.Config(
        n_steps=n_steps,
        inner=engine.Adam(1e-3),
        inner_steps=5,
        batch_size=MINI,
        outer=engine.RMSprop(1e-2),
        response=watched,
        warmup_steps=100,
        trace=True,
        seed=seed,
    )
    for _ in engine.optimize(stated.bilevel(), stated.data, config):
        pass
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(_lines(rows))


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| curvature on | method | cosine, median | worst | with the Hessian's, median | worst | cost |"
    yield "|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: row["batch"]):
        cells = [f"{row[r][s]:.3f}" for r in ("gauss_newton", "hessian") for s in ("median", "worst")]
        yield f"| {row['batch']} | {row['method']} | {' | '.join(cells)} | {row['cost']:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="eleven outer steps instead of 120")
    default = engine.GaussNewton().damping
    parser.add_argument("--damping", type=float, default=default, help="of all systems; less of it is harder")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches")
    options = parser.parse_args()
    one_thread()
    install_peers()
    rows = [row.row() for row in run(SETTLED + 1 if options.quick else 120, options.damping, options.seed)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.trajectory')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
