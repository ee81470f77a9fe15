"""A small program that both sides take, written by hand: a linear classifier with one L2 strength."""

from __future__ import annotations

from typing import Any

import numpy as np

Document = dict[str, Any]


def ref(index: int) -> Document:
    return {"ref": index}


def columns(**values: int) -> Document:
    """A flat dict of values, by their numbers."""
    return {"dict": [[name, ref(index)] for name, index in values.items()]}


def call(op: str, *args: Any, **kwargs: Any) -> Document:
    return {"op": op, "args": list(args), "kwargs": kwargs}


def graph(inputs: list[Any], nodes: list[Any], outputs: Any, constants: list[str] | None = None) -> Document:
    return {"inputs": inputs, "constants": constants or [], "nodes": nodes, "outputs": outputs}


def l2() -> Document:
    return {"transform": "exp", "bounds": [-20, None], "prior": 0, "by_position": None, "of": "w", "axes": ["row"]}


def document(torch: str = "2.13") -> Document:
    """A new one at each call, so that a test may change it."""
    without_autograd = graph([ref(0)], [call("aten.detach.default", ref(0))], {"tuple": [ref(1)]})
    return {
        "format": 4,
        "torch": torch,
        "hparams": {"l2": l2()},
        "graphs": {
            "prepare": graph([columns(l2=0), columns(x=1, y=2)], [], columns(x=1, y=2)),
            "forward": graph(
                [columns(w=0), columns(), columns(l2=1), columns(x=2)],
                [
                    call("aten.linear.default", ref(2), ref(0)),
                    call("aten.add.Tensor", ref(4), ref(3), alpha=1.0),
                    {"region": "grad", "options": [False], "graph": without_autograd, "args": [ref(5)]},
                    call("operator.getitem", ref(6), 0),
                    call("aten.to.dtype", ref(5), {"dtype": "float32"}),
                ],
                {"tuple": [ref(8), columns()]},
                ["mask"],
            ),
            "criterion": graph(
                [ref(0), columns(l2=1), columns(y=2)],
                [call("aten.cross_entropy_loss.default", ref(0), ref(2))],
                ref(3),
            ),
            "penalty": graph([columns(w=0), columns(l2=1)], [call("aten.sum.default", ref(0))], ref(2)),
            "predict": graph(
                [columns(w=0), columns(), columns(l2=1), columns(x=2)],
                [call("aten.linear.default", ref(2), ref(0))],
                ref(3),
            ),
            "val_loss": graph(
                [ref(0), columns(l2=1), columns(y=2)],
                [call("aten.cross_entropy_loss.default", ref(0), ref(2), None, 1)],
                ref(3),
            ),
        },
        "metrics": {
            "largest": graph(
                [ref(0), columns(l2=1), columns()],
                [call("aten.amax.default", ref(0)), call("aten.ones_like.default", ref(2))],
                {"tuple": [ref(2), ref(3)]},
            ),
        },
    }


TENSORS = {
    "params.w": np.zeros((2, 3), np.float32),
    "hparams.l2": np.zeros(1, np.float32),
    "constants.mask": np.array([0, -np.inf], np.float32),
}
