"""Curvature products in four ways, in training gradients: `python -m benchmarks.gpu.products [--json FILE] [--quick]`.

    kept graph      autograd's graph of the gradient, differentiated once more for each vector
    traced          the traced graph, its kernels launched one by one
    recorded        the traced graph as one launch (CUDA graph)
    compiled        the traced graph with torch.compile, with --compile; compilation takes `compile_s` seconds

Each model has a batch that fills the GPU, and a small batch, where launches cost more than arithmetic. `error` is the
relative distance of the recorded product from that of the kept graph.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import Nestor
from benchmarks.hypergradient import training_gradient
from benchmarks.measuring import ON_GPU, Run, one_thread, seconds, wait_for_turn
from benchmarks.models import MODELS, Case, case
from benchmarks.task import task_of
from examples.provenance import caption
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.autodiff.replay import Recording
from nestor_engine.autodiff.trace_cache import Linear, TraceCache, Traced

SMALL = 8  # examples
ROUNDS, LEAST = 5, 0.02  # rounds, and seconds of each measurement
CURVATURES = {"Hessian": Linearization.hessian_product, "Gauss-Newton": Linearization.gauss_newton_product}
Row = dict[str, Any]


def prepared(subject: Case, curvature: str, *, compiled: bool) -> tuple[Row, dict[str, Run], Run]:
    """A row without times, the ways to compute a product, and the training gradient."""
    point_method = CURVATURES[curvature]
    traces, context = TraceCache(), Nestor(subject).context
    point = context.linearization()
    linear = traces.get(point, point_method)
    row: Row = {"case": subject.name, "batch": len(subject.x), "curvature": curvature}
    gradient = training_gradient(task_of(subject, 0.0))
    if linear is None:
        return row | {"error": next(traces.news())}, {}, gradient
    (found,) = traces._traced.values()
    assert found is not None
    plain = Traced(found.split)  # as it was traced
    v = torch.randn_like(context.w)
    kept = context.linearization()
    expected = point_method(kept, v)
    ways: dict[str, Run] = {"kept graph": lambda: point_method(kept, v), "traced": _bound(plain, point, v)}
    if ON_GPU:
        row["recorded by default"] = found.product is not plain.product
        recording = _recording(plain, point, v)
        got = recording()[0]
        row["error"] = float((got - expected).norm() / expected.norm())
        ways["recorded"] = recording
    if compiled:
        began = time.perf_counter()
        try:
            ways["compiled"] = _compiled(plain, point, v)
            row["compile_s"] = time.perf_counter() - began
        except Exception as failure:  # torch.compile raises many kinds of errors
            row["compiled"] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:120]}"
    gradient()
    return row, ways, gradient


def measured(row: Row, ways: dict[str, Run], gradient: Run) -> Row:
    """The row with the milliseconds of a training gradient, and products in units of it."""
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        unit = seconds(gradient, least=LEAST)
        times.setdefault("gradient_ms", []).append(1e3 * unit)
        for name, run in ways.items():
            times.setdefault(name, []).append(seconds(run, least=LEAST) / unit)
    return row | {name: statistics.median(values) for name, values in times.items()}


def _bound(traced: Traced, point: Linearization, v: Tensor) -> Run:
    linear = Linear(traced, point)
    return lambda: linear.product(v)


def _recording(traced: Traced, point: Linearization, v: Tensor) -> Callable[[], list[Tensor]]:
    with point.drawing():
        read, _ = traced.split.once(*point.leaves())
    recording = Recording(traced.split.each[0], [*read, v], pinned=len(read))
    return lambda: recording(*read, v)


def _compiled(traced: Traced, point: Linearization, v: Tensor) -> Run:
    with point.drawing():
        read, _ = traced.split.once(*point.leaves())
    module = torch.compile(traced.split.each[0].module)

    @torch.no_grad()
    def run() -> object:
        return module(*read, v)

    for _ in range(3):
        run()
    return run


RECORDED = {True: "yes", False: "no", None: ""}


def table(rows: list[Row]) -> str:
    ways = ("kept graph", "traced", "recorded", "compiled")
    head = ("model", "batch", "curvature", "gradient, ms", *ways, "compile, s", "error", "recorded by default")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        numbers = [_shown(row.get(way), ".2f") for way in ways]
        cells = [row["case"], f"{row['batch']:,}", row["curvature"], _shown(row.get("gradient_ms"), ".3f"), *numbers]
        cells += [_shown(row.get("compile_s"), ".0f"), _shown(row.get("error"), ".0e")]
        lines.append(f"| {' | '.join([*cells, RECORDED[row.get('recorded by default')]])} |")
    return "\n".join(lines)


def _shown(value: object, form: str) -> str:
    return "" if value is None else format(value, form) if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="only the multilayer perceptron with the small batch")
    parser.add_argument("--cases", nargs="+", choices=MODELS, default=list(MODELS), help="only these")
    parser.add_argument("--compile", action="store_true", help="also compile, which takes up to a minute per row")
    options = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")  # torch.compile's
    rows: list[Row] = []
    for name in ["mlp"] if options.quick else options.cases:
        sizes = (SMALL,) if options.quick else (SMALL, None)
        subjects = [
            prepared(case(name, size), curvature, compiled=options.compile)
            for size in sizes
            for curvature in CURVATURES
        ]
        wait_for_turn()
        for subject in subjects:
            rows.append(measured(*subject))
            print(rows[-1], file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.gpu.products')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
