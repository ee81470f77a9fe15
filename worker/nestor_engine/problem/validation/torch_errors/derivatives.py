"""Translate torch's errors about derivatives into sentences that name the operator, the module and a remedy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

from nestor_engine.program.failures import place_of_caller

_TWICE = "which torch cannot differentiate twice, as the hypergradient needs it. "
_REPLACEMENTS = {
    "embedding_bag": "Use nn.Embedding, and a sum or mean over its dimension 1.",
    "cdist": "Pass compute_mode='use_mm_for_euclid_dist' to it.",
    "ctc_loss": "Use another loss for the training, or compute this one with differentiable operators.",
    "scaled_dot_product": "Compute the attention with matmul and softmax.",
}
_MISSING = re.compile(r"derivative for '?(?:aten::)?_*(\w+?)_(?:backward|jvp)\w*'? is not implemented")

# A pattern in the message → the sentence; the first match counts.
_KNOWN: tuple[tuple[str, str], ...] = (
    (
        "aot_autograd does not currently support double backward|compiled_autograd|torch.compile",
        f"It calls a module that was compiled with torch.compile, {_TWICE}Pass the module itself.",
    ),
    (
        r"once_differentiable|appears to not have been used in the graph",
        f"It calls a torch.autograd.Function whose backward is not differentiable, {_TWICE}Write its backward with "
        "torch functions of tensors, without once_differentiable, .detach() or .data.",
    ),
    (
        r"[Cc]heckpoint.* is (?:not compatible|incompatible) with \.grad|use_reentrant",
        "It uses reentrant checkpointing (torch.utils.checkpoint), which has no second derivative. Call that part "
        "directly.",
    ),
    (
        "Inference tensors cannot be saved|Inplace update to inference tensor|inference tensor",
        "It reads a tensor that was made under torch.inference_mode(). Clone that tensor outside of it.",
    ),
    (
        "modified by an inplace operation|leaf Variable that requires grad is being used in an in-place",
        "It writes into a tensor whose value the backward pass needs. Use x = x + 1 in place of x += 1, and "
        "inplace=False.",
    ),
    (
        "backward through the graph a second time|Saved intermediate values of the graph have been freed",
        "It keeps a tensor of an earlier call together with its graph. Store tensors with .detach().",
    ),
    (
        "double backwards? is not supported|not supported for CuDNN",
        f"It calls a recurrent layer of cuDNN, {_TWICE}Run it with torch.backends.cudnn.flags(enabled=False).",
    ),
    (
        "does not require grad and does not have a grad_fn",
        "Nothing that is trained or tuned reaches the loss. Look for .detach(), .item(), argmax and torch.no_grad().",
    ),
)


def explained(error: Exception, again: Callable[[], object]) -> str | None:
    """A sentence about an error of torch that concerns derivatives; None for other errors.

    Args:
        again: runs the problem's functions, to find the line that calls the operator.
    """
    text = str(error)
    if missing := _MISSING.search(text):
        operator = missing[1]
        operator, remedy = next(
            ((name, advice) for name, advice in _REPLACEMENTS.items() if name in operator),
            (operator, "Replace it by operators that have second derivatives."),
        )
        return f"It uses {operator}{_place(operator, again)}, {_TWICE}{remedy}"
    return next((sentence for pattern, sentence in _KNOWN if re.search(pattern, text)), None)


class _Calls(TorchFunctionMode):
    """Records where a function of torch is called first."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self.place = name, ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.place and self._name in str(getattr(func, "__name__", "")):
            self.place = place_of_caller()
        return func(*args, **(kwargs or {}))


def _place(operator: str, again: Callable[[], object]) -> str:
    calls = _Calls(operator)
    with contextlib.suppress(Exception), calls:
        again()
    return calls.place
