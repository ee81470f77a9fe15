"""Where the time of an outer step goes: `python -m benchmarks.gpu.outer_step [--case mlp] [--every 5] [--json FILE]`.

It prints the seconds of each part of an outer step, the calls of CUDA per outer step, and the Python functions that
take most time. The parts are wall-clock times, as `Step.seconds` has them. A trial with the default method runs first
without a profiler, then with that of torch, and then with that of Python.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

import nestor_engine as engine
from benchmarks.joint import BATCHES, Subject
from benchmarks.measuring import ON_GPU, one_thread, until
from examples.provenance import caption

WARM_UP = 100  # outer steps, in which traces and recordings are made
MEASURED = 200  # outer steps without a profiler
PROFILED = 20  # outer steps with each profiler
PARTS = ("inner", "data", "hypergradient", "evaluation")  # of `Step.seconds`; the hypergradient includes "products"
Row = dict[str, Any]


def steps(subject: Subject, every: int) -> Iterator[engine.Step]:
    stated = subject.problem()
    config = engine.Config(
        n_steps=10**6,
        inner_steps=every,
        batch_size=subject.batch,
        inner=subject.inner,
        trace=True,
        evaluate_every=10**6,
    )
    return engine.optimize(stated.bilevel(), stated.data, config)


def measure(name: str, every: int, warm_up: int, measured: int) -> list[Row]:
    running = steps(Subject(name), every)
    for _ in islice(running, warm_up):
        pass
    began = until()
    found = list(islice(running, measured))
    whole = (until() - began) / measured
    median = lambda part: 1e3 * statistics.median(step.seconds[part] for step in found)
    rows: list[Row] = [{"what": "outer step, ms", "value": 1e3 * whole}]
    rows += [{"what": f"of this, {part}, ms", "value": median(part)} for part in PARTS]
    rows.append({"what": "of the hypergradient, products, ms", "value": median("products")})
    return rows + calls(running) + functions(running)


def calls(running: Iterator[engine.Step]) -> list[Row]:
    """The calls of CUDA's runtime, and the busy time of the GPU, per outer step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    with profile(activities=activities) as profiled:
        for _ in islice(running, PROFILED):
            pass
        until()
    averages = profiled.key_averages()
    busy = sum(event.self_device_time_total for event in averages) / PROFILED
    rows: list[Row] = [{"what": "GPU busy, ms", "value": busy / 1e3}] if ON_GPU else []
    names = sorted((e for e in averages if e.key.startswith("cuda")), key=lambda e: -e.count)
    rows += [{"what": f"{event.key}, calls", "value": event.count / PROFILED} for event in names]
    operators = sorted((e for e in averages if e.key.startswith("aten::")), key=lambda e: -e.self_cpu_time_total)
    for event in operators[:25]:
        what = f"{event.key}, ms of the processor in {event.count / PROFILED:.1f} calls"
        rows.append({"what": what, "value": event.self_cpu_time_total / PROFILED / 1e3})
    return rows


def functions(running: Iterator[engine.Step]) -> list[Row]:
    """The Python functions with the longest cumulative times per outer step, under a profiler that slows them down."""
    profiler = cProfile.Profile()
    with profiler:
        for _ in islice(running, PROFILED):
            pass
    stats = pstats.Stats(profiler, stream=io.StringIO())
    entries: list[tuple[float, str]] = []
    for (file, line, function), (_, count, own, whole, _) in stats.stats.items():  # pyright: ignore[reportAttributeAccessIssue]: not in typeshed
        where = f"{Path(file).parent.name}/{Path(file).name}:{line} {function}" if line else function
        numbers = f"{count / PROFILED:.1f} calls, {1e3 * own / PROFILED:.3f} ms of its own"
        entries.append((1e3 * whole / PROFILED, f"{where} ({numbers})"))
    return [{"what": what, "value": value} for value, what in sorted(entries, reverse=True)[:70]]


def table(rows: list[Row]) -> str:
    return "\n".join(["| per outer step | |", "|---|---|", *(f"| {r['what']} | {r['value']:.3f} |" for r in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--case", choices=BATCHES, default="mlp", help="the model; mlp by default")
    parser.add_argument("--every", type=int, default=5, help="inner steps of an outer step; 5 by default")
    options = parser.parse_args()
    one_thread()
    rows = measure(options.case, options.every, *((5, 5) if options.quick else (WARM_UP, MEASURED)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(f"{caption('benchmarks.gpu.outer_step')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
