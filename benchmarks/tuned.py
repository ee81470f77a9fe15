"""What dampings are worth for tuning: `python -m benchmarks.tuned [--json FILE] [--quick] [--seeds NUMBER]`.

Test accuracy of the network at the best step on validation data, for several responses on the same tasks: digits of
scikit-learn, a perceptron 64-128-10, 200 outer steps of five inner steps.

    accuracy    mean over the seeds
    difference  to the default, paired by seeds: mean and standard error
    products    of the curvature with a vector for each outer step
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
import nestor_engine as engine
from benchmarks.measuring import one_thread
from benchmarks.rows import Row, collected, shared_options
from benchmarks.truth import sketched
from examples.provenance import caption
from nestor_engine.hparams import L2, ExampleWeights

SWAPPED = 0.45  # of the labels


def once(damping: Any) -> nestor.Implicit:
    """One product of conjugate gradients with a sketch of rank 20 every 20 steps: the products of the default."""
    solver = nestor.PreconditionedCG(steps=1, preconditioner=nestor.NystromSketch(20, refresh=20))
    return nestor.Implicit(nestor.GaussNewton(damping), nestor.WarmStarted(solver))


DEFAULT = "default: damping 0.03, warm Neumann 2"
RESPONSES = {
    DEFAULT: nestor.Implicit(),
    "damping 'auto', warm Neumann 2": nestor.Implicit(nestor.GaussNewton("auto")),
    "damping 0.03, warm CG 1 with a sketch of rank 20 every 20": once(0.03),
    "damping 'auto', warm CG 1 with a sketch of rank 20 every 20": once("auto"),
    "damping 'auto', warm sketched CG 4": sketched("auto"),
}
TASKS = {
    "a weight per example, 45 % swapped labels": (800, 100),  # training and validation examples
    "a decay per weight, few examples": (100, 300),
    "a decay per tensor, few examples": (100, 300),
}


def problem_of(task: str, seed: int) -> nestor.Problem:
    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(targets)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    train, val, test = order[: TASKS[task][0]], order[800 : 800 + TASKS[task][1]], order[1_100:]
    labels = y[train].clone()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
    if task.startswith("a weight"):
        swapped = torch.rand(len(train), generator=generator) < SWAPPED
        labels[swapped] = (labels[swapped] + 1) % 10
        kind = ExampleWeights(len(train))
    else:
        kind = L2(net, per="weight" if "per weight" in task else "tensor")
    loss = lambda out, batch: F.cross_entropy(out, batch["y"], reduction="none")
    return nestor.Problem(
        net,
        kind,
        loss,
        loss,
        metrics={"accuracy": accuracy},
        train=(x[train], labels),
        val=(x[val], y[val]),
        test=(x[test], y[test]),
    )


def accuracy(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (out.argmax(1) == batch["y"]).float().mean()


def row(task: str, seed: int, response: str) -> Row:
    problem = problem_of(task, seed)
    config = nestor.Config(
        n_steps=200, batch_size=200, inner=nestor.Adam(1e-3), outer=nestor.Adam(0.1), response=RESPONSES[response]
    )
    steps = [*engine.optimize(problem.bilevel(), problem.data, config)]
    best = min((step for step in steps if step.value is not None), key=lambda step: step.value or 0.0)
    return {
        "task": task,
        "seed": seed,
        "response": response,
        "accuracy": best.test_metrics["accuracy"],
        "products": statistics.mean(step.products for step in steps),
    }


def table(found: list[Row]) -> str:
    """The mean over seeds, and paired differences to the default."""
    lines = ["| task | response | accuracy | difference | products |", "|---|---|---|---|---|"]
    for task in dict.fromkeys(one["task"] for one in found):
        of_task = [one for one in found if one["task"] == task]
        usual = {one["seed"]: one["accuracy"] for one in of_task if one["response"] == DEFAULT}
        for response in dict.fromkeys(one["response"] for one in of_task):
            rows = [one for one in of_task if one["response"] == response]
            mean = statistics.mean(one["accuracy"] for one in rows)
            products = statistics.mean(one["products"] for one in rows)
            differences = [one["accuracy"] - usual[one["seed"]] for one in rows]
            difference = "" if response == DEFAULT or len(rows) < 2 else _paired(differences)
            lines.append(f"| {task} | {response} | {mean:.4f} | {difference} | {products:.1f} |")
    return "\n".join(lines)


def _paired(differences: list[float]) -> str:
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.4f} ± {error:.4f}".replace("-", "−")


def rows(seeds: int) -> Iterator[Row]:
    for task in TASKS:
        for seed in range(seeds):
            for response in RESPONSES:
                yield row(task, seed, response)


def main() -> None:
    parser = shared_options(__doc__, quick="one seed")
    parser.add_argument("--seeds", type=int, default=12, help="of each task")
    options = parser.parse_args()
    one_thread()
    found = collected(rows(1 if options.quick else options.seeds), options.json)
    print(caption("benchmarks.tuned", ["--quick"] if options.quick else []), table(found), sep="\n\n")


if __name__ == "__main__":
    main()
