"""Whether the tensors of a state have the names and shapes of a problem's."""

from __future__ import annotations

from nestor.errors import StateInvalid
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.tensors.layout import difference, shapes_of
from nestor_engine.tensors.ravel import named_leaves


def expect_names(params: Tensors, buffers: Tensors, hparams: Tensors, bilevel: Bilevel) -> None:
    """Compare names and shapes with those of the problem, in any order.

    Raises:
        StateInvalid: naming the first difference.
    """
    expect_same("parameter", params, named_leaves(bilevel.params))
    expect_same("buffer", buffers, bilevel.buffers)
    expect_same("hyperparameter", hparams, bilevel.hparams)


def expect_same(kind: str, held: Tensors, wanted: Tensors) -> None:
    """Compare the names and shapes of one kind of tensors, such as "buffer".

    Raises:
        StateInvalid: naming the first difference.
    """
    if reason := difference(kind, shapes_of(held), shapes_of(wanted)):
        raise StateInvalid(reason=reason)
