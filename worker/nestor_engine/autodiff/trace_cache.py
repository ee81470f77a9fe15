"""Products at the points of one trial, by a graph that is traced once; autograd's own where there can be none."""

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
from nestor_engine.autodiff.replay import recorded, same
from nestor_engine.autodiff.subgraph import Part
from nestor_engine.objective import Tensors

Key = tuple[Product, tuple[tuple[torch.Size, torch.dtype], ...]]  # and the leaves of a linearization


class Linear:
    """The derivatives at one linearization, from a trace.

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
        return torch.vmap(lambda v: self._traced.split.each[0](*self._read, v)[0])(rows)

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter."""
        return dict(zip(self._names, self._traced.mixed(*self._read, q), strict=True))


class Traced:
    """A split function, on a GPU as recordings where these are faster."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.once: Callable[..., Any] = split.once
        self.product: Callable[..., Any]
        self.mixed: Callable[..., Any]
        self.product, self.mixed = split.each

    def record(self, linearization: Traceable) -> None:
        """Record the three parts as CUDA graphs, each if that is faster.

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
        self.once, own = recording, lambda part: lambda *given: [output.clone() for output in part(*given)]
        # Solvers keep products, so each call gets its own.
        self.product, self.mixed = (own(r) if r else part for r, part in zip(fast, (product, mixed), strict=True))


class TraceCache:
    """TraceCache each kind of product once, at the first point that asks for it, and checks it there bit by bit.

    Args:
        kept: what an earlier trial of the same program saved; what cannot be read of it is traced again.
    """

    def __init__(self, kept: bytes = b"") -> None:
        self._traced: dict[object, Traced | None] = {}
        self._untold: str | None = None  # why products run on autograd's kept graph
        self._kept = _readable(kept)
        self._written: dict[str, Json] = {}  # what is new

    @property
    def is_warm(self) -> bool:
        """Whether there is something that need not be traced."""
        return bool(self._kept)

    def save(self) -> bytes | None:
        """All of them, for the next trial of the same program; None if there is nothing that it could not read here."""
        if not self._written:
            return None
        return json.dumps({"torch": torch.__version__, "traces": self._kept | self._written}).encode()

    def get(self, linearization: Traceable, product: Product) -> Linear | None:
        """The products at `linearization`, or None if they cannot be traced."""
        key: Key = product, tuple((leaf.shape, leaf.dtype) for leaf in linearization.leaves())
        if key not in self._traced:
            try:
                found = Traced(self._stored(key, linearization) or self._new(key, linearization))
            except Exception as error:  # whatever the problem's own functions and torch's tracer raise
                self._traced[key] = None
                first = str(error).strip().splitlines()[:1]  # none of a bare `assert`
                self._untold = ": ".join([type(error).__name__, *first])
            else:
                self._traced[key] = found
                if linearization.w.is_cuda:
                    with suppress(RuntimeError):  # then its kernels are launched one by one
                        found.record(linearization)
        traced = self._traced[key]
        return None if traced is None else Linear(traced, linearization)

    def _stored(self, key: Key, linearization: Traceable) -> Split | None:
        """One that was kept, if it repeats what autograd computes here."""
        try:
            once, *each = list_of(self._kept[_name(key)], "a kept trace")
            device = linearization.w.device
            found = Split(Part.read(once, device), tuple(Part.read(one, device) for one in each))
            with linearization.drawing():
                expected = _by_graph(linearization, key[0])
            _compare(found, linearization, expected)
        except Exception:  # of another version, or damaged
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
        with suppress(TypeError):  # what holds a constant is traced by every trial
            self._written[_name(key)] = [one.written() for one in (made.once, *made.each)]
        return made

    def news(self) -> Iterator[str]:
        """What to tell the user, once. Not a part of the state: when it is said depends on a clock."""
        if self._untold is not None:
            yield (
                "Curvature products run on autograd's kept graph, at a higher cost, for the training loss "
                f"cannot be traced ({self._untold}). Losses and models that only call torch's functions can."
            )
        self._untold = None


def _traced(linearization: Traceable, product: Product) -> Split:
    def everything(leaves: tuple[Tensor, ...], v: Tensor, q: Tensor) -> list[list[Tensor]]:
        here = linearization.with_leaves(leaves)
        # First the mixed product: it and the other share what comes before, whichever is asked for first.
        mixed = here.kept_mixed(q)
        return [[here.kept_gradient()], [product(here, v)], list(mixed.values())]

    v = _probe(linearization)
    with linearization.drawing():
        made = split(everything, linearization.leaves(), [v, v])
        expected = _by_graph(linearization, product)
    _compare(made, linearization, expected)
    return made


def _by_graph(linearization: Traceable, product: Product) -> list[Tensor]:
    """Products with the probe by autograd, whose graph is gone when the trace's values come."""
    here, v = linearization.with_leaves(linearization.leaves()), _probe(linearization)
    return [product(here, v), *here.kept_mixed(v).values()]


def _compare(split: Split, linearization: Traceable, expected: list[Tensor]) -> None:
    """
    Raises:
        ValueError: it computes something else.
    """
    linear, v = Linear(Traced(split), linearization), _probe(linearization)
    for _ in range(2):  # the second time tells whether the first wrote into what both read
        got = [linear.product(v), *linear.mixed(v).values()]
        if not all(same(a, b) for a, b in zip(got, expected, strict=True)):
            raise ValueError("the trace does not repeat what autograd computes")


def _probe(linearization: Traceable) -> Tensor:
    return torch.linspace(-1, 1, len(linearization.w), dtype=linearization.w.dtype, device=linearization.w.device)


def _name(key: Key) -> str:
    product, leaves = key
    return f"{product.__name__} {[(list(shape), str(dtype)) for shape, dtype in leaves]}"


def _readable(kept: bytes) -> dict[str, Json]:
    """What was saved by the same torch; nothing, if it was not."""
    try:
        saved = parse_json(kept or b"{}", what="a kept trace", max_bytes=MAX_TRACE_BYTES, max_values=MAX_TRACE_VALUES)
    except ProgramInvalid:
        return {}
    if not isinstance(saved, dict) or saved.get("torch") != str(torch.__version__):
        return {}
    traces = saved.get("traces")
    return traces if isinstance(traces, dict) else {}
