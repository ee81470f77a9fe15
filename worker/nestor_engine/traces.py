"""Products at the points of one trial, by a graph that is traced once; autograd's own where there can be none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestor_engine.bilevel import Tensors
from nestor_engine.split import Split, split

if TYPE_CHECKING:
    from nestor_engine.point import Point

Product = Callable[["Point", Tensor], Tensor]  # a method of Point: (point, v) → C v, shape (n,)


class Linear:
    """The products of one point, from a trace.

    Attributes:
        gradient: ∂f/∂w, shape (n,).
    """

    def __init__(self, split: Split, point: Point) -> None:
        self._product, self._mixed = split.each
        with point.drawing():
            self._read, (self.gradient,) = split.once(*point.leaves())
        self._names = list(point.hparams)

    def product(self, v: Tensor) -> Tensor:
        """C v, shape (n,)."""
        return self._product(*self._read, v)[0]

    def mixed(self, q: Tensor) -> Tensors:
        """(∂²f/∂λ∂w) q for each hyperparameter."""
        return dict(zip(self._names, self._mixed(*self._read, q), strict=True))


class Traces:
    """Traces each kind of product once, at the first point that asks for it, and checks it there bit by bit."""

    def __init__(self) -> None:
        self._splits: dict[object, Split | None] = {}
        self._untold: str | None = None  # why products run on autograd's kept graph

    def at(self, point: Point, product: Product) -> Linear | None:
        """The products at `point`, or None if they cannot be traced."""
        key = product, tuple((leaf.shape, leaf.dtype) for leaf in point.leaves())
        if key not in self._splits:
            try:
                self._splits[key] = _checked(point, product)
            except Exception as error:  # whatever the problem's own functions and torch's tracer raise
                self._splits[key] = None
                first = str(error).strip().splitlines()[:1]  # none of a bare `assert` or `raise NotImplementedError`
                self._untold = ": ".join([type(error).__name__, *first])
        found = self._splits[key]
        return None if found is None else Linear(found, point)

    def news(self) -> Iterator[str]:
        """What to tell the user, once. Not a part of the state: when it is said depends on a clock."""
        if self._untold is not None:
            yield (
                "Curvature products run on autograd's kept graph, at a higher cost, for the training loss "
                f"cannot be traced ({self._untold}). Losses and models that only call torch's functions can."
            )
        self._untold = None


def _checked(point: Point, product: Product) -> Split:
    def everything(leaves: tuple[Tensor, ...], v: Tensor, q: Tensor) -> list[list[Tensor]]:
        here = point.with_leaves(leaves)
        # First the mixed product: it and the other share what comes before, whichever is asked for first.
        mixed = here.kept_mixed(q)
        return [[here.slope.detach()], [product(here, v)], list(mixed.values())]

    def kept() -> list[Tensor]:
        here = point.with_leaves(point.leaves())  # whose graph is gone when the trace's values come
        return [product(here, v), *here.kept_mixed(v).values()]

    v = torch.linspace(-1, 1, len(point.w), dtype=point.w.dtype, device=point.w.device)
    with point.drawing():
        made = split(everything, point.leaves(), [v, v])
        expected = kept()
    linear = Linear(made, point)
    for _ in range(2):  # the second time tells whether the first wrote into what both read
        got = [linear.product(v), *linear.mixed(v).values()]
        if not all(_same(a, b) for a, b in zip(got, expected, strict=True)):
            raise ValueError("the trace does not repeat what autograd computes")
    return made


def _same(got: Tensor, expected: Tensor) -> bool:
    """Bit for bit; where kernels add in an order of their own, as on a GPU, to rounding."""
    if got.device.type == "cpu":
        return torch.equal(got, expected)
    return bool((got - expected).norm() <= 1e3 * torch.finfo(got.dtype).eps * expected.norm())
