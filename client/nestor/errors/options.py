"""Options with values that cannot work, alone or together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nestor.errors.requests import InvalidInput


class ConfigInvalid(InvalidInput):
    """An option has a value that cannot work."""


class OptionInvalid(ConfigInvalid):
    """An option has a value that it does not take."""

    message = "{option}: {rule}."


class OptionOutOfRange(OptionInvalid):
    """A number or a length is outside of its range."""


class OptionTypeWrong(OptionInvalid):
    """A value has a type that the option does not take."""


class OptionUnknown(OptionInvalid):
    """There is no such option, optimizer, curvature, solver or response."""


class OptionMissing(OptionInvalid):
    """A required option was not given."""

    message = "{option} is missing."


class ChoiceUnknown(OptionInvalid):
    """A word is not one of those that the option takes."""

    def __init__(self, *, choices: Iterable[object] = (), **context: Any) -> None:
        if listed := list(choices):
            context = {"rule": f"choose one of {', '.join(map(repr, listed))}", "choices": listed, **context}
        super().__init__(**context)


class OptionGivenTwice(ConfigInvalid):
    """An option was given in two places."""

    message = "{option} is given twice: {first}, and {second}."
    remedy = "Leave one of them out."


class TooManyArguments(ConfigInvalid):
    """An option was given more values by position than it has."""

    message = "{option} takes at most {limit} values by position: {names}."


class HparamsUnused(ConfigInvalid):
    """An option names a hyperparameter that the problem does not have."""

    message = "{option} names {name!r}, but the hyperparameters are {hparams}."
    remedy = "Name one of them, or the first parts of a name."


class UnrollTooLong(OptionInvalid):
    """A response goes back further than the inner steps reach."""

    message = (
        "{option}: it goes back further than the {inner_steps} inner steps between two outer steps; raise inner_steps, "
        "or unroll fewer."
    )


class ValidationTrains(OptionInvalid):
    """The examples that steer the hyperparameters were to train the weights, too."""

    message = (
        "{option}: the validation examples steer the hyperparameters, so they cannot train the weights at the same "
        "time; leave out train_on, or train under fixed hyperparameters with response=Frozen()."
    )


class LossMaximized(OptionInvalid):
    """A study was to rank by the highest validation loss."""

    message = (
        "{option}: only a metric can be maximized, because hypergradients minimize val_loss; name it with metric=…, or "
        "return from val_loss the negative of what should grow."
    )


class NesterovWithoutMomentum(OptionInvalid):
    """Nesterov's momentum was asked for without momentum."""

    message = "{option}: nesterov=True needs momentum: pass momentum=0.9, or nesterov=False."


class AugmentationAmbiguous(ConfigInvalid):
    """Augmentation was given a network and channels, or neither."""

    message = "Augmentation takes either a network, or channels=… for a small U-Net."
    remedy = "Pass one of them."


class SquaredGradientsMissing(OptionInvalid):
    """A preconditioner needs an inner optimizer that stores squared gradients."""

    message = (
        "{option}: {preconditioner} reads squared gradients, which the inner optimizer does not keep; use Adam, AdamW "
        "or RMSprop as the inner optimizer, or NystromSketch as the preconditioner."
    )


class InnerRateMissing(OptionInvalid):
    """The inner optimizer was to find its learning rate by itself."""

    message = "{option}: lr='auto' is for the outer optimizer; pass the inner optimizer a number, such as Adam(1e-3)."


class PreconditionerUnavailable(ConfigInvalid):
    """A preconditioner needs a curvature, and the operator is a bare matrix."""

    message = "This preconditioner reads the training loss, and the operator is not that of a curvature."
    remedy = "Use NystromSketch, which needs products only."


class MatrixTooLarge(ConfigInvalid):
    """A direct solver would build too large a matrix."""

    message = "Direct() would build a matrix of {n:,} × {n:,}; it is for at most {limit:,} weights."
    remedy = "Use ConjugateGradient or PreconditionedCG."


class BatchNotDivisible(ConfigInvalid):
    """A batch has fewer examples than there are devices."""

    message = "{n} examples cannot be divided among {devices} devices."
    remedy = "Use larger batches, more data, or fewer devices."


class CurvatureNotDistributed(OptionInvalid):
    """A curvature cannot be computed by several devices together."""

    message = "{option}: {curvature} needs whole batches, which {devices} devices divide among them."
    remedy = "Use GaussNewton, or another preconditioner, or one device."


class OneDeviceOnly(ConfigInvalid):
    """A trial in the user's own process was given several devices."""

    message = "In this process a trial runs on one device."
    remedy = "Leave devices_per_trial=1, or use a server's study."


class TooFewDevices(ConfigInvalid):
    """A trial should take more devices than there are."""

    message = "{option} is {wanted}, but there are {devices} devices here."
    remedy = "Set it to fewer."


class TooManySteps(ConfigInvalid):
    """A trial would count more steps than it can."""

    message = "That makes {n_steps:,} steps in all; a trial takes at most {limit:,}."
    remedy = "Ask for fewer."


class CallbacksWithoutWait(ConfigInvalid):
    """Callbacks were given to a call that does not wait."""

    message = "Callbacks require wait=True."
    remedy = "Use wait=True, or loop over trial.stream()."


class SearchSpaceInvalid(ConfigInvalid):
    """A name or a value of a search's space cannot be used."""

    message = "The search space has {name!r}: {reason}."
    remedy = "Names are options, such as 'inner.lr' and 'n_steps', and keys of the dictionary that problem_fn gets."


class SamplerFailed(ConfigInvalid):
    """A sampler of Optuna could not propose values for a search's space; its error is the `__cause__`."""

    message = "{sampler} cannot propose values for this search space: {reason}."
    remedy = "Change the space, or pass another sampler."


class FoldsWithExampleHparams(ConfigInvalid):
    """Folds were asked for with hyperparameters of single training examples."""

    message = (
        "Some hyperparameters have an entry for each training example, and folds make other examples training "
        "examples from step to step."
    )
    remedy = "Leave folds out, or tune other kinds."


class AttributesNotJson(ConfigInvalid):
    """User attributes are not what JSON can hold."""

    message = "User attributes must be what JSON can hold: {reason}."
    remedy = "{advice}"


class AttributesTooLarge(OptionInvalid):
    """The user attributes of one study or trial are too many."""

    message = "{option}: they take {size} bytes as JSON, and at most {limit} are kept."
    remedy = "Remove some, or keep large values elsewhere and their address here."
