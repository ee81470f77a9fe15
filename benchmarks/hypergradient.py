"""The cost of a hypergradient: `python -m benchmarks.hypergradient [--json FILE] [--quick] [--no-errors] [--cases …]`.

All methods run in one process on one thread and alternate. Costs are processor times relative to a plain training
gradient on the same batch, which is measured before and after each method; medians over the rounds.

    product         a curvature product, without the work that all products at one point share
    hypergradient   all derivatives of an outer step: the outer gradient, the solution of the system, and the mixed
                    term. It is not the first of its trial, so sketches and the estimate of the norm exist
    peak_mb         the increase of memory during a first hypergradient
    error           of a first hypergradient on a few examples, relative to float64: Nestor's to Nestor's, the others'
                    to the hand-written series. (`python -m benchmarks.agreement` shows that these two agree. If the
                    series diverges they may differ: Nestor returns the iterate with the smallest residual.)

One-time setup of a trial is not included; `python -m benchmarks.joint` includes it. The floor counts arithmetic: see
`floors`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import TERMS, Contender, Nestor, others, reverse_over_reverse
from benchmarks.installed import install_peers
from benchmarks.measuring import Run, flops, one_thread, peak_mb, seconds, wait_for_turn
from benchmarks.models import MODELS, Case, case
from benchmarks.peers import curvlinops_gauss_newton, free
from benchmarks.task import Task, task_of
from examples.provenance import caption
from nestor_engine import Hessian

ROUNDS = 5
MOST = 60.0  # processor seconds per contender, after which it is not measured any more
FEW = 4  # examples for the comparison of float32 with float64
LEAST = 0.05  # processor seconds of a measurement
COLUMNS = ("product", "hypergradient", "peak_mb", "error")
Row = dict[str, Any]


def measure(name: str, rounds: int, *, errors: bool, prepare: float = math.inf, limit: float = math.inf) -> list[Row]:
    """The rows of one case.

    Args:
        prepare: wall-clock seconds after which no further contender is prepared.
        limit: wall-clock seconds of the measurement. What does not fit is measured in fewer rounds, or not at all.
    """
    began = time.monotonic()
    subject = case(name)
    alpha = step_size(subject)
    gradient = training_gradient(task_of(subject, alpha))
    error_of = errors_of(name) if errors else repeat(lambda: None)
    rows, runs = list(floors(subject)), []
    for contender, error in zip(contenders(subject, alpha), error_of, strict=errors):
        row = empty(name, contender.implementation, contender.curvature, contender.solver)
        rows.append(row)
        if time.monotonic() - began > prepare:
            row["error"] = f"not prepared within {prepare:.0f} s"
            continue
        print(f"  {contender.implementation}, {contender.curvature}, {contender.solver}", file=sys.stderr, flush=True)
        try:
            row["error"] = error()
            row["peak_mb"] = peak_mb(contender.hypergradient, gradient)
            contender.hypergradient()
            runs.append((row, contender))
        except Exception as failure:  # the row has the reason
            row["error"] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:160]}"
    wait_for_turn()
    print(f"\n{name}: one training gradient takes {1e3 * seconds(gradient, least=1.0):.1f} ms", file=sys.stderr)
    interleaved(runs, gradient, rounds, limit)
    return rows


def contenders(subject: Case, alpha: float) -> Iterator[Contender]:
    yield from Nestor(subject).contenders(alpha)
    yield from others(task_of(subject, alpha))


def interleaved(runs: list[tuple[Row, Contender]], gradient: Run, rounds: int, limit: float = math.inf) -> None:
    """Fill in `product` and `hypergradient`: contenders alternate, each between two training gradients."""
    ratios: dict[tuple[int, str], list[float]] = {}
    spent = [0.0] * len(runs)
    end = time.monotonic() + limit

    def ratio(run: Run, calls: int = 1) -> float:
        before = seconds(gradient, least=LEAST)
        took = seconds(lambda: [run() for _ in range(calls)], least=0.0 if calls > 1 else LEAST) / calls
        return 2 * took / (before + seconds(gradient, least=LEAST))

    for _ in range(rounds):
        for i, (_, contender) in enumerate(runs):
            if spent[i] > MOST or time.monotonic() > end:
                continue
            began = time.process_time()
            whole = ratio(contender.hypergradient, contender.period)
            ratios.setdefault((i, "hypergradient"), []).append(whole)
            if contender.product is not None:
                run = contender.product()
                run()  # the work that is done once per point
                ratios.setdefault((i, "product"), []).append(ratio(run))
            elif contender.shorter is not None:
                rest = ratio(contender.shorter)
                ratios.setdefault((i, "product"), []).append((whole - rest) / TERMS)
            spent[i] += time.process_time() - began
    for (i, column), values in ratios.items():
        runs[i][0][column] = statistics.median(values)
    for i, (row, _) in enumerate(runs):
        if spent[i] == 0.0:
            row["error"] = f"not measured within {limit:.0f} s"


def training_gradient(task: Task) -> Run:
    """The unit: one gradient of the training loss with decay, as in a plain loop."""

    def run() -> tuple[Tensor, ...]:
        weights = free(task.weights)
        return torch.autograd.grad(task.inner(weights, task.hparams), weights)

    return run


def errors_of(name: str) -> Iterator[Callable[[], float | None]]:
    """A function for each contender that returns its error on a few examples."""
    few = case(name, FEW)
    alpha = step_size(few)
    exact = Exact(few.double(), alpha)
    for contender in contenders(few, alpha):
        yield partial(exact.error, contender)


def step_size(subject: Case) -> float:
    """The step size of the series: slightly below the inverse of the Hessian's largest |eigenvalue|."""
    nestor = Nestor(subject)
    return 0.9 / Hessian().operator(nestor.context.linearization()).norm(nestor.context.w)


class Exact:
    """Hypergradients in float64, computed on first use."""

    def __init__(self, double: Case, alpha: float) -> None:
        self._nestor = {(c.curvature, c.solver): c for c in Nestor(double).contenders(alpha)}
        self._task = task_of(double, alpha)
        self._series = cache(self._by_hand)

    def error(self, contender: Contender) -> float | None:
        """The relative error of a contender in float32 that has not run yet.

        None if its random draws differ in float64, or if the exact answer is zero: a series that grows from its first
        term on returns zeros.
        """
        if "KFAC" in contender.curvature + contender.solver:
            return None
        if contender.implementation == "Nestor":
            nestor = self._nestor[contender.curvature, contender.solver]
            exact = nestor.hypergradient()
            nestor.restart()
        else:
            exact = self._series(contender.curvature)
        size = float(exact.norm())
        difference = float((contender.hypergradient().double() - exact).norm())
        contender.restart()
        return difference / size if size else None

    def _by_hand(self, curvature: str) -> Tensor:
        way = {"Hessian": reverse_over_reverse, "Gauss-Newton": curvlinops_gauss_newton}[curvature]
        return torch.cat([m.reshape(-1) for m in way(self._task, TERMS)])


def floors(subject: Case) -> Iterator[Row]:
    """The matrix products and convolutions of a curvature product, relative to those of a gradient.

    Let C be the operations of a forward pass, and c of those of them whose input is data. A gradient takes C forward,
    C for the weights' slopes and C − c for the activations'; counted are C and the whole, which gives c. What depends
    on v in a Hessian product is the derivative of each of these by both of its factors, of which data have none:
    2C − c, 2C − c and 2C − 2c; in a Gauss–Newton product J v, 2C − c, and Jᵀ u, again 2C − c. Where c is small these
    are 2 and 4/3 gradients, and on a single layer both are 1.
    """
    task = task_of(subject, 0.0)
    weights = free(task.weights)
    forward = flops(lambda: task.inner(weights, task.hparams))
    whole = flops(lambda: torch.autograd.grad(task.inner(weights, task.hparams), weights))
    data = 3 * forward - whole
    for curvature, least in (("Hessian", 6 * forward - 4 * data), ("Gauss-Newton", 4 * forward - 2 * data)):
        yield empty(subject.name, "floor", curvature, "") | {"product": least / whole}


def empty(case: str, implementation: str, curvature: str, solver: str) -> Row:
    named = {"case": case, "implementation": implementation, "curvature": curvature, "solver": solver}
    return named | dict.fromkeys(COLUMNS)


def table(rows: list[Row]) -> str:
    """The rows in Markdown, one table per case."""
    lines = []
    for name in dict.fromkeys(row["case"] for row in rows):
        lines += [f"\n**{name}**\n", "| | curvature | solver | product | hypergradient | peak, MB | error |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in rows:
            if row["case"] == name:
                values = (number(row["product"]), number(row["hypergradient"]), number(row["peak_mb"], 0))
                error = row["error"] if isinstance(row["error"], str) else number(row["error"], None)
                cells = (row["implementation"], row["curvature"], row["solver"], *values, error)
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value: float | None, digits: int | None = 2) -> str:
    if value is None:
        return ""
    return f"{value:.0e}" if digits is None else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="one round of the two smallest cases")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} by default")
    parser.add_argument("--no-errors", action="store_true", help="leave out the errors, which take most of the time")
    parser.add_argument("--prepare", type=float, default=math.inf, help="seconds of preparation of a case, at most")
    parser.add_argument("--seconds", type=float, default=math.inf, help="seconds of measurement of a case, at most")
    parser.add_argument("--cases", nargs="+", choices=MODELS, help="only these")
    options = parser.parse_args()
    one_thread()
    install_peers()
    rows: list[Row] = []
    for name in options.cases or (["softmax", "mlp"] if options.quick else MODELS):
        rounds = 1 if options.quick else options.rounds
        errors = not options.no_errors
        rows += measure(name, rounds, errors=errors, prepare=options.prepare, limit=options.seconds)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.hypergradient')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
