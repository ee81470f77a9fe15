"""Bounds on what an operator is given, where its kernel checks nothing and would hang or write beyond a tensor.

Numbers in the document are checked when it is read; numbers that a graph computes, and tensors, when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

from nestor.errors import ProgramRejected
from nestor_engine.graphs.derivative_guards import OF_TRACES
from nestor_engine.graphs.guards import OF_PROGRAMS, Guard
from nestor_engine.graphs.operators import AtenOperator

# No layer has a larger kernel, stride, padding, dilation, or number of groups.
MAX_SETTING = 2**22
MAX_PARTS = 2**12  # that a tensor is divided into, whatever its size: each becomes a tensor of its own
# A trace has the derivatives of slices and others, whose arguments are those of the operator.
_AS_LONG_AS_TENSORS = frozenset(
    """
    C HxW N bins bias_sizes col end from high ignore_index index indices input_size input_sizes k length low m minlength
    n normalized_shape num_classes num_samples num_weights offset padding_idx repeats row s self_sizes shape shifts size
    sizes split_size split_sizes start step steps to window_length
    """.split()
)

GUARDS: dict[str, Guard] = OF_PROGRAMS | OF_TRACES


def is_setting(name: str) -> bool:
    """Whether an integer argument of this name is neither a size nor a position in a tensor."""
    return name not in _AS_LONG_AS_TENSORS


def limit_of(name: str) -> int:
    """The largest value of a setting."""
    return MAX_PARTS if name == "sections" else MAX_SETTING


def too_large(name: str, value: object) -> bool:
    """Whether the argument `name` is, or holds, an integer that is no setting of a layer."""
    if isinstance(value, list | tuple):
        return any(too_large(name, item) for item in cast("Sequence[object]", value))
    return type(value) is int and is_setting(name) and abs(value) > limit_of(name)


def guarded(operator: AtenOperator, computed: frozenset[str]) -> Callable[..., Any]:
    """The operator, which first checks what it is given.

    Args:
        computed: the settings that hold numbers which the graph computes.
    """
    name, target, guard = operator.name, operator.target, GUARDS.get(operator.base)
    arguments = [argument.name for argument in operator.arguments]

    def checked(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(arguments, args, strict=False)) | kwargs
        for setting in computed:
            if too_large(setting, given[setting]):
                raise ProgramRejected(reason=f"{name}: {setting!r} must be at most {limit_of(setting):,}.")
        if guard is not None and (reason := guard(given)) is not None:
            raise ProgramRejected(reason=f"{name}: {reason}.")
        return target(*args, **kwargs)

    return checked


@cache
def in_64_bits(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of sizes whose result must be a size: numbers that grow with each step take unbounded time."""

    def bounded(*args: Any) -> Any:
        result = function(*args)
        if type(result) is int and not -(2**63) <= result < 2**63:
            raise ProgramRejected(reason=f"{name}: its result has more than 64 bits.")
        return result

    return bounded
