"""Remedies for arguments of torch's functions that pass no gradient on to a hyperparameter."""

from __future__ import annotations

import re

_NUMBER = r"argument '{}' \(position \d+\) must be (?:float|Number), not Tensor"
# A pattern in torch's message → what to do; the first match counts.
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"'(?:nll_loss|multi_margin_loss|cross_entropy)\w*' is not differentiable with respect to argument 'weight'",
        "Tune class weights with ClassWeights(classes), and return one loss per example, without weight=; or write "
        "them out: losses * hparams['weights'][batch['y']]. ",
    ),
    (
        r"not differentiable with respect to argument 'weight'",
        "Leave weight= out, and multiply the losses, which reduction='none' returns, by hparams['weights']. ",
    ),
    (
        r"not differentiable with respect to argument 'pos_weight'",
        "Write the loss out: -(w * y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x)), with w = hparams['weight']. ",
    ),
    (
        _NUMBER.format("label_smoothing"),
        "Tune it with LabelSmoothing(classes), and call the loss without label_smoothing=. ",
    ),
    (r"dropout\d?d?\(\): " + _NUMBER.format("p"), "Tune rates of nn.Dropout modules with Dropout(model). "),
    (
        _NUMBER.format(r"\w+"),
        "torch takes this argument as a Python number, without a gradient. Write the function out with torch.where, "
        "torch.clamp or arithmetic, which take tensors. ",
    ),
    (
        r"not differentiable with respect to argument",
        "torch has no derivative for this argument. Write the function out with arithmetic on tensors. ",
    ),
)


def hint_for(message: str) -> str:
    """What to do about a message of torch's, ending with a space; empty if the table has no entry."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, message)), "")
