"""Check that the gradients of the two losses reach what they are to train and to tune."""

from __future__ import annotations

from torch import Tensor

from nestor.errors import GradientNotFinite, LossDetached, ParameterUnused, SecondDerivativeMissing
from nestor_engine.autodiff.gradients import grad_or_none
from nestor_engine.objective import Tensors
from nestor_engine.problem.validation.functions import leaves, once_differentiable
from nestor_engine.problem.validation.report import Findings

Slopes = dict[str, Tensor | None]  # None for a tensor that the loss does not depend on


def check_training_gradient(
    findings: Findings, criterion: Tensor, penalty: Tensor, params: Tensors, *, twice: bool
) -> bool:
    """Look for parameters that the criterion does not train; whether it trains any.

    The criterion is looked at alone: a decay moves every weight, also those of a part that is detached from the loss.

    Args:
        twice: whether second derivatives will be taken.
    """
    reached = _slopes(criterion, params)
    if all(slope is None for slope in reached.values()):
        findings.error(
            "train_loss",
            "No parameter reaches it: look for .detach(), .item(), argmax or torch.no_grad().",
            LossDetached,
        )
        return False
    for name, slope in reached.items():
        if slope is not None and not slope.isfinite().all():
            findings.error(
                f"parameter {name!r}",
                "The gradient of train_loss with respect to it is NaN or infinite. Look for sqrt, norm or a division "
                "at zero.",
                GradientNotFinite,
            )
    for name in once_differentiable(criterion) if twice else ():
        findings.error(
            "train_loss",
            f"The backward of the torch.autograd.Function {name} is not differentiable, so that its part of the "
            "second derivatives would be zero. Write it with torch functions of the gradient that it is given, "
            "without once_differentiable, .detach() and NumPy.",
            SecondDerivativeMissing,
        )
    decayed = _slopes(penalty, params)
    for name, slope in reached.items():
        if slope is None or not slope.any():
            sentence = _untrained(reached=slope is not None, decayed=decayed[name] is not None)
            findings.warning(f"parameter {name!r}", sentence, ParameterUnused)
    return True


def check_validation_gradient(findings: Findings, loss: Tensor, params: Tensors, hparams: Tensors) -> None:
    """Check that the validation loss has a gradient by the weights or by the hyperparameters."""
    slopes = [*_slopes(loss, params).values(), *_slopes(loss, hparams).values()]
    if all(slope is None for slope in slopes):
        findings.error(
            "val_loss",
            "It has no gradient, so there is nothing to tune by. An accuracy has none, nor has what passed through "
            ".detach(), .item() or argmax. Return a differentiable loss, and report others as metrics.",
            LossDetached,
        )
    elif not any(slope is not None and slope.any() for slope in slopes):
        findings.warning(
            "val_loss",
            "Its gradient is exactly zero, so there is nothing to tune by. Look for sign, round or argmax.",
            LossDetached,
        )


def check_leaves(findings: Findings, where: str, loss: Tensor, known: list[Tensor]) -> None:
    """Look for tensors that the author perhaps expects to be trained, and that are no part of the problem.

    Args:
        known: the parameters and the hyperparameters.
    """
    others = [leaf for leaf in leaves(loss) if not any(leaf is one for one in known)]
    if others:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in others)
        findings.warning(
            where,
            f"It reads tensors that require gradients and are no parameters of the model; shapes: {shapes}. They will "
            "keep their values. To train them, make their module a part of the model; to tune them, pass them as "
            "hyperparameters; otherwise call requires_grad_(False) on them.",
            ParameterUnused,
        )


def _untrained(*, reached: bool, decayed: bool) -> str:
    if reached:
        return (
            "The gradient of train_loss with respect to it is exactly zero. Look for sign, round or argmax behind it."
        )
    if decayed:
        return (
            "It does not reach train_loss: only its decay will move it. Look for .detach(), torch.no_grad() and "
            "reentrant checkpointing, or freeze it with requires_grad_(False)."
        )
    return "It does not reach the training loss, so it will keep its value."


def _slopes(value: Tensor, at: Tensors) -> Slopes:
    if not value.requires_grad:
        return dict.fromkeys(at)
    return dict(zip(at, grad_or_none(value, list(at.values()), retain_graph=True), strict=True))
