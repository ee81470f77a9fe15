"""Arguments for an operator, made from its schema: of the right types, and with sizes and values that lie.

Half of the choices agree with each other, so that kernels get to run. Tensors lie directly before or behind a page that
nobody may touch: reading or writing one number too many ends the process.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import random
from typing import Any

import torch
from torch import Tensor

from nestor.program_format import CONSTANTS, DEVICE, GraphValue, Ref, TorchConstant
from nestor_engine.graphs.operators import WORDS, AtenOperator, OperatorArgument

LIES = [-1, -2, -7, 2**7, 2**20, 4_000_001, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)]
FLOATS = [0.0, 1.0, 0.5, -1.0, 1e-30, 1e30, math.inf, -math.inf, math.nan]
DTYPES = [torch.float32] * 6 + [torch.float64] * 2
OTHER_DTYPES = [torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.complex64, torch.uint8, torch.int32]
EQUATIONS = ["ij,jk->ik", "i,i->", "...i,...j", "ii->i", "bij,bjk", "->", "ij->", ",", "i...->...", "ij,ij->k"]
PER_CHANNEL = ("weight", "bias", "running", "save")
INTEGERS = ("ind", "target", "length", "sorter", "boundaries", "offset", "batch_sizes", "repeats")

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class Lies:
    """The arguments of one call: `args` and `kwargs` as a program has them, and the tensors that they refer to."""

    def __init__(self, operator: AtenOperator, rng: random.Random) -> None:
        self._rng = rng
        self._honesty = rng.choice([0.5, 0.8, 0.95, 1.0])
        self._shape = [rng.choice([1, 2, 2, 3, 4, 6]) for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4, 4, 5]))]
        self._dtype = rng.choice(DTYPES)
        self.tensors: list[Tensor] = []
        self.args: list[GraphValue] = []
        self.kwargs: dict[str, GraphValue] = {}
        for argument in operator.arguments:
            if not argument.required and rng.random() < 0.4:
                if not argument.keyword_only:
                    break  # and neither those behind it
                continue
            value = self._value(argument, argument.type)
            if argument.keyword_only:
                self.kwargs[argument.name] = value
            else:
                self.args.append(value)

    def _value(self, argument: OperatorArgument, type_: str) -> GraphValue:
        rng = self._rng
        if type_.startswith("Optional["):
            return None if rng.random() < 0.3 else self._value(argument, type_[9:-1])
        if type_.startswith("List["):
            if argument.length and rng.random() < 0.3:
                return self._value(argument, type_[5:-1])
            n = self._length(argument)
            return [self._value(argument, type_[5:-1]) for _ in range(n)]
        match type_:
            case "Tensor":
                return self._tensor(argument.name)
            case "int":
                return self._int(argument.name)
            case "float":
                return self._float()
            case "number":
                return self._float() if rng.random() < 0.6 else self._int(argument.name)
            case "bool":
                return rng.random() < 0.5
            case "str":
                return rng.choice(EQUATIONS if argument.name == "equation" else sorted(WORDS))
            case "Device":
                return DEVICE
            case "ScalarType":
                return TorchConstant("dtype", str(rng.choice([*DTYPES, *OTHER_DTYPES])).removeprefix("torch."))
            case "Layout":
                return TorchConstant("layout", "strided")
            case "MemoryFormat":
                return TorchConstant("memory_format", rng.choice(sorted(CONSTANTS["memory_format"])))
            case _:
                return None

    def _is_honest(self) -> bool:
        return self._rng.random() < self._honesty

    def _length(self, argument: OperatorArgument) -> int:
        if argument.type == "List[bool]":
            return self._rng.choice([2, 3, 3, 3])
        natural = argument.length
        if natural and self._is_honest():
            return natural
        return self._rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])

    def _int(self, name: str) -> int:
        rng = self._rng
        if not self._is_honest():
            return rng.choice(LIES) if rng.random() < 0.7 else rng.randrange(-9, 10)
        if name in ("size", "shape", "sizes", "normalized_shape", "input_size", "input_sizes", "self_sizes"):
            return rng.choice([*self._shape, 1, -1])
        if "dim" in name or "axis" in name:
            return rng.randrange(-1, max(1, len(self._shape)))
        return rng.choice([0, 1, 1, 1, 2, 2, 3, 4, *self._shape])

    def _float(self) -> float:
        return self._rng.choice(FLOATS) if not self._is_honest() else self._rng.choice([0.0, 0.1, 0.5, 1.0, 2.0])

    def _tensor(self, name: str) -> Ref:
        rng = self._rng
        shape = list(self._shape)
        match rng.random() if not self._is_honest() else rng.random() * 0.55:
            case _ if name.startswith(PER_CHANNEL) and self._is_honest():
                shape = shape[1:2]
            case x if x < 0.3:
                pass
            case x if x < 0.4:  # as labels
                shape = shape[1:2] if rng.random() < 0.7 else shape[:1]
            case x if x < 0.47:
                shape = shape[: rng.randrange(len(shape) + 1)]
            case x if x < 0.55:
                shape = shape[rng.randrange(len(shape) + 1) :]
            case x if x < 0.7 and shape:
                shape[rng.randrange(len(shape))] = rng.choice([0, 0, 1, 5, 9, 64])
            case x if x < 0.8:
                shape = shape[::-1]
            case _:
                shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randrange(6))]
        dtype = self._dtype
        if any(part in name for part in INTEGERS):
            dtype = torch.int64 if self._is_honest() else rng.choice([torch.int32, torch.bool, torch.float32])
        elif "mask" in name or name == "condition":
            dtype = torch.bool
        elif rng.random() < (0.05 if self._is_honest() else 0.4):
            dtype = rng.choice([*DTYPES, *OTHER_DTYPES])
        self.tensors.append(self._filled(shape, dtype))
        return Ref(len(self.tensors) - 1)

    def _filled(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        rng = self._rng
        made = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)), dtype=torch.float64)
        if dtype.is_floating_point or dtype.is_complex:
            if made.numel() and not self._is_honest():
                made.view(-1)[rng.randrange(made.numel())] = rng.choice(FLOATS)
        else:
            made = (made.abs() * rng.choice([1, 2, 4])).floor()
        made = made.to(dtype)
        if dtype in (torch.int64, torch.int32) and made.numel() and not self._is_honest():
            lies = [lie for lie in (*LIES, 9, 64) if dtype is torch.int64 or -(2**31) <= lie < 2**31]
            made.view(-1)[rng.randrange(made.numel())] = rng.choice(lies)
        made = fenced(made, behind=rng.random() < 0.8)
        if made.dim() > 1 and rng.random() < 0.15:
            made = made.transpose(0, -1)
        if rng.random() < 0.05:
            made = made.expand(3, *made.shape)
        if made.is_floating_point() or made.is_complex():
            made.requires_grad_(rng.random() < 0.6)
        return made


def fenced(tensor: Tensor, *, behind: bool) -> Tensor:
    """A copy whose last number touches a page that nobody may touch, or whose first does."""
    size = tensor.numel() * tensor.element_size()
    if not size:
        return tensor
    inside = -(-size // _PAGE) * _PAGE
    memory = mmap.mmap(-1, inside + _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fence, at = (start + inside, inside - size) if behind else (start, _PAGE)
    if _libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(_PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    made: Any = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=at)
    return made.view(tensor.shape).copy_(tensor)
