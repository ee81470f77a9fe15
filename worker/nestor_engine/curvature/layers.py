"""Which parameters are the weights of a layer, and the inputs and output gradients of the layer.

A layer is an operator of the dispatcher: a product of rows with a matrix, or a convolution. So modules,
functions and graphs of operators are treated alike, and attention and an LSTM appear as the products
that they consist of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """All uses of one weight matrix, which maps a row a to W a, and may add a bias.

    Attributes:
        weight, bias: positions among the parameters. The bias is the last column of W, whose input is one.
        transposed: whether the parameter is Wᵀ, of shape (in, out).
        out: rows of W.
        second_moment: the mean of a aᵀ over all rows of all uses, shape (in, in), or (in + 1, in + 1) with a bias.
        edges: for each use, the autograd edge of the gradient by its output.
    """

    weight: int
    bias: int | None
    transposed: bool
    out: int
    second_moment: Tensor
    edges: list[GradientEdge]


@dataclass
class _Use:
    weight: int
    bias: int | None
    transposed: bool
    second_moment: Tensor  # Σ a aᵀ, a one appended to each a, shape (in + 1, in + 1); the last entry counts the rows
    output: Tensor
    edge: GradientEdge | None = None


@dataclass(frozen=True)
class _Call:
    """An operator that is a layer: rows times a matrix (in, out), or a convolution (out, channels, …)."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    windows: tuple[Sequence[int], ...] | None = None  # of a convolution: dilation, padding, stride

    def rows(self) -> Tensor:
        """The inputs of the weight matrix, shape (rows, in)."""
        if self.windows is None:
            return self.inputs
        dilation, padding, stride = self.windows
        kernel, inputs = self.weight.shape[2:], self.inputs
        if inputs.ndim == 3:  # a convolution in one dimension is one in two, of height one
            inputs, kernel, dilation, padding, stride = (
                *(inputs.unsqueeze(2), (1, *kernel)),
                *((1, *dilation), (0, *padding), (1, *stride)),
            )
        return as_rows(F.unfold(inputs, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride)))


def as_rows(outputs: Tensor) -> Tensor:
    """(rows, out) from (rows, out), or from the outputs (B, out, …) of a convolution."""
    return outputs if outputs.ndim == 2 else outputs.flatten(2).transpose(1, 2).flatten(0, 1)


@dataclass
class Recorder(TorchDispatchMode):
    """Records, as a context manager, the layers that read one of `parameters`.

    Below autograd a tensor is the same object that the caller has, so parameters are recognized by
    identity, also after transposition and casts. A parameter that any other operator reads, in whole
    or in part, does not belong to a layer.
    """

    parameters: Sequence[Tensor]
    _names: dict[int, tuple[int, bool]] = field(default_factory=dict)  # id → position, and whether it is transposed
    _held: list[Tensor] = field(default_factory=list)  # keeps the tensors alive, so that ids are not used again
    _uses: list[_Use] = field(default_factory=list)
    _elsewhere: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] torch does not type its argument
        for position, parameter in enumerate(self.parameters):
            self._name(parameter, position, transposed=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._settle()
        result = func(*args, **(kwargs or {}))
        met = {id(a): self._names[id(a)] for a in pytree.tree_leaves((args, kwargs)) if id(a) in self._names}
        if not met:
            return result
        transposes = func in (aten.t.default, aten.transpose.int) and args[0].ndim == 2
        if transposes or func is aten._to_copy.default:
            position, transposed = self._names[id(args[0])]
            self._name(result, position, transposed=transposed != transposes)
            return result
        call = _call(func, args) if not kwargs else None
        if call and id(call.weight) in met and id(call.inputs) not in met:
            weight, transposed = met.pop(id(call.weight))
            bias, _ = met.pop(id(call.bias), (None, False)) if call.bias is not None else (None, False)
            rows = call.rows().to(self.parameters[weight].dtype)
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            # A matrix product reads (in, out), so a parameter that was not transposed before has this shape.
            self._uses.append(_Use(weight, bias, not (transposed or call.windows), rows.T @ rows, result))
        self._elsewhere |= {position for position, _ in met.values()}
        return result

    def layers(self) -> list[Layer]:
        """One layer for each weight matrix that only layers read.

        A bias belongs to the layer if every use adds it, and nothing else reads it.
        """
        self._settle()
        uses: dict[int, list[_Use]] = {}
        owners: dict[int | None, set[int]] = {}
        for use in self._uses:
            uses.setdefault(use.weight, []).append(use)
            owners.setdefault(use.bias, set()).add(use.weight)
        layers: list[Layer] = []
        for weight, group in uses.items():
            first = group[0]
            if weight in self._elsewhere or any(use.transposed != first.transposed for use in group):
                continue
            own = owners[first.bias] == {weight} and all(use.bias == first.bias for use in group)
            bias = first.bias if own and first.bias not in self._elsewhere else None
            moments = sum((use.second_moment for use in group[1:]), start=first.second_moment)
            second_moment = moments / moments[-1, -1]
            if bias is None:
                second_moment = second_moment[:-1, :-1]
            edges = [use.edge for use in group if use.edge is not None]
            layers.append(Layer(weight, bias, first.transposed, first.output.shape[1], second_moment, edges))
        return layers

    def _name(self, tensor: Tensor, position: int, *, transposed: bool) -> None:
        self._names[id(tensor)] = position, transposed
        self._held.append(tensor)

    def _settle(self) -> None:
        """Get the autograd edges of the outputs so far, before a later in-place operator replaces them."""
        for use in reversed(self._uses):
            if use.edge is not None:
                break
            if use.output.requires_grad:
                use.edge = get_gradient_edge(use.output)
            else:  # computed without gradients, perhaps to be computed again with them
                self._elsewhere.add(use.weight)


def _call(func: Any, args: Any) -> _Call | None:
    if func is aten.mm.default:
        return _Call(args[0], args[1], None)
    if func is aten.addmm.default and args[0].ndim == 1:
        return _Call(args[1], args[2], args[0])
    if func is aten.convolution.default:
        inputs, weight, bias, stride, padding, dilation, transposed, _, groups = args
        if not transposed and groups == 1 and len(stride) <= 2:
            return _Call(inputs, weight, bias, (dilation, padding, stride))
    return None
