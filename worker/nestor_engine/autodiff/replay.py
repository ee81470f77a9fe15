"""Record a function of tensors on a GPU as a CUDA graph, and launch it as a whole.

A step of a small model consists of hundreds of kernels of a few microseconds, and every launch waits for Python. A
recording launches all of them at once. The kernels are the same, so the bits are the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor_engine.tensors.generators import generators
from nestor_engine.tensors.linalg import vector_norm

WARM_UP = 3  # calls before a recording: the first ones choose kernels and allocate workspaces
ROUNDS = 5  # calls whose median time decides
MAX_RELATIVE_TIME = 0.95  # of a recording that is used: it also takes memory


class Recording:
    """`function(*inputs)` as one launch.

    Inputs are copied into the memory of the recording, except the first `pinned` ones, which are read in place.
    Outputs use the same memory in every call, so each call overwrites those of the call before.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], *, pinned: int = 0) -> None:
        """
        Raises:
            RuntimeError: CUDA graphs do not support the function, for example because it synchronizes with the CPU.
        """
        self._inputs = [*inputs[:pinned], *(given.detach().clone() for given in inputs[pinned:])]
        self._seen: list[tuple[Tensor, int] | None] = [None] * len(inputs)
        # On a side stream: libraries initialize what a recording cannot, and autograd remembers its stream.
        side = _side_stream(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generators(inputs[0].device)[1])  # pyright: ignore[reportUnknownMemberType]
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)
        self._own = {id(leaf) for leaf in _leaves(self._outputs)}

    def __call__(self, *given: Tensor) -> Any:
        for k, (static, value) in enumerate(zip(self._inputs, given, strict=True)):
            if value is static:
                continue
            seen = self._seen[k]
            # A launch changes its outputs without a new version.
            if seen is None or seen[0] is not value or seen[1] != value._version or id(value) in self._own:
                static.copy_(value)
                self._seen[k] = value, value._version
        self._graph.replay()
        return self._outputs


class Recorded:
    """`function` of trees of tensors; on a GPU it is recorded after some calls, and the recording is used if faster.

    Args:
        after: calls before the recording, which costs about as much as 20 calls.
    """

    def __init__(self, function: Callable[..., Any], *, after: int) -> None:
        self._function, self._after = function, after
        self._recording: Recording | None = None
        self._calls = 0

    def __call__(self, *trees: Any) -> Any:
        """The function's value. If it comes from a recording, the next call overwrites it: see `is_recorded`."""
        if not self.is_recorded:
            self._calls += 1
            if self._calls != self._after:
                return self._function(*trees)
        leaves, spec = pytree.tree_flatten(trees)
        if self._recording is not None:
            return self._recording(*leaves)
        if leaves[0].is_cuda:

            def flat(*given: Tensor) -> Any:
                return self._function(*pytree.tree_unflatten(list(given), spec))

            with suppress(RuntimeError):  # the kernels are launched one by one
                self._recording = recorded(flat, leaves)
        return self._function(*trees)

    @property
    def is_recorded(self) -> bool:
        """Whether calls launch a recording, so that each call overwrites the outputs of the call before."""
        return self._recording is not None


def recorded(function: Callable[..., Any], inputs: Sequence[Tensor], *, pinned: int = 0) -> Recording | None:
    """A recording of `function`, or None if launching its kernels one by one is about as fast.

    The decision depends on a clock. The result does not depend on the decision.

    Raises:
        RuntimeError: the function cannot be recorded, or its recording computes something else.
    """
    _, generator = generators(inputs[0].device)
    before = generator.get_state()
    try:
        recording = Recording(function, inputs, pinned=pinned)
        for run in (function, recording):
            generator.set_state(before)
            run(*inputs)
        generator.set_state(before)
        expected = [leaf.clone() for leaf in _leaves(function(*inputs))]
        generator.set_state(before)
        if not all(same(got, want) for got, want in zip(_leaves(recording(*inputs)), expected, strict=True)):
            raise RuntimeError("the recording does not repeat what the function computes")
        one_by_one, launched_at_once = (_seconds(lambda run=run: run(*inputs)) for run in (function, recording))
    finally:
        generator.set_state(before)
    return recording if launched_at_once < MAX_RELATIVE_TIME * one_by_one else None


def same(got: Tensor, expected: Tensor) -> bool:
    """Whether tensors are equal: bit for bit on a CPU, up to rounding on a GPU, where the order of sums may vary.

    The tolerance in float32 is wide: cuDNN multiplies in TF32, with ten bits, and chooses an algorithm at every call.
    """
    if got.device.type == "cpu" or not got.is_floating_point():
        return torch.equal(got, expected)
    tolerance = 1e3 * torch.finfo(got.dtype).eps if got.dtype is torch.float64 else 1e-2
    return bool(vector_norm(got - expected) <= tolerance * vector_norm(expected))


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One stream for all recordings: cuBLAS keeps a workspace of 32 MB for every stream."""
    return torch.cuda.Stream(device)


def _seconds(run: Callable[[], Any]) -> float:
    times: list[float] = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
