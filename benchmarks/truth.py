"""Predicted against real changes of the validation loss, by retraining.

    python -m benchmarks.truth [--json FILE] [--quick] [--seeds NUMBER]

Each task trains once with a hypergradient every five inner steps that moves nothing. Then it trains again under changed
hyperparameters, forty times for each kind of change, from the same initial weights with the same batches.

    score       rank correlation between the changes of the validation loss that the last hypergradient predicts and
                those that retraining gives, as in the literature on data attribution [1]; the columns are kinds of
                changes. All responses meet the same retrainings
    cosine      with the exact hypergradient, which goes back through the whole training
    products    of the curvature with a vector for each hypergradient, those of sketches and of the norm included

Networks that have memorized are perceptrons 64-24-10 that learn 300 digits of scikit-learn, 20 % of which have random
labels, at a learning rate with which they learn all of them. Those that are hardly trained have a tenth of that rate.
Convex tasks are softmax regressions.

[1] Park et al. (2023), TRAK: attributing model behavior at scale.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
import nestor_engine as engine
from benchmarks.measuring import one_thread
from benchmarks.rows import Row, collected, shared_options
from examples.provenance import caption
from nestor.errors import Diverged
from nestor_engine.hparams import L2, Augmentation, ExampleWeights, Hyperparameters, UNet
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.retraining import Truth, changed_by, nudges, predicted, retrained, unmoved

N_TRAIN, N_VAL, CORRUPTED = 300, 300, 0.2
BETWEEN = 5  # inner steps between two hypergradients
RETRAININGS = 40

Changes = Callable[[Bilevel, int], list[Tensors]]
Kind = Callable[[nn.Module], Hyperparameters]


# --- the changes of hyperparameters ---------------------------------------------------------------


def shrunk(bilevel: Bilevel, seed: int) -> list[Tensors]:
    """The weights of a random half of the examples × 0.99."""
    return [{name: -0.01 * chosen} for name, chosen in _chosen(bilevel, seed, share=0.5)]


def removed(bilevel: Bilevel, seed: int) -> list[Tensors]:
    """The weights of a random tenth of the examples set to zero."""
    return [{name: -chosen} for name, chosen in _chosen(bilevel, seed, share=0.1)]


def _chosen(bilevel: Bilevel, seed: int, *, share: float) -> Iterator[tuple[str, Tensor]]:
    ((name, weights),) = bilevel.hparams.items()
    generator = torch.Generator().manual_seed(1_000 + seed)
    for _ in range(RETRAININGS):
        chosen = torch.zeros_like(weights)
        chosen[torch.randperm(len(weights), generator=generator)[: round(share * len(weights))]] = 1
        yield name, chosen


def nudged(size: float) -> Changes:
    """All entries by a random normal number times `size`."""
    return lambda bilevel, seed: list(nudges(bilevel, RETRAININGS, size=size, seed=seed))


OF_WEIGHTS: Mapping[str, Changes] = {"weights × 0.99": shrunk, "a tenth removed": removed}
OF_DECAYS: Mapping[str, Changes] = {"decays × 0.9 to 1.1": nudged(0.1), "decays × 0.4 to 2.7": nudged(1.0)}
OF_NETWORKS: Mapping[str, Changes] = {"parameters ± 0.01": nudged(0.01), "parameters ± 0.05": nudged(0.05)}


# --- the tasks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One training whose hypergradients are compared.

    Attributes:
        changes: by name.
        n_steps: hypergradients; there are `BETWEEN` inner steps before each.
        images: whether a convolutional network learns images, in place of a perceptron.
        convex: whether softmax regression takes the place of the perceptron.
    """

    kind: Kind
    changes: Mapping[str, Changes]
    inner: Any = field(default_factory=lambda: nestor.SGD(0.2, momentum=0.9))
    batch_size: int = N_TRAIN
    n_steps: int = 60
    images: bool = False
    convex: bool = False

    def problem(self, seed: int) -> nestor.Problem:
        """The data, the initial weights and the hyperparameters."""
        images, targets = load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(targets)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator)
        train, val = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_VAL]
        labels = y[train].clone()
        wrong = torch.randperm(N_TRAIN, generator=generator)[: round(CORRUPTED * N_TRAIN)]
        labels[wrong] = torch.randint(0, 10, wrong.shape, generator=generator)
        torch.manual_seed(seed)
        net = self._network()
        x = x.reshape(-1, 1, 8, 8) if self.images else x
        return nestor.Problem(
            net,
            self.kind(net),
            lambda out, batch: F.cross_entropy(out, batch["y"], reduction="none"),
            lambda out, batch: F.cross_entropy(out, batch["y"]),
            train=(x[train], labels),
            val=(x[val], y[val]),
        )

    def config(self, **given: Any) -> nestor.Config:
        """The training, with the options of a response."""
        options = {"n_steps": self.n_steps, "inner_steps": BETWEEN, "inner": self.inner, "batch_size": self.batch_size}
        return nestor.Config(**options | given)

    @property
    def inner_steps(self) -> int:
        """In all."""
        return self.n_steps * BETWEEN

    def _network(self) -> nn.Module:
        if self.convex:
            return nn.Linear(64, 10)
        if self.images:
            conv = nn.Conv2d(1, 8, 3, padding=1)
            return nn.Sequential(conv, nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        return nn.Sequential(nn.Linear(64, 24), nn.GELU(), nn.Linear(24, 10))


def example_weights(_: nn.Module) -> Hyperparameters:
    return ExampleWeights(N_TRAIN, init=1.0, transform="identity")


def decays(per: Any, init: float = -6.0) -> Kind:
    return lambda net: L2(net, per=per, init=init)


def augmentation(_: nn.Module) -> Hyperparameters:
    return Augmentation(UNet(1, width=4))


ADAM: dict[str, Any] = {"inner": nestor.Adam(5e-3), "batch_size": 100, "n_steps": 100}
TASKS = {
    "a weight per example, memorized": Task(example_weights, OF_WEIGHTS),
    "a weight per example, hardly trained": Task(example_weights, OF_WEIGHTS, inner=nestor.SGD(0.02, momentum=0.9)),
    "a weight per example, memorized, Adam on mini-batches": Task(example_weights, OF_WEIGHTS, **ADAM),
    "a decay per weight, memorized": Task(decays("weight"), OF_DECAYS),
    "a decay per weight, strong": Task(decays("weight", init=-4.0), OF_DECAYS),
    "a decay per tensor, memorized": Task(decays("tensor"), OF_DECAYS),
    "a decay per tensor, Adam on mini-batches": Task(decays("tensor"), OF_DECAYS, **ADAM),
    "augmentation, Adam on mini-batches": Task(augmentation, OF_NETWORKS, images=True, **ADAM),
    "a weight per example, convex": Task(example_weights, OF_WEIGHTS, n_steps=300, convex=True),
    "a decay per weight, convex": Task(decays("weight", init=-3.0), OF_DECAYS, n_steps=300, convex=True),
}


# --- the responses --------------------------------------------------------------------------------


def sketched(damping: Any) -> nestor.Implicit:
    """Four products of conjugate gradients, warm-started and preconditioned by a sketch."""
    return nestor.Implicit(nestor.GaussNewton(damping), nestor.WarmStarted(nestor.PreconditionedCG(steps=4)))


RESPONSES: dict[str, nestor.options.Response] = {
    "default: Gauss–Newton, damping 0.03, warm Neumann 2": nestor.Implicit(),
    "the same, damping 'auto'": nestor.Implicit(nestor.GaussNewton("auto")),
    "the same, damping 0.001": nestor.Implicit(nestor.GaussNewton(1e-3)),
    "damping 'auto', warm CG 1 with a sketch of rank 20 every 20": nestor.Implicit(
        nestor.GaussNewton("auto"),
        nestor.WarmStarted(nestor.PreconditionedCG(steps=1, preconditioner=nestor.NystromSketch(20, refresh=20))),
    ),
    "damping 'auto', warm sketched CG 4": sketched("auto"),
    **{
        f"Gauss–Newton, damping {damping:g}, warm sketched CG 4": sketched(damping)
        for damping in (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
    },
    "Fisher per example, damping 0.001, warm sketched CG 4": nestor.Implicit(
        nestor.EmpiricalFisher(1e-3, per="example"), nestor.WarmStarted(nestor.PreconditionedCG(steps=4))
    ),
    "Hessian, Neumann 20": nestor.Implicit(nestor.Hessian(), nestor.Neumann(terms=20)),
    "KFAC, damping 0.03": nestor.Implicit(nestor.KFAC(0.03), nestor.Direct()),
    "KFAC, damping 0.001": nestor.Implicit(nestor.KFAC(1e-3), nestor.Direct()),
    "T1–T2": nestor.Implicit(nestor.Hessian(), nestor.Identity()),
    f"Unrolled, the last {BETWEEN} steps": nestor.Unrolled(BETWEEN),
    "Hypernetwork": nestor.Hypernetwork(),
}
WHOLE = "Unrolled, the whole training"


def rows(name: str, task: Task, seed: int) -> Iterator[Row]:
    problem = task.problem(seed)
    bilevel, data = problem.bilevel(), problem.data
    steps, config = task.inner_steps, task.config()
    (exact,) = unmoved(bilevel, data, task.config(n_steps=1, inner_steps=steps, response=nestor.Unrolled(steps)))
    value = retrained(bilevel, data, config)
    changes = {what: made(bilevel, seed) for what, made in task.changes.items()}
    real = {
        what: tuple(retrained(changed_by(bilevel, change), data, config) - value for change in listed)
        for what, listed in changes.items()
    }

    def compared(response: str, taken: list[engine.Step]) -> Row:
        last, truth = taken[-1].state.previous, exact.state.previous
        return {
            "task": name,
            "seed": seed,
            "response": response,
            "scores": {
                what: Truth(value, tuple(predicted(last, listed)), real[what]).score for what, listed in changes.items()
            },
            "cosine": float(F.cosine_similarity(flat(last), flat(truth), dim=0)),
            "length": float(flat(last).norm() / flat(truth).norm()),
            "residual": taken[-1].residual,
            "products": statistics.mean(one.products for one in taken),
        }

    yield compared(WHOLE, [exact])
    for response, given in RESPONSES.items():
        try:
            taken = [*unmoved(bilevel, data, task.config(response=given))]
        except Diverged as error:
            yield {"task": name, "seed": seed, "response": response, "error": str(error)}
        else:
            yield compared(response, taken)


def flat(named: Tensors) -> Tensor:
    return torch.cat([named[name].double().flatten() for name in sorted(named)])


# --- the table ------------------------------------------------------------------------------------


def table(found: list[Row]) -> str:
    """Of each task, the mean score over seeds and its range."""
    return "\n\n".join(_of_task(name, [row for row in found if row["task"] == name]) for name in _names(found, "task"))


def _of_task(name: str, found: list[Row]) -> str:
    whats = next(list(row["scores"]) for row in found if "scores" in row)
    lines = [
        f"**{name}**",
        "",
        f"| response | {' | '.join(whats)} | cosine | products |",
        f"|---|{'---|' * len(whats)}---|---|",
    ]
    for response in _names(found, "response"):
        of_one = [row for row in found if row["response"] == response]
        failed = next((row["error"] for row in of_one if "error" in row), None)
        if failed:
            cells = [f"{sum('error' in row for row in of_one)} of {len(of_one)} diverged"] + [""] * (len(whats) + 1)
        else:
            cells = [_cell([row["scores"][what] for row in of_one]) for what in whats]
            cells += [_cell([row["cosine"] for row in of_one]), f"{statistics.mean(r['products'] for r in of_one):.1f}"]
        lines.append(f"| {response} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _names(found: list[Row], of: str) -> list[str]:
    return list(dict.fromkeys(row[of] for row in found))


def _cell(values: list[float]) -> str:
    text = f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    return text.replace("-", "−")


def main() -> None:
    parser = shared_options(__doc__, quick="one seed of the first task")
    parser.add_argument("--seeds", type=int, default=3, help="of each task")
    options = parser.parse_args()
    one_thread()
    tasks = dict(list(TASKS.items())[:1]) if options.quick else TASKS
    seeds = 1 if options.quick else options.seeds
    found = collected(
        (row for name, task in tasks.items() for seed in range(seeds) for row in rows(name, task, seed)), options.json
    )
    print(caption("benchmarks.truth", ["--quick"] if options.quick else []), table(found), sep="\n\n")


if __name__ == "__main__":
    main()
