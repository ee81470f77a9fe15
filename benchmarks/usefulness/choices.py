"""What each choice behind the defaults is worth: one is changed at a time, on tasks that are not held out.

python -m benchmarks.usefulness.choices [--json FILE] [--quick] [--seeds N] [--tasks NAME …]

score       on test data, after the training on all data under the tuned hyperparameters; mean over the seeds
difference  to the defaults, paired by seeds, with an interval of 95 %
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from torch import nn

import nestor
from benchmarks.measuring import one_thread
from benchmarks.rows import Row, collected, shared_options
from benchmarks.truth import sketched
from benchmarks.usefulness.comparison import paired
from benchmarks.usefulness.ours import JUDGED, ours
from benchmarks.usefulness.setting import QUICK, Effort, Setting
from benchmarks.usefulness.table import of_task, signs
from benchmarks.usefulness.task import Splits, Task
from benchmarks.usefulness.tasks import tasks
from examples.provenance import caption
from nestor_engine.hparams import Hyperparameters

TASKS = (
    "digits, 40 % swapped labels",
    "digits, 100 + 100 examples",
    "breast cancer, 300 irrelevant features",
    "diabetes, 100 irrelevant features",
)
DEFAULTS = "the defaults"


@dataclass(frozen=True)
class Choice:
    """What differs from the defaults.

    Attributes:
        prior: precision of the prior of all kinds that have one; None for their own.
        fewer: by what the number of outer steps is divided; the inner steps between two of them are multiplied by it.
    """

    options: dict[str, Any] = field(default_factory=dict[str, Any])
    prior: float | None = None
    fewer: int = 1

    def task(self, task: Task) -> Task:
        """The task with this choice of a prior."""
        if (prior := self.prior) is None:
            return task

        def kinds(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
            return [kind.with_prior(prior) if kind.priors else kind for kind in task.kinds(model, splits)]

        return replace(task, kinds=kinds)

    def setting(self, task: Task, seed: int, effort: Effort) -> Setting:
        """The task with this choice, for as many inner steps in all."""
        inner_steps = nestor.Config(n_steps=1).inner_steps * self.fewer
        options = {"inner_steps": inner_steps, **self.options}
        return Setting(self.task(task), seed, replace(effort, n_steps=effort.n_steps // self.fewer), options)


def once(damping: Any) -> nestor.Implicit:
    """One product of conjugate gradients with a sketch of rank 20 every 20 steps: the products of the default."""
    solver = nestor.PreconditionedCG(steps=1, preconditioner=nestor.NystromSketch(20, refresh=20))
    return nestor.Implicit(nestor.GaussNewton(damping), nestor.WarmStarted(solver))


FORMER = {"outer": nestor.RMSprop(1e-2)}
HYPERPARAMETERS = {
    "no levels": Choice(prior=0),
    "a prior of 0.1": Choice(prior=0.1),
    "outer RMSprop(0.01)": Choice(FORMER),
    "outer Adam(0.1)": Choice({"outer": nestor.Adam(0.1, eps=1e-12)}),
    "a rate that does not fall": Choice({"outer": nestor.Adam("auto", eps=1e-12, schedule=nestor.Warmup())}),
    "RMSprop(0.01), no levels": Choice(FORMER, prior=0),
    "a quarter of the outer steps": Choice(fewer=4),
    "the same, RMSprop(0.01), no levels": Choice(FORMER, prior=0, fewer=4),
    "100 inner steps before the first outer one": Choice({"warmup_steps": 100}),
}
RESPONSES = {
    "damping 'auto', warm Neumann 2": Choice({"response": nestor.Implicit(nestor.GaussNewton("auto"))}),
    "damping 0.03, warm CG 1 with a sketch of rank 20 every 20": Choice({"response": once(0.03)}),
    "damping 'auto', the same solver": Choice({"response": once("auto")}),
    "damping 'auto', warm sketched CG 4": Choice({"response": sketched("auto")}),
}
ABOUT = {"hyperparameters": HYPERPARAMETERS, "responses": RESPONSES}


def rows(chosen: Sequence[Task], seeds: int, effort: Effort, choices: dict[str, Choice]) -> Iterator[Row]:
    for task, seed, (name, choice) in product(chosen, range(seeds), ({DEFAULTS: Choice()} | choices).items()):
        score = ours(choice.setting(task, seed, effort))[JUDGED]
        yield {"task": task.name, "seed": seed, "rival": name, "score": score}


def table(found: list[Row]) -> str:
    """Choice × task: the mean score of the defaults, and differences to it."""
    names = list(dict.fromkeys(row["task"] for row in found))
    by_task = [of_task(found, name) for name in names]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for choice in dict.fromkeys(row["rival"] for row in found):
        cells = [_cell(scores, choice) for scores in by_task]
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(scores: Any, choice: str) -> str:
    if choice == DEFAULTS:
        return signs(f"{statistics.mean(scores[DEFAULTS].values()):.3f}")
    difference = paired(scores[choice], scores[DEFAULTS])
    return signs(f"{difference.mean:+.3f} ± {difference.half:.3f}")


def main() -> None:
    parser = shared_options(__doc__, quick="one seed of two tasks, and few steps")
    parser.add_argument("--seeds", type=int, default=5, help="of each task")
    parser.add_argument("--about", choices=ABOUT, default="hyperparameters", help="which choices")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="NAME", help="these tasks")
    given = parser.parse_args()
    names, seeds, effort = (
        (given.tasks[:2], 1, replace(QUICK, n_steps=8)) if given.quick else (given.tasks, given.seeds, Effort())
    )
    stamp = caption("benchmarks.usefulness.choices", ["--about", given.about])
    one_thread()
    every = tasks(None)
    found = collected(rows([every[name] for name in names], seeds, effort, ABOUT[given.about]), given.json)
    print(stamp, table(found), sep="\n\n")


if __name__ == "__main__":
    main()
