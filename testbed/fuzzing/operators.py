"""Calls every operator that a program or a trace may call, with arguments that lie: no signal, and no hang.

`python -m testbed.fuzzing.operators SEED` calls them in child processes, and prints the calls that ended one.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import NestorError
from nestor.program_format import Call, Graph, GraphValue, Ref
from nestor_engine.graphs.bounds import GUARDS
from nestor_engine.graphs.build import build
from nestor_engine.graphs.check import check_graph
from nestor_engine.graphs.operators import GETITEM, lookup, of_trace
from testbed.fuzzing.lying_arguments import Lies

MEMORY = 3 * 2**30  # bytes of one child
PATIENCE = 60  # seconds for one call; a busy machine takes some for what allocates gigabytes
TAKEN = "taken"


@dataclass(frozen=True)
class Report:
    """How many calls were made, how many of them the operators took, and which ended their process."""

    calls: int
    taken: int
    fatal: list[str]

    def __str__(self) -> str:
        lines = [f"{self.calls} calls of operators, of which {self.taken} were taken", *self.fatal]
        return "\n".join(lines)


def names(of: str = "program") -> list[str]:
    """All operators that a program may call, or a trace, or of these the derivatives: those that no program may."""
    schemas: list[Any] = torch._C._jit_get_all_schemas()
    found = {f"{s.name.replace('::', '.')}.{s.overload_name or 'default'}" for s in schemas}
    find = lookup if of == "program" else of_trace
    return sorted(name for name in found if find(name) and not (of == "derivative" and lookup(name)))


def fuzz(
    seed: int, *, seconds: float, rounds: int = 1_000_000, of: str = "program", only: str = "", guarded: bool = True
) -> Report:
    """Call each operator `rounds` times, in children: a new one after each that ended.

    Args:
        seed: with the operator's name and the round, it determines the arguments.
        seconds: no call begins later.
        of: which operators; see `names`.
        only: a part of the names of the operators to call.
        guarded: whether to keep the engine's guards before kernels.
    """
    deadline = time.monotonic() + seconds
    position, calls, taken, fatal = 0, 0, 0, list[str]()
    while (left := deadline - time.monotonic()) > 0:
        command = [sys.executable, "-m", "testbed.fuzzing.operators", str(seed), "--child", str(position)]
        command += ["--rounds", str(rounds), "--seconds", str(left), "--of", of, "--only", only]
        command += [] if guarded else ["--unguarded"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        begun = [line for line in done.stdout.splitlines() if line != TAKEN]
        calls += len(begun)
        taken += done.stdout.count(f"{TAKEN}\n")
        if done.returncode == 0:
            break
        if not begun:
            raise RuntimeError(done.stderr)
        number, call = begun[-1].split(" ", 1)
        said = done.stderr.splitlines()
        why = [line for line in said if line.startswith(("Timeout", "Fatal"))] or said[-1:]
        fatal.append(f"{call}: the process ended with {done.returncode} ({' '.join(why)})\n{described(call)}")
        position = int(number) + 1
    return Report(calls, taken, fatal)


def described(call: str) -> str:
    """The arguments of a call, from its seed."""
    operator = of_trace(call.split("/")[1])
    assert operator is not None
    lies = Lies(operator, random.Random(call))
    tensors = [f"{t.dtype}{list(t.shape)}" for t in lies.tensors]
    return f"  {lies.args} {lies.kwargs}, with {', '.join(tensors)}"


def _calls(seed: int, rounds: int, of: str, only: str) -> Iterator[tuple[str, str]]:
    """The name of each operator, and the seed of its call."""
    every = names(of)
    for number in range(rounds):
        for name in every:
            if only in name:
                yield name, f"{seed}/{name}/{number}"


def _child(seed: int, start: int, rounds: int, seconds: float, of: str, only: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + seconds
    for number, (name, call_seed) in enumerate(_calls(seed, rounds, of, only)):
        if number < start:
            continue
        if time.monotonic() > deadline:
            return
        os.write(1, f"{number} {call_seed}\n".encode())
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        if _call(name, call_seed):
            os.write(1, f"{TAKEN}\n".encode())
    faulthandler.cancel_dump_traceback_later()


def _call(name: str, seed: str) -> bool:
    """Whether the operator took the arguments; what it returns is differentiated, too, often twice."""
    operator = of_trace(name)
    assert operator is not None
    rng = random.Random(seed)
    lies = Lies(operator, rng)
    torch.manual_seed(0)
    n = len(lies.tensors)
    nodes = [Call(name, tuple(lies.args), lies.kwargs)]
    outputs: list[GraphValue] = [Ref(n)]
    if len(operator.returns) > 1:  # each result is a node of its own
        nodes += [Call(GETITEM, (Ref(n), i), {}) for i in range(len(operator.returns))]
        outputs = [Ref(n + 1 + i) for i in range(len(operator.returns))]
    graph = Graph(tuple(Ref(i) for i in range(n)), (), tuple(nodes), outputs)
    try:
        run = build(check_graph(graph, of_trace, where="here"), torch.device("cpu"))
        results = run(*_own(lies.tensors, name))
    except (
        NestorError,
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        NotImplementedError,
        OverflowError,
        MemoryError,
    ):
        return False
    with suppress(RuntimeError, ValueError, IndexError, NotImplementedError, MemoryError):
        _differentiate(results, lies.tensors, rng)
    return True


def _own(tensors: list[Tensor], name: str) -> list[Tensor]:
    """Operators that write cannot write into leaves."""
    return [t.view_as(t) if name.split(".")[1].endswith("_") and t.requires_grad else t for t in tensors]


def _differentiate(results: Any, leaves: list[Tensor], rng: random.Random) -> None:
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    for order in range(2 if rng.random() < 0.5 else 1):
        slopes = [r for r in pytree.tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad]
        if not slopes or not wanted:
            return
        weights = [torch.rand_like(r).requires_grad_() for r in slopes]
        results = torch.autograd.grad(slopes, wanted, weights, create_graph=True, allow_unused=True)
        if order == 0:
            wanted = [*wanted, *weights]


def main() -> None:
    """Exit with 1 if a call ended its process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="calls of each operator")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--of", choices=["program", "trace", "derivative"], default="program")
    parser.add_argument("--only", default="", help="operators whose names contain this")
    parser.add_argument("--unguarded", action="store_true", help="without the engine's guards")
    parser.add_argument("--child", type=int, help="make the calls in this process, from this one on")
    given = parser.parse_args()
    if given.unguarded:
        GUARDS.clear()
    if given.child is not None:
        _child(given.seed, given.child, given.rounds, given.seconds, given.of, given.only)
        return
    options = {"rounds": given.rounds, "of": given.of, "only": given.only, "guarded": not given.unguarded}
    report = fuzz(given.seed, seconds=given.seconds, **options)
    print(report)
    sys.exit(bool(report.fatal))


if __name__ == "__main__":
    main()
