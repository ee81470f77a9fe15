"""Does tuning by hypergradients help? Tasks, rivals at equal compute, all refitted.

    python -m benchmarks.usefulness [--json FILE] [--quick] [--seeds N] [--tasks NAME …] [--rivals NAME …]
        [--uci FOLDER] [--held-out] [--known FILE …]

Scores are on test data: accuracy, or minus the loss. Ours is tuned with Nestor's defaults: no option is chosen for a
task. Its row that meets the best rival is the training on all data under the tuned hyperparameters; the best rival is
the one with the best mean *test* score, which favors rivals. All train with the same inner optimizer and batch size. A
rival has as many inner steps as a tuned run, and a confirmation as many as that run took to its best step.

    untuned, both          training data, or these and the validation data, with the values where tuning starts
    validation alone       trained on the validation data; the decay by a grid that a part of them judges
    grid                   eight decays
    random, TPE, GP        eight proposals of the decay and, where natural, of dropout, class balance and the like
    class-balanced         classes weighted by inverse frequency, and the grid
    cleanlab               examples with doubtful labels left out, and the grid

Grids and searches choose by the validation score, ours by the validation loss. Then they are refitted on training and
validation data. A tuned run costs about 2.6 trainings, and at most 2 more to be confirmed twice; a grid or search costs
8, and 1 more to be refitted; cleanlab costs 5 more. `seconds` of ours include both confirmations.

† marks tasks on which no default was chosen. They run only with --held-out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from benchmarks.measuring import one_thread, until
from benchmarks.rows import Row, collected, shared_options
from benchmarks.usefulness.ours import ROWS, ours
from benchmarks.usefulness.rivals import RIVALS, SPECIAL
from benchmarks.usefulness.setting import QUICK, Effort, Setting
from benchmarks.usefulness.table import table
from benchmarks.usefulness.task import Task
from benchmarks.usefulness.tasks import tasks
from examples.provenance import caption
from nestor.errors import Diverged

OURS = "ours"
CONTENDERS = (OURS, *RIVALS)


def rows(setting: Setting, contender: str) -> Iterator[Row]:
    """One row of a rival, or the three of ours."""
    task = setting.task
    known = {"task": task.name, "held_out": task.held_out, "seed": setting.seed}
    began = until()
    try:
        scores = ours(setting) if contender == OURS else {contender: RIVALS[contender](setting)}
    except Diverged as error:
        for name in ROWS if contender == OURS else (contender,):
            yield {**known, "rival": name, "error": str(error)}
        return
    seconds = until() - began
    for name, score in scores.items():
        yield {**known, "rival": name, "score": score, "seconds": seconds}


def measured(
    chosen: Iterable[Task], seeds: int, contenders: list[str], effort: Effort, known: list[Row]
) -> Iterator[Row]:
    """The rows of an earlier run, and those of this one that it lacks."""
    yield from known
    there = {(row["task"], row["seed"], row["rival"].partition(",")[0]) for row in known}
    for task, seed in product(chosen, range(seeds)):
        setting = Setting(task, seed, effort)
        for contender in contenders:
            applies = contender not in SPECIAL or contender in task.also
            if applies and (task.name, seed, contender) not in there:
                yield from rows(setting, contender)


def options() -> argparse.ArgumentParser:
    parser = shared_options(__doc__, quick="one seed of two tasks, and few steps")
    parser.add_argument("--seeds", type=int, default=5, help="of each task")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="these tasks; all by default")
    parser.add_argument("--rivals", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="all by default")
    parser.add_argument("--uci", type=Path, metavar="FOLDER", help="where yacht.npz and energy.npz are: two more tasks")
    parser.add_argument("--held-out", action="store_true", help="also the tasks on which no default may be chosen")
    parser.add_argument("--known", type=Path, nargs="+", default=[], metavar="FILE", help="rows not to measure again")
    return parser


def main() -> None:
    parser = options()
    given = parser.parse_args()
    allowed = {name: task for name, task in tasks(given.uci).items() if given.held_out or not task.held_out}
    names = given.tasks or list(allowed)
    if unknown := [name for name in names if name not in allowed]:
        parser.error(f"unknown or held out: {unknown[0]!r}; choose from {', '.join(map(repr, allowed))}")
    names, seeds, effort = (names[:2], 1, QUICK) if given.quick else (names, given.seeds, Effort())
    known = [row for file in given.known for row in json.loads(file.read_text())]
    stamp = caption("benchmarks.usefulness")  # before the run: the commit may change during it
    one_thread()
    found = collected(measured([allowed[name] for name in names], seeds, list(given.rivals), effort, known), given.json)
    print(stamp, table(found), sep="\n\n")


if __name__ == "__main__":
    main()
