"""Curvature products of one trial from a graph that is traced once; from autograd if tracing is not possible."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from nestor.errors import ProgramInvalid
from nestor.program_format import MAX_TRACE_BYTES, MAX_TRACE_VALUES, Json, list_of, parse_json
from nestor_engine.autodiff.derivatives import Product, Traceable
from nestor_engine.autodiff.kernels import without_cudnn
from nestor_engine.autodiff.partial_eval import Split, split
from nestor_engine.autodiff.replay import Recording, recorded, same
from nestor_engine.autodiff.subgraph import Part
from nestor_engine.objective import Tensors

Key = tuple[Product, tuple[tuple[torch.Size, torch.dtype], ...]]  # with shape and dtype of each leaf of a linearization


class Linear:
    """The derivatives at one linearization, computed with a trace.

    Attributes:
        gradient: ∂f/∂w, shape (n,).
    """

    def __init__(self, traced: Traced, linearization: Traceable) -> None:
        self._traced = traced
        with linearization.drawing():
            self._read, (self.gradient,) = traced.once(*linearization.leaves())
        self._names = list(linearization.hparams)

    def product(self, v: Tensor) -> Tensor:
        """C v, shape (n,)."""
        return self._traced.product(*self._read, v)[0]

    def products(self, rows: Tensor) -> Tensor:
        """C v for each row v of shape (n,), all at once; shape (k, n)."""

        def product(v: Tensor) -> Tensor:
            return self._traced.split.each[0](*self._read, v)[0]

        return torch.vmap(product)(rows)

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter."""
        return dict(zip(self._names, self._traced.mixed(*self._read, q), strict=True))


class Traced:
    """A split function; on a GPU with recordings, if these are faster."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.once: Callable[..., Any] = split.once
        self.product: Callable[..., Any]
        self.mixed: Callable[..., Any]
        self.product, self.mixed = split.each

    def record(self, linearization: Traceable) -> None:
        """Record the three parts as CUDA graphs, and use the recordings that are faster.

        Raises:
            RuntimeError: a part cannot be recorded.
        """
        once, (product, mixed) = self.split.once, self.split.each
        with linearization.drawing():
            recording = recorded(once, linearization.leaves())
            if recording is None:
                return
            read, _ = recording(*linearization.leaves())
        v = _probe(linearization)
        in_place = [*read, v]
        fast = [recorded(part, in_place, pinned=len(read)) for part in (product, mixed)]
        self.once = recording
        self.product, self.mixed = (_copying(r) if r else part for r, part in zip(fast, (product, mixed), strict=True))


def _copying(part: Recording) -> Callable[..., list[Tensor]]:
    """`part` with outputs of their own in each call, because solvers keep products."""

    def copied(*given: Tensor) -> list[Tensor]:
        return [output.clone() for output in part(*given)]

    return copied


class TraceCache:
    """Traces each kind of product at its first use, and compares it there with autograd.

    Args:
        kept: the result of `save` of an earlier trial of the same program; traces that cannot be read are made again.
    """

    def __init__(self, kept: bytes = b"") -> None:
        self._traced: dict[object, Traced | None] = {}
        self._unreported: str | None = None  # why products use autograd's graph
        self._kept = _readable(kept)
        self._written: dict[str, Json] = {}  # new traces

    @property
    def is_warm(self) -> bool:
        """Whether there are traces of an earlier trial."""
        return bool(self._kept)

    def save(self) -> bytes | None:
        """All traces as bytes, for later trials of the same program; None if there are no new ones."""
        if not self._written:
            return None
        return json.dumps({"torch": torch.__version__, "traces": self._kept | self._written}).encode()

    def get(self, linearization: Traceable, product: Product) -> Linear | None:
        """The products at `linearization`, or None if they cannot be traced."""
        key: Key = product, tuple((leaf.shape, leaf.dtype) for leaf in linearization.leaves())
        if key not in self._traced:
            try:
                found = Traced(self._stored(key, linearization) or self._new(key, linearization))
            except Exception as error:  # the problem's functions and torch's tracer may raise anything
                self._traced[key] = None
                first = str(error).strip().splitlines()[:1]  # empty for a bare `assert`
                self._unreported = ": ".join([type(error).__name__, *first])
            else:
                self._traced[key] = found
                if linearization.w.is_cuda:
                    with suppress(RuntimeError):  # the kernels are launched one by one
                        found.record(linearization)
        traced = self._traced[key]
        return None if traced is None else Linear(traced, linearization)

    def _stored(self, key: Key, linearization: Traceable) -> Split | None:
        """The trace of an earlier trial, if it computes the same as autograd here."""
        try:
            once, *each = list_of(self._kept[_name(key)], "a kept trace")
            device = linearization.w.device
            found = Split(Part.read(once, device), tuple(Part.read(one, device) for one in each))
            with linearization.drawing():
                expected = _by_graph(linearization, key[0])
            _compare(found, linearization, expected)
        except Exception:  # from another version, or damaged
            return None
        return found

    def _new(self, key: Key, linearization: Traceable) -> Split:
        try:
            made = _traced(linearization, key[0])
        except RuntimeError:
            if not linearization.w.is_cuda:
                raise
            # Recurrent modules lay out their weights for cuDNN at every call, which needs their memory.
            with without_cudnn():
                made = _traced(linearization, key[0])
        with suppress(TypeError):  # a trace with a constant tensor cannot be saved
            self._written[_name(key)] = [one.written() for one in (made.once, *made.each)]
        return made

    def news(self) -> Iterator[str]:
        """Warnings for the user, each once. They are not part of the state: their time depends on a clock."""
        if self._unreported is not None:
            yield (
                f"The training loss cannot be traced ({self._unreported}). Curvature products use autograd's graph, "
                "which is slower. Losses and models that only call torch functions can be traced."
            )
        self._unreported = None


def _traced(linearization: Traceable, product: Product) -> Split:
    def everything(leaves: tuple[Tensor, ...], v: Tensor, q: Tensor) -> list[list[Tensor]]:
        here = linearization.with_leaves(leaves)
        # The mixed product comes first: both products share the gradient, whatever their order.
        mixed = here.kept_mixed(q)
        return [[here.kept_gradient()], [product(here, v)], list(mixed.values())]

    v = _probe(linearization)
    with linearization.drawing():
        made = split(everything, linearization.leaves(), [v, v])
        expected = _by_graph(linearization, product)
    _compare(made, linearization, expected)
    return made


def _by_graph(linearization: Traceable, product: Product) -> list[Tensor]:
    """Products with the probe by autograd, whose graph is freed before the trace runs."""
    here, v = linearization.with_leaves(linearization.leaves()), _probe(linearization)
    return [product(here, v), *here.kept_mixed(v).values()]


def _compare(split: Split, linearization: Traceable, expected: list[Tensor]) -> None:
    """Compare a trace with the products of autograd.

    Raises:
        ValueError: the trace computes something else.
    """
    linear, v = Linear(Traced(split), linearization), _probe(linearization)
    for _ in range(2):  # the second run shows whether the first wrote into values that both read
        got = [linear.product(v), *linear.mixed(v).values()]
        if not all(same(a, b) for a, b in zip(got, expected, strict=True)):
            raise ValueError("the trace does not compute the same as autograd")


def _probe(linearization: Traceable) -> Tensor:
    return torch.linspace(-1, 1, len(linearization.w), dtype=linearization.w.dtype, device=linearization.w.device)


def _name(key: Key) -> str:
    product, leaves = key
    return f"{product.__name__} {[(list(shape), str(dtype)) for shape, dtype in leaves]}"


def _readable(kept: bytes) -> dict[str, Json]:
    """The traces that were saved by the same version of torch; empty for other versions or damaged bytes."""
    try:
        saved = parse_json(kept or b"{}", what="a kept trace", max_bytes=MAX_TRACE_BYTES, max_values=MAX_TRACE_VALUES)
    except ProgramInvalid:
        return {}
    if not isinstance(saved, dict) or saved.get("torch") != str(torch.__version__):
        return {}
    traces = saved.get("traces")
    return traces if isinstance(traces, dict) else {}
