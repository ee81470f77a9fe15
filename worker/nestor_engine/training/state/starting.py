"""A problem that starts from what another trajectory reached."""

from __future__ import annotations

from dataclasses import replace

from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.tensors.layout import Layout
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.state.matching import expect_names, expect_same
from nestor_engine.training.state.state import State


def start_from(bilevel: Bilevel, reached: State | Tensors) -> Bilevel:
    """The problem with the result of another trajectory as its initial values.

    Args:
        reached: a whole state, or hyperparameters alone.

    Raises:
        StateInvalid: `reached` belongs to another problem; the message names the first difference.
    """
    if not isinstance(reached, State):
        expect_same("hyperparameter", reached, bilevel.hparams)
        return replace(bilevel, hparams=_in_order(reached, bilevel.hparams))
    reached = reached.with_layout(bilevel.params)
    expect_names(reached.params, reached.buffers, reached.hparams, bilevel)
    params = Ravel(bilevel.params).tree(Layout.of(bilevel.params).vector(reached.params))
    hparams = _in_order(reached.hparams, bilevel.hparams)
    return replace(bilevel, params=params, buffers=reached.buffers, hparams=hparams, initial=_as_reached)


def _in_order(tensors: Tensors, wanted: Tensors) -> Tensors:
    """A file has another order than the problem, whose order users see."""
    return {name: tensors[name] for name in wanted}


def _as_reached(params: PyTree, values: Tensors) -> PyTree:
    """The weights of a trajectory are initialized already."""
    del values
    return params
